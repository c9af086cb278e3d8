//! Strategies at a point of a sweep: medians with intervals, their ranking, and paired differences.

use std::collections::BTreeMap;

use super::metrics::{COMPARED, METRICS};
use crate::presets::{DISK, Described, RAM};
use crate::record::RunRecord;
use crate::results::Results;
use crate::statistics::comparison::Runs;
use crate::statistics::{Comparison, Interval, compare, correct, interval};

/// A strategy at a point.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The number of the strategy in the experiment, which is its colour too.
    pub strategy: usize,
    /// Its name.
    pub name: String,
    /// The number of its runs.
    pub runs: usize,
    /// The number of those that moved the guest in time.
    pub moved: usize,
    /// For each of [`METRICS`] the median with its interval.
    pub values: Vec<Interval>,
}

/// Returns the strategies at a point, the best first: those that move the guest most reliably, and of those
/// the one from which the source is independent first.
pub fn ranking(results: &Results, point: usize) -> Vec<Row> {
    let mut by_strategy: BTreeMap<usize, Vec<&RunRecord>> = BTreeMap::new();
    for run in results.runs.iter().filter(|run| run.point == point) {
        if let Some(strategy) = results.info.strategies.iter().position(|name| *name == run.strategy) {
            by_strategy.entry(strategy).or_default().push(run);
        }
    }
    let mut rows: Vec<Row> = by_strategy
        .into_iter()
        .map(|(strategy, runs)| Row {
            strategy,
            name: results.info.strategies[strategy].clone(),
            runs: runs.len(),
            moved: runs.iter().filter(|run| run.converged).count(),
            values: METRICS.iter().map(|metric| spread(&runs, metric.of)).collect(),
        })
        .collect();
    rows.sort_by(|a, b| {
        let moved = (b.moved * a.runs).cmp(&(a.moved * b.runs));
        moved.then(a.values[0].median.total_cmp(&b.values[0].median))
    });
    rows
}

/// The median of runs with its interval; NaN without runs.
fn spread(runs: &[&RunRecord], of: fn(&RunRecord) -> f64) -> Interval {
    let values: Vec<f64> = runs.iter().map(|run| of(run)).collect();
    let none = Interval { low: f64::NAN, median: f64::NAN, high: f64::NAN, n: 0 };
    interval(&values).unwrap_or(none)
}

/// Compares all pairs of strategies by each metric of [`COMPARED`], in pairs of one seed, with one correction
/// over all of them. The outer list is that of the metrics.
pub fn differences(results: &Results) -> Vec<Vec<Comparison>> {
    let mut all = Vec::new();
    let mut lengths = Vec::new();
    for metric in COMPARED.map(|index| &METRICS[index]) {
        let arms: Vec<(String, Runs<usize>)> = results
            .info
            .strategies
            .iter()
            .map(|name| {
                let runs = results.runs.iter().filter(|run| run.strategy == *name);
                (name.clone(), runs.map(|run| ((run.seed, run.point), (metric.of)(run))).collect())
            })
            .collect();
        let found = compare(&arms);
        lengths.push(found.len());
        all.extend(found);
    }
    correct(&mut all);
    let mut rest = all.into_iter();
    lengths.into_iter().map(|length| rest.by_ref().take(length).collect()).collect()
}

/// The descriptions of the presets of a strategy, the disk's first. A strategy of the reader's own has none.
pub fn presets(strategy: &str) -> Vec<&'static Described> {
    let bare = |name: &'static str| name.split('(').next().unwrap_or(name);
    let mut found = Vec::new();
    for (i, part) in strategy.split('+').enumerate() {
        let part = part.split('(').next().unwrap_or(part);
        let of = |list: &'static [Described]| list.iter().find(|preset| bare(preset.name) == part);
        let second = i > 0;
        found.extend(if second { of(&RAM) } else { of(&DISK).or_else(|| of(&RAM)) });
    }
    found
}

/// Says which code a strategy is: that of the shipped program, or only a model of one.
pub fn code(strategy: &str) -> &'static str {
    let presets = presets(strategy);
    let shipped = presets.iter().filter(|preset| preset.shipped).count();
    match (shipped, presets.len()) {
        (_, 0) => "own",
        (0, _) => "model",
        (some, all) if some == all => "shipped",
        _ => "in part",
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
