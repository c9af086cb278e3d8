//! The report of an experiment: plots as SVG, one HTML page without network, and a table for the terminal.
//!
//! - [`metrics`]: what is reported of a run, and in which unit
//! - [`summary`]: medians and intervals of each strategy, the ranking, paired differences
//! - [`figures`], [`sweep`]: the plots
//! - [`page`]: the HTML page
//! - [`terminal`]: tables of text
//! - [`versus`]: two folders of results beside each other

use std::path::Path;

use crate::plot;
use crate::results::{Results, ResultsError, write_file};

pub mod figures;
pub mod metrics;
pub mod page;
pub mod summary;
pub mod sweep;
pub mod terminal;
pub mod versus;

/// The name of the page in a folder of results.
pub const PAGE: &str = "report.html";

/// Writes `report.html` and `plots/*.svg` into a folder. `folder` is also how the page names it in commands.
/// With `against`, the results of another tier, the page shows in what the two disagree.
///
/// # Errors
/// If a file cannot be written, or if `run.json` has no valid experiment.
pub fn write(folder: &Path, results: &Results, against: Option<&Results>) -> Result<(), ResultsError> {
    let page = page::Page::new(folder, results, against)?;
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots).map_err(ResultsError::io("create", &plots))?;
    for figure in page.figures() {
        let path = plots.join(format!("{}.svg", figure.name));
        write_file(&path, plot::standalone(&figure.svg).as_bytes())?;
    }
    let html = page.html().map_err(|e| ResultsError::content(&folder.join(PAGE), e))?;
    write_file(&folder.join(PAGE), html.as_bytes())
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
