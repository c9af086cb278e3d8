//! Tables of text.

use super::metrics::METRICS;
use super::summary::{code, ranking};
use crate::plot::Unit;
use crate::results::Results;
use crate::statistics::Interval;

/// The most points of a sweep of which a table is printed.
const POINTS: usize = 12;

/// Returns the ranking of each point as a table.
pub fn ranking_table(results: &Results) -> String {
    let mut out = String::new();
    for (point, settings) in results.info.points.iter().enumerate().take(POINTS) {
        if !settings.is_empty() {
            out.push_str(&format!("{settings}\n"));
        }
        let mut rows = vec![vec!["strategy".to_owned(), "code".to_owned(), "moved".to_owned()]];
        rows[0].extend(METRICS.iter().map(|metric| metric.label.to_owned()));
        for row in ranking(results, point) {
            let mut cells =
                vec![row.name.clone(), code(&row.name).to_owned(), format!("{}/{}", row.moved, row.runs)];
            cells.extend(
                METRICS.iter().zip(&row.values).map(|(metric, value)| with_interval(metric.unit, value)),
            );
            rows.push(cells);
        }
        out.push_str(&table(&rows));
        out.push('\n');
    }
    if let Some(more) = results.info.points.len().checked_sub(POINTS + 1) {
        out.push_str(&format!("... and {} more points, in runs.csv\n\n", more + 1));
    }
    out.push_str("Medians over seeds; ± is half the width of the 95 % interval, if that is at least 1 %.\n");
    out
}

/// Writes a median, and half the width of its interval in percent if that is at least one.
fn with_interval(unit: Unit, value: &Interval) -> String {
    let median = unit.format(value.median);
    let percent = (value.high - value.low) / 2.0 / value.median.abs() * 100.0;
    if value.low == value.high || percent < 1.0 || value.median.is_nan() {
        median
    } else if percent.is_finite() && percent < 100.0 {
        format!("{median} ±{percent:.0}%")
    } else {
        format!("{median} ({} to {})", unit.format(value.low), unit.format(value.high))
    }
}

/// Aligns rows of cells: the first column to the left, all others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let (pad, gap) =
                (" ".repeat(widths[column] - cell.chars().count()), if column > 0 { "  " } else { "" });
            line += &if column == 0 { format!("{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
