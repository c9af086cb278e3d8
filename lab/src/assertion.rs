//! Assertions: what has to hold for an experiment's results, so that it is a test.

use serde_json::Value;

use crate::presets::Strategy;
use crate::reader::{LabError, Table, suggestion};
use crate::record::{INFINITE, RunRecord};
use crate::units;

/// The figure that the runs of a strategy are reduced to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Statistic {
    /// Each of them.
    All,
    /// The median.
    Median,
    /// The mean.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The 99th percentile.
    P99,
}

/// A line of `[assert]`: `"STRATEGY.METRIC[.STATISTIC]" = "<10ms"`.
#[derive(Clone, PartialEq, Debug)]
pub struct Assertion {
    /// The line as the file writes it.
    pub text: String,
    /// The strategy's name.
    pub strategy: String,
    /// The column of `runs.csv`.
    pub column: String,
    /// The figure that its values are reduced to.
    pub statistic: Statistic,
    /// `<`, `<=`, `>`, `>=` or `=`.
    pub relation: String,
    /// The limit, in the unit of the column.
    pub limit: f64,
}

/// The result of an assertion.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked {
    /// True if it holds.
    pub holds: bool,
    /// The values that were seen, at each point of the sweep.
    pub seen: String,
}

const STATISTICS: [(&str, Statistic); 6] = [
    ("all", Statistic::All),
    ("median", Statistic::Median),
    ("mean", Statistic::Mean),
    ("min", Statistic::Min),
    ("max", Statistic::Max),
    ("p99", Statistic::P99),
];
/// Endings of columns, each with the parts of a second that its unit is.
const TIMES: [(&str, f64); 3] = [("_s", 1.0), ("_ms", 1e3), ("_us", 1e6)];

impl Assertion {
    /// Reads the lines of `[assert]`.
    ///
    /// # Errors
    /// The first that names no strategy or metric, or that has an impossible value.
    pub fn read_all(table: &Table<'_>, strategies: &[Strategy]) -> Result<Vec<Assertion>, LabError> {
        let source = table.source();
        let mut all = Vec::new();
        for (key, span, value) in table.entries() {
            let wrong = |text: String| source.error(span.clone(), format!("assert '{key}': {text}"));
            let Some(text) = value.get_ref().as_str() else {
                return Err(wrong("give a text, as in \"<10ms\" or \"all\"".to_owned()));
            };
            all.push(Self::parse(key, text, strategies).map_err(wrong)?);
        }
        Ok(all)
    }

    fn parse(key: &str, text: &str, strategies: &[Strategy]) -> Result<Assertion, String> {
        let names: Vec<String> = strategies.iter().map(Strategy::name).collect();
        let found =
            names.iter().find_map(|name| Some((name, key.strip_prefix(name.as_str())?.strip_prefix('.')?)));
        let Some((strategy, rest)) = found else {
            let hint = suggestion(key.split('.').next().unwrap_or(key), names.iter().map(String::as_str));
            return Err(format!("begins with no strategy of [strategies]{hint}"));
        };
        let (metric, statistic) = match rest.rsplit_once('.') {
            Some((metric, word)) => {
                let known = STATISTICS.iter().find(|(name, _)| *name == word);
                let names = STATISTICS.map(|(name, _)| name);
                let hint = || suggestion(word, names);
                (metric, known.ok_or_else(|| format!("unknown statistic '{word}'{}", hint()))?.1)
            }
            None => (rest, Statistic::Median),
        };
        let columns = columns();
        let fits = |column: &&String| {
            *column == metric || TIMES.iter().any(|(unit, _)| column.strip_suffix(unit) == Some(metric))
        };
        let Some(column) = columns.iter().find(fits).cloned() else {
            let hint = suggestion(metric, columns.iter().map(String::as_str));
            return Err(format!("unknown metric '{metric}'{hint}"));
        };
        let line = format!("{key} {text}");
        if text == "all" || text == "none" {
            let limit = if text == "all" { 1.0 } else { 0.0 };
            let (relation, statistic) = ("=".to_owned(), Statistic::All);
            return Ok(Assertion {
                text: line,
                strategy: strategy.clone(),
                column,
                statistic,
                relation,
                limit,
            });
        }
        let relation = ["<=", ">=", "<", ">", "="].into_iter().find(|relation| text.starts_with(relation));
        let relation = relation.ok_or("give all, none, or <, <=, >, >= or = with a value")?;
        let value = text[relation.len()..].trim();
        let unit = TIMES.iter().find(|(unit, _)| column.ends_with(unit));
        let limit = match unit {
            Some((_, parts)) => units::time(value).map(|seconds| seconds * parts),
            None if column.ends_with("_bytes") => units::size(value).map(|bytes| bytes as f64),
            None => value.parse().ok(),
        };
        let limit = limit
            .or_else(|| value.parse().ok())
            .ok_or_else(|| format!("'{value}' is no value of {column}"))?;
        let relation = relation.to_owned();
        Ok(Assertion { text: line, strategy: strategy.clone(), column, statistic, relation, limit })
    }

