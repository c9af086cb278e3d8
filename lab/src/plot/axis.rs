//! Scales, ticks, and numbers with their units.

const TIMES: &[(f64, &str)] =
    &[(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")];
const BYTES: &[(f64, &str)] = &[
    (1_125_899_906_842_624.0, "PiB"),
    (1_099_511_627_776.0, "TiB"),
    (1_073_741_824.0, "GiB"),
    (1_048_576.0, "MiB"),
    (1024.0, "KiB"),
    (1.0, "B"),
];
const COUNTS: &[(f64, &str)] = &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];

/// The unit of values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number.
    Plain,
    /// A ratio, as in 1.5×.
    Ratio,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Bytes each second.
    Rate,
    /// A share, 0 to 1.
    Share,
}

impl Unit {
    /// Writes a value with the part of the unit that suits its size: `1.5 s`, `20 ms`, `3.2 GiB`. Infinity is
    /// `never`, and a value that does not exist is a dash.
    pub fn format(self, value: f64) -> String {
        if value.is_nan() {
            return "–".to_owned();
        }
        if value.is_infinite() {
            return "never".to_owned();
        }
        let (factor, name) = self.part(value.abs());
        format!("{}{name}", digits(value / factor))
    }

    /// Writes a difference with two digits, or one without a size as `0`.
    pub fn short(self, value: f64) -> String {
        let (factor, name) = self.part(value.abs());
        let size = value.abs() / factor;
        let places = if size >= 9.95 || size == 0.0 {
            0
        } else if size >= 0.995 {
            1
        } else {
            2
        };
        format!("{:.places$}{name}", value / factor)
    }

    /// Writes a power of ten. Times stay in seconds, as 1000 s is a decade and 16.7 min is not.
    fn format_decade(self, value: f64) -> String {
        let seconds = match self {
            Unit::Seconds => value,
            Unit::Millis => value * 1e-3,
            Unit::Micros => value * 1e-6,
            _ => 0.0,
        };
        if seconds >= 1.0 { format!("{} s", digits(seconds)) } else { self.format(value) }
    }

    /// The factor and the name of the part of the unit that suits values of this size.
    fn part(self, size: f64) -> (f64, String) {
        let (parts, scale, suffix) = match self {
            Unit::Ratio => return (1.0, "×".to_owned()),
            Unit::Share => return (0.01, " %".to_owned()),
            Unit::Plain if size < 1e4 => return (1.0, String::new()),
            Unit::Plain => (COUNTS, 1.0, ""),
            Unit::Seconds => (TIMES, 1.0, ""),
            Unit::Millis => (TIMES, 1e-3, ""),
            Unit::Micros => (TIMES, 1e-6, ""),
            Unit::Bytes => (BYTES, 1.0, ""),
            Unit::Rate => (BYTES, 1.0, "/s"),
        };
        // 151 s rather than 2.52 min, and 90 min rather than 1.5 h.
        let reach = |factor: f64| match factor {
            60.0 if parts == TIMES => 600.0,
            3600.0 | 86_400.0 if parts == TIMES => 2.0 * factor,
            _ => factor,
        };
        let own = parts.iter().find(|(factor, _)| *factor == scale);
        let fitting =
            parts.iter().find(|(factor, _)| size * scale >= reach(*factor) * 0.9999).or(parts.last());
        let (factor, name) =
            if size == 0.0 { own.or(parts.last()) } else { fitting }.copied().unwrap_or((1.0, ""));
        (factor / scale, format!(" {name}{suffix}"))
    }
}

