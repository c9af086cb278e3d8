//! Figures of publications, reproduced, and figures that nobody has published.
//!
//! A [`Figure`] is a table and checks. Each is a function without arguments that gives the same on every
//! machine.

use crate::experiment::Setup;
use crate::reader::{self, LabError, Source};

mod exposure;
mod kubevirt;
mod orders;
mod storage;
mod theory;
mod tiers;

pub use kubevirt::calibrate;

/// A figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// A sentence that says what it shows, and where it comes from.
    pub title: String,
    /// The heads of the table's columns.
    pub columns: Vec<String>,
    /// The table.
    pub rows: Vec<Vec<String>>,
    /// The expectations.
    pub checks: Vec<Check>,
    /// The plot, for a page: [`crate::plot::standalone`] makes a file of it.
    pub svg: String,
}

impl Figure {
    /// The figure as text: title, table and checks.
    pub fn text(&self) -> String {
        let lines: Vec<&Vec<String>> = [&self.columns].into_iter().chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = format!("{}\n\n", self.title);
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                // Numbers are to the right, names to the left.
                text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
        for Check { text: line, seen, holds } in &self.checks {
            text += &format!("{}  {line}: {seen}\n", if *holds { "holds" } else { "FAILS" });
        }
        text
    }
}

/// An expectation of a figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// The expectation, in a sentence.
    pub text: String,
    /// The values that were seen.
    pub seen: String,
    /// True if they are as expected.
    pub holds: bool,
}

impl Check {
    fn new(text: impl Into<String>, seen: impl Into<String>, holds: bool) -> Check {
        Check { text: text.into(), seen: seen.into(), holds }
    }

    /// A value that should be within a share of what was published.
    fn near(what: &str, seen: f64, published: f64, within: f64) -> Check {
        let error = (seen / published - 1.0) * 100.0;
        Check::new(
            format!("{what} within {:.0} %", within * 100.0),
            format!("{seen:.3} instead of {published:.3} ({error:+.1} %)"),
            error.abs() <= within * 100.0,
        )
    }
}

/// Names of the figures, each with a description.
pub const FIGURES: [(&str, &str); 6] = [
    ("kubevirt-291", "KubeVirt's growing downtime limit: calibrated on one column, the other predicted"),
    ("esx-2011", "ESX's three architectures of storage migration under growing load: their orderings"),
    ("precopy-theory", "rounds of a copy against the closed form"),
    ("postcopy-order", "the order of a copy after the move: faults, and time to independence"),
    ("exposure", "seconds in which a death would cost this much, by strategy"),
    ("tiers", "the model against the block layer itself: total time, bytes and blackout at twelve points"),
];

/// Makes a figure; `None` if there is none of this name.
///
/// # Errors
/// If a file of the figure cannot be read, which only a change of the figure's own files can cause.
pub fn make(name: &str) -> Option<Result<Figure, LabError>> {
    Some(match name {
        "kubevirt-291" => kubevirt::figure(),
        "esx-2011" => storage::figure(20),
        "precopy-theory" => theory::figure(),
        "postcopy-order" => orders::figure(),
        "exposure" => exposure::figure(),
        "tiers" => tiers::figure(),
        _ => return None,
    })
}

/// The names of all figures with their descriptions, a line each.
pub fn list() -> String {
    FIGURES.iter().map(|(name, text)| format!("{name:<16}{text}\n")).collect()
}

/// Returns the name that was probably meant instead of an unknown one: `; did you mean 'x'?`, or nothing.
pub fn suggestion(name: &str) -> String {
    reader::suggestion(name, FIGURES.map(|(name, _)| name))
}

/// Reads the setup of a figure.
fn setup(name: &str, text: &str) -> Result<Setup, LabError> {
    let source = Source { file: name, text };
    let root = source.parse()?;
    Setup::read(source, root.get_ref())
}

/// The median of some values; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// The mean of some values; 0 of none.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
