//! Latencies with weights, in buckets of 3 %.

/// Steps in a power of two.
const STEPS: u64 = 32;
/// The power of two, in seconds, of the first bucket: about a nanosecond.
const FIRST: i64 = -30;
/// Number of powers of two: up to 2^24 s, half a year.
const POWERS: u64 = 54;

/// A histogram of seconds. The weight of a value need not be a whole number.
#[derive(Clone, Debug)]
pub struct Histogram {
    weights: Vec<f64>,
    total: f64,
    most: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { weights: vec![0.0; (POWERS * STEPS) as usize], total: 0.0, most: 0.0 }
    }
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, seconds: f64, weight: f64) {
        if !(weight > 0.0 && seconds.is_finite()) {
            return;
        }
        let bits = seconds.max(1e-9).to_bits();
        let power = ((bits >> 52) & 0x7ff) as i64 - 1023 - FIRST;
        let step = (bits >> 47) & (STEPS - 1);
        let index = (power.clamp(0, POWERS as i64 - 1) as u64 * STEPS + step) as usize;
        self.weights[index] += weight;
        self.total += weight;
        self.most = self.most.max(seconds);
    }

    /// Returns the value below which this share of the weights lies, 0 to 1; 0 if there is none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut left = self.total * share;
        for (index, weight) in self.weights.iter().enumerate() {
            left -= weight;
            if *weight > 0.0 && left <= 0.0 {
                let (power, step) = (index as u64 / STEPS, index as u64 % STEPS);
                let low = f64::from_bits(((power as i64 + FIRST + 1023) as u64) << 52);
                let value = low * (1.0 + (step as f64 + 0.5) / STEPS as f64);
                return value.min(self.most);
            }
        }
        self.most
    }

    /// The greatest value.
    pub fn most(&self) -> f64 {
        self.most
    }

    /// The sum of the weights.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.weights.fill(0.0);
        (self.total, self.most) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.add(f64::from(ms) / 1e3, 0.5);
        }
        for share in [0.1, 0.5, 0.99] {
            assert!((histogram.quantile(share) / share - 1.0).abs() < 0.032, "{}", histogram.quantile(share));
        }
        assert_eq!((histogram.quantile(1.0), histogram.most(), histogram.total()), (1.0, 1.0, 500.0));
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
    }
}