/// Three significant digits, without zeros at the end.
fn digits(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        return format!("{value:.2e}");
    }
    let places = match size {
        s if s >= 99.95 || s == 0.0 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.1 => 2,
        s if s >= 0.001 => 4,
        _ => 6,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A multiple of a step, with as many places as the step has.
fn in_steps(value: f64, step: f64) -> String {
    let places = (0..9).find(|places| step * 10_f64.powi(*places) >= 0.999).unwrap_or(9) as usize;
    let text = format!("{value:.places$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".to_owned() } else { text }
}

/// An axis of a chart.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    /// The text beside it.
    pub title: String,
    /// The unit of its values.
    pub unit: Unit,
    /// True if equal distances are equal factors. Values that are not above 0 are left out then.
    pub log: bool,
    /// True if it begins at 0, which bars and sizes need.
    pub zero: bool,
    /// Ticks with their labels, for values that are known; empty if ticks are to be chosen.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Creates a linear axis that begins at 0.
    pub fn new(title: &str, unit: Unit) -> Self {
        Axis { title: title.to_owned(), unit, log: false, zero: true, ticks: Vec::new() }
    }

    /// Makes it logarithmic.
    pub fn log(self) -> Self {
        Axis { log: true, zero: false, ..self }
    }

    /// Lets it begin near the least value.
    pub fn tight(self) -> Self {
        Axis { zero: false, ..self }
    }

    /// Gives it ticks at known values.
    pub fn ticks(self, ticks: Vec<(f64, String)>) -> Self {
        Axis { ticks, ..self }
    }

    /// Makes it logarithmic if the values are all above 0 and the largest is more than 40 times the smallest.
    pub fn fitting(self, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = extent(values.filter(|value| value.is_finite()));
        if low > 0.0 && high > 40.0 * low { self.log() } else { self }
    }

    /// True if the axis can show the value.
    pub(crate) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    /// Chooses range and ticks for the values, which must be ones that the axis shows.
    pub(crate) fn scale(&self, values: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = extent(values);
        let (low, high) = if low > high { (if self.log { 1.0 } else { 0.0 }, 1.0) } else { (low, high) };
        if !self.ticks.is_empty() {
            let margin = (high - low).max(low.abs() * 0.01) * 0.03;
            let (low, high) = if self.log { (low / 1.1, high * 1.1) } else { (low - margin, high + margin) };
            return Scale { low, high, log: self.log, ticks: self.ticks.clone() };
        }
        // A linear axis has the unit of its largest value; ticks of a logarithmic one differ too much.
        let part = self.unit.part(high.abs().max(low.abs()));
        let (low, high, ticks) = if self.log { decades(low, high) } else { self.steps(low, high, part.0) };
        let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min) / part.0;
        let label = |value: f64| match self.log {
            true => self.unit.format_decade(value),
            false => format!("{}{}", in_steps(value / part.0, step), part.1),
        };
        let ticks = ticks.into_iter().map(|value| (value, label(value))).collect();
        Scale { low, high, log: self.log, ticks }
    }

    fn steps(&self, low: f64, high: f64, factor: f64) -> (f64, f64, Vec<f64>) {
        let low = if self.zero { low.min(0.0) } else { low };
        let high = if high > low { high } else { low + if low == 0.0 { 1.0 } else { low.abs() * 0.1 } };
        let step = nice((high - low) / factor / 5.0) * factor;
        let (first, last) = ((low / step).floor() as i64, (high / step - 1e-9).ceil() as i64);
        let ticks: Vec<f64> = (first..=last).map(|n| n as f64 * step).collect();
        (first as f64 * step, last as f64 * step, ticks)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below the value.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= value * 0.999).unwrap_or(10.0);
    factor * power
}

fn decades(low: f64, high: f64) -> (f64, f64, Vec<f64>) {
    let (first, last) = (low.log10().floor() as i32, (high.log10() - 1e-9).ceil() as i32);
    let last = last.max(first + 1);
    let power = |n: i32| 10_f64.powi(n);
    // A few decades have room for the values between; many leave some decades out.
    let between: &[f64] = if last - first <= 1 {
        &[1.0, 2.0, 5.0]
    } else if last - first <= 3 {
        &[1.0, 3.0]
    } else {
        &[1.0]
    };
    let every = (last - first) as usize / 8 + 1;
    let mut ticks: Vec<f64> =
        (first..last).step_by(every).flat_map(|n| between.iter().map(move |f| f * power(n))).collect();
    ticks.push(power(last));
    (power(first), power(last), ticks)
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// The range and the ticks of an axis.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Scale {
    /// The value at the start.
    pub(crate) low: f64,
    /// The value at the end.
    pub(crate) high: f64,
    log: bool,
    /// Values with their labels.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// The place of a value, 0 at the start of the axis and 1 at its end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let place = if self.log {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
#[path = "axis_tests.rs"]
mod tests;
