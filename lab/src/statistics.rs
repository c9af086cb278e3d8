//! Statistics over runs: medians with intervals, paired comparisons, and a correction for many comparisons.
//!
//! The unit of repetition is a run, that is one seed. Requests within a run depend on each other, so nothing
//! here resamples them. The rules are those that Hoefler and Belli ask for ("Scientific Benchmarking of
//! Parallel Computing Systems", SC'15): the number of runs is given, no outlier is dropped, and a difference
//! that is not shown is reported as such.
//!
//! - [`bootstrap`]: the median of runs and its 95 % interval
//! - [`permutation`]: the probability of paired differences if two strategies did not differ
//! - [`comparison`]: all pairs of strategies of an experiment, with Holm's correction
//!
//! Random numbers follow from a fixed seed, so the same runs give the same intervals everywhere.

pub mod bootstrap;
pub mod comparison;
pub mod permutation;

pub use bootstrap::{Interval, RESAMPLES, interval};
pub use comparison::{Comparison, Verdict, compare, correct, holm};
pub use permutation::p_value;

/// Returns the median: the middle value, or the mean of the two in the middle. `None` without values.
/// Infinite values are allowed, for runs that did not end; NaN sorts above them.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

/// As [`median`], for values in ascending order.
pub(crate) fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let high = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(high);
    }
    let low = sorted[middle - 1];
    Some(between(low, high))
}

/// The middle of two values. That of a finite and an infinite one is the infinite one; minus infinity and
/// infinity have 0 between them.
pub(crate) fn between(low: f64, high: f64) -> f64 {
    if low == high {
        low
    } else if low.is_finite() && high.is_finite() {
        low + (high - low) / 2.0
    } else if low == -high {
        0.0
    } else {
        low + high
    }
}

/// Returns the quantile `q` (0 to 1) by linear interpolation between the values (type 7 of Hyndman and Fan,
/// the usual one). `None` without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q.clamp(0.0, 1.0) * (sorted.len().checked_sub(1)?) as f64;
    let (low, share) = (position.floor() as usize, position.fract());
    let (a, b) = (sorted[low], sorted[(low + 1).min(sorted.len() - 1)]);
    Some(if share == 0.0 || a == b { a } else { a + (b - a) * share })
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