    /// Looks whether it holds for the runs of an experiment, at each point of the sweep.
    pub fn check(&self, records: &[RunRecord]) -> Checked {
        let mut values: Vec<(usize, f64)> = Vec::new();
        for record in records.iter().filter(|record| record.strategy == self.strategy) {
            values.extend(judged(record, &self.column).map(|value| (record.point, value)));
        }
        if values.is_empty() {
            return Checked { holds: false, seen: "no run of that strategy".to_owned() };
        }
        values.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut seen = Vec::new();
        let mut holds = true;
        for runs in values.chunk_by(|a, b| a.0 == b.0) {
            let of =
                |share: f64| runs[((runs.len() as f64 * share).ceil() as usize).clamp(1, runs.len()) - 1].1;
            let found = match self.statistic {
                // The one that is nearest to breaking it.
                Statistic::All if self.relation.starts_with('>') => of(0.0),
                Statistic::All if self.relation == "=" && of(0.0) != self.limit => of(0.0),
                Statistic::All | Statistic::Max => of(1.0),
                Statistic::Min => of(0.0),
                Statistic::Median => (of(0.5) + runs[runs.len() / 2].1) / 2.0,
                Statistic::Mean => runs.iter().map(|run| run.1).sum::<f64>() / runs.len() as f64,
                Statistic::P99 => of(0.99),
            };
            holds &= match self.relation.as_str() {
                "<" => found < self.limit,
                "<=" => found <= self.limit,
                ">" => found > self.limit,
                ">=" => found >= self.limit,
                _ => found == self.limit,
            };
            seen.push(format!("{found:.4}"));
        }
        Checked { holds, seen: format!("{} = {}", self.column, seen.join(", ")) }
    }
}

/// The columns of `runs.csv`, in their order.
pub fn columns() -> Vec<String> {
    match serde_json::to_value(RunRecord::default()) {
        Ok(Value::Object(fields)) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Returns a number of a run by the name of its column; true is 1 and false 0.
pub fn value(record: &RunRecord, column: &str) -> Option<f64> {
    match serde_json::to_value(record).ok()?.get(column)? {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::Number(number) => number.as_f64(),
        // JSON has no number for it.
        Value::String(text) if text == INFINITE => Some(f64::INFINITY),
        _ => None,
    }
}

/// The value of a run that an assertion is about. The end of a run that did not move is the time at which it
/// gave up, which must not count as a quick end; so it is infinite here. An error counts in both directions.
fn judged(record: &RunRecord, column: &str) -> Option<f64> {
    let value = value(record, column)?;
    Some(match column {
        "total_s" | "independence_s" | "prediction_error_percent" if !record.converged => f64::INFINITY,
        "prediction_error_percent" => value.abs(),
        _ => value,
    })
}

#[cfg(test)]
#[path = "assertion_tests.rs"]
mod tests;
