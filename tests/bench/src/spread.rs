//! Medians and their spread.

use std::fmt;

/// The median of some rounds, with the smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the lower of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of these values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Spread { median: values[(values.len() - 1) / 2], min, max })
    }

    /// The spread of the quotients of corresponding values.
    pub fn ratio(above: &[f64], below: &[f64]) -> Option<Spread> {
        Spread::of(above.iter().zip(below).map(|(above, below)| above / below.max(f64::MIN_POSITIVE)))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Three significant digits, from microseconds to minutes.
        let digits = match self.median {
            small if small < 0.1 => 4,
            small if small < 10.0 => 2,
            large if large < 1000.0 => 1,
            _ => 0,
        };
        let Spread { median, min, max } = self;
        let text = format!("{median:.digits$} ({min:.digits$}..{max:.digits$})");
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 1.0, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratio = Spread::ratio(&[2.0, 30.0, 9.0], &[1.0, 10.0, 3.0]);
        assert_eq!(ratio, Some(Spread { median: 3.0, min: 2.0, max: 3.0 }));
    }
}
