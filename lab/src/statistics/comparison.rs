//! Strategies against each other: each pair by the seeds that both have run.

use super::{Interval, interval, p_value, permutation::smallest};
use std::collections::BTreeMap;

/// The probability of an error that a verdict may have, over all comparisons of an experiment.
pub const LEVEL: f64 = 0.05;

/// The runs of one strategy: a value for each seed and point of the sweep.
pub type Runs<P> = BTreeMap<(u64, P), f64>;

/// Two strategies compared by one metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// The name of the first.
    pub first: String,
    /// The name of the second.
    pub second: String,
    /// Second minus first, for each seed that both have run: the median and its interval. Infinite if
    /// the second mostly never ended, minus infinity if the first did. `None` if they share no seed.
    pub difference: Option<Interval>,
    /// The number of seeds that both have run.
    pub pairs: usize,
    /// The p-value of the permutation test, before the correction.
    pub p: f64,
    /// The p-value after Holm's correction over all comparisons.
    pub adjusted: f64,
    /// The conclusion.
    pub verdict: Verdict,
}

/// The conclusion of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The first has the smaller values.
    FirstSmaller,
    /// The second has the smaller values.
    SecondSmaller,
    /// The runs show no difference. That is not the same as equal.
    NotShown,
    /// No outcome of this few runs could have shown one.
    TooFewRuns,
}

/// Compares all pairs of strategies by one metric. The seeds are the same for all strategies, so differences
/// are taken seed by seed. The points of a sweep are no repetitions: those that two strategies share give one
/// difference, their mean. The verdicts are final only after [`correct`].
pub fn compare<P: Ord>(strategies: &[(String, Runs<P>)]) -> Vec<Comparison> {
    let mut all = Vec::new();
    for (i, (first, a)) in strategies.iter().enumerate() {
        for (second, b) in &strategies[i + 1..] {
            let differences = paired(a, b);
            let p = p_value(&differences);
            let up = direction(&differences) > 0.0;
            all.push(Comparison {
                first: first.clone(),
                second: second.clone(),
                difference: interval(&differences),
                pairs: differences.len(),
                p,
                adjusted: p,
                verdict: if up { Verdict::FirstSmaller } else { Verdict::SecondSmaller },
            });
        }
    }
    all
}

/// Corrects all comparisons of an experiment, of all its metrics together, so that the probability of any
/// wrong verdict among them stays below [`LEVEL`]. Call it once.
pub fn correct(all: &mut [Comparison]) {
    let adjusted = holm(&all.iter().map(|comparison| comparison.p).collect::<Vec<_>>());
    let count = all.len() as f64;
    for (comparison, adjusted) in all.iter_mut().zip(adjusted) {
        comparison.adjusted = adjusted;
        if adjusted > LEVEL {
            let hopeless = smallest(comparison.pairs) * count > LEVEL;
            comparison.verdict = if hopeless { Verdict::TooFewRuns } else { Verdict::NotShown };
        }
    }
}

/// Second minus first for each seed that both have: the mean over the points that both have. Two runs that
/// both never ended do not differ.
fn paired<P: Ord>(first: &Runs<P>, second: &Runs<P>) -> Vec<f64> {
    let mut seeds: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (key, a) in first {
        let Some(b) = second.get(key) else { continue };
        let (sum, points) = seeds.entry(key.0).or_default();
        *sum += if a == b { 0.0 } else { b - a };
        *points += 1.0;
    }
    // If each of the two never ended at some point, neither is ahead.
    seeds.into_values().map(|(sum, points)| if sum.is_nan() { 0.0 } else { sum / points }).collect()
}

fn direction(differences: &[f64]) -> f64 {
    let infinite = differences.iter().filter(|d| d.is_infinite()).map(|d| d.signum()).sum::<f64>();
    if infinite != 0.0 { infinite } else { differences.iter().filter(|d| d.is_finite()).sum() }
}

/// Returns p-values corrected for their number (Holm, "A simple sequentially rejective multiple test
/// procedure", 1979): if all that are at most 0.05 are taken as differences, the probability that any of them
/// is not is at most 0.05.
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut adjusted = vec![0.0; values.len()];
    let mut largest = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((values[index] * (values.len() - rank) as f64).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
