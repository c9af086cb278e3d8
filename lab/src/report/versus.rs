//! Two folders of results beside each other: two versions, two machines, or two tiers.

use super::metrics::METRICS;
use super::terminal::table;
use crate::plot::Unit;
use crate::results::Results;
use crate::statistics::comparison::Runs;
use crate::statistics::{Comparison, Verdict, compare, correct, median};

/// A metric of a strategy in two folders.
#[derive(Clone, Debug)]
pub struct Line {
    /// The strategy.
    pub strategy: String,
    /// The label of the metric.
    pub metric: &'static str,
    /// The unit of the metric.
    pub unit: Unit,
    /// The median of the runs of the first folder that the second has too.
    pub first: f64,
    /// The median of those runs in the second.
    pub second: f64,
    /// The paired comparison.
    pub comparison: Comparison,
}

impl Line {
    /// Second divided by first; 1 if both are equal, for 0 and for runs that never end too.
    pub fn ratio(&self) -> f64 {
        if self.first == self.second { 1.0 } else { self.second / self.first }
    }

    /// The verdict as words for a table.
    pub fn verdict(&self) -> &'static str {
        match self.comparison.verdict {
            _ if self.comparison.pairs == 0 => "no common run",
            _ if self
                .comparison
                .difference
                .is_some_and(|d| d.low == 0.0 && d.high == 0.0 && self.comparison.p == 1.0) =>
            {
                "equal"
            }
            Verdict::FirstSmaller => "the second is larger",
            Verdict::SecondSmaller => "the second is smaller",
            Verdict::NotShown => "no difference shown",
            Verdict::TooFewRuns => "too few runs to show one",
        }
    }
}

/// Compares the strategies that both folders have, in pairs of the same seed, over the points that both have.
/// One correction covers all of the comparisons.
pub fn versus(first: &Results, second: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    for strategy in first.info.strategies.iter().filter(|name| second.info.strategies.contains(name)) {
        for metric in &METRICS {
            let runs = |results: &Results| -> Runs<String> {
                let of = results.runs.iter().filter(|run| run.strategy == *strategy);
                of.map(|run| ((run.seed, run.settings.clone()), (metric.of)(run))).collect()
            };
            let (mut a, mut b) = (runs(first), runs(second));
            a.retain(|key, _| b.contains_key(key));
            b.retain(|key, _| a.contains_key(key));
            let middle =
                |runs: &Runs<String>| median(&runs.values().copied().collect::<Vec<_>>()).unwrap_or(f64::NAN);
            let (low, high) = (middle(&a), middle(&b));
            let arms = [("first".to_owned(), a), ("second".to_owned(), b)];
            lines.extend(compare(&arms).into_iter().map(|comparison| Line {
                strategy: strategy.clone(),
                metric: metric.label,
                unit: metric.unit,
                first: low,
                second: high,
                comparison,
            }));
        }
    }
    let mut comparisons: Vec<Comparison> = lines.iter().map(|line| line.comparison.clone()).collect();
    correct(&mut comparisons);
    for (line, comparison) in lines.iter_mut().zip(comparisons) {
        line.comparison = comparison;
    }
    lines
}

/// Writes the comparison as a table, with what only one folder has.
pub fn text(first: &Results, second: &Results) -> String {
    let head =
        ["strategy", "metric", "first", "second", "second/first", "difference", "95 % interval", "verdict"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in versus(first, second) {
        let difference = line.comparison.difference;
        let format = |value: f64| line.unit.format(value);
        // The second less the first: at minus infinity it ends and the first never does.
        let size = |value: f64| if value == f64::NEG_INFINITY { "ends".to_owned() } else { format(value) };
        rows.push(vec![
            line.strategy.clone(),
            line.metric.to_owned(),
            format(line.first),
            format(line.second),
            if line.ratio().is_finite() { format!("{:.3}", line.ratio()) } else { "–".to_owned() },
            difference.map_or("–".to_owned(), |d| size(d.median)),
            difference.map_or("–".to_owned(), |d| format!("{} to {}", size(d.low), size(d.high))),
            line.verdict().to_owned(),
        ]);
    }
    let mut out = table(&rows);
    for (name, one, other) in [("first", first, second), ("second", second, first)] {
        let only: Vec<&str> = one
            .info
            .strategies
            .iter()
            .filter(|strategy| !other.info.strategies.contains(strategy))
            .map(String::as_str)
            .collect();
        if !only.is_empty() {
            out.push_str(&format!("only in the {name}: {}\n", only.join(", ")));
        }
    }
    out
}

#[cfg(test)]
#[path = "versus_tests.rs"]
mod tests;
