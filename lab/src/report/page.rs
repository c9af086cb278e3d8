//! The HTML page: everything of an experiment in one file, without scripts and without network.

use std::path::Path;

use askama::Template;

use super::figures::{self, Figure};
use super::metrics::{COMPARED, METRICS};
use super::summary::{self, code, differences, ranking};
use super::sweep::sweeps;
use super::versus::{Line, versus};
use crate::assertion::Checked;
use crate::experiment::Experiment;
use crate::plot::{STYLE, Unit};
use crate::results::{Results, ResultsError};
use crate::statistics::{Comparison, Interval, Verdict};

/// The most points of a sweep that get a ranking of their own in the page.
const TABLES: usize = 12;
/// The size beyond which plots are left to the folder `plots`. Tables may make the page larger.
const MOST_BYTES: usize = 3 << 20;

/// A table cell: a value, and what is beside it in small print.
struct Cell {
    value: String,
    small: String,
}

/// A row of a ranking.
struct Ranked {
    name: String,
    code: &'static str,
    moved: String,
    all_moved: bool,
    cells: Vec<Cell>,
}

/// The ranking of a point.
struct Ranking {
    settings: String,
    open: bool,
    rows: Vec<Ranked>,
}

/// A cell of a matrix of differences.
struct Difference {
    class: &'static str,
    text: String,
    title: String,
}

/// The paired differences of a metric.
struct Matrix {
    label: &'static str,
    meaning: &'static str,
    rows: Vec<(usize, String, Vec<Difference>)>,
}

/// A line of the table of two tiers.
struct Tier {
    strategy: String,
    metric: &'static str,
    first: String,
    second: String,
    ratio: String,
    far: bool,
}

/// The command that runs a point and a strategy again.
struct Replay {
    settings: String,
    command: String,
}

/// The description of a strategy's preset.
struct Described {
    strategy: String,
    code: &'static str,
    does: String,
    source: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Html<'a> {
    style: &'static str,
    name: &'a str,
    facts: Vec<(&'static str, String)>,
    labels: Vec<&'static str>,
    meanings: Vec<(&'static str, &'static str)>,
    rankings: &'a [Ranking],
    more_points: usize,
    chosen: String,
    seed: u64,
    matrices: &'a [Matrix],
    comparisons: usize,
    latency: &'a [Figure],
    own_latency: &'a [Figure],
    own_dropped: bool,
    remaining: &'a [Figure],
    pareto: &'a [Figure],
    sweeps: &'a [Figure],
    sweeps_dropped: bool,
    exposures: &'a [Figure],
    tiers: &'a [Tier],
    tier_names: &'a Option<(String, String)>,
    assertions: &'a [(String, Checked)],
    replays: &'a [Replay],
    replays_cut: bool,
    seeds: String,
    strategies: &'a [Described],
    host: &'a [(String, String)],
    text: &'a str,
}

/// The parts of a page.
pub struct Page {
    results: Results,
    middle: usize,
    rankings: Vec<Ranking>,
    matrices: Vec<Matrix>,
    comparisons: usize,
    latency: Vec<Figure>,
    own_latency: Vec<Figure>,
    remaining: Vec<Figure>,
    pareto: Vec<Figure>,
    sweeps: Vec<Figure>,
    exposures: Vec<Figure>,
    tiers: Vec<Tier>,
    tier_names: Option<(String, String)>,
    assertions: Vec<(String, Checked)>,
    replays: Vec<Replay>,
}

/// The most lines in the list of commands.
const REPLAYS: usize = 400;

impl Page {
    /// Makes the parts of a page.
    ///
    /// # Errors
    /// If the text in `run.json` is not a valid experiment.
    pub fn new(folder: &Path, results: &Results, against: Option<&Results>) -> Result<Page, ResultsError> {
        let info = &results.info;
        let experiment =
            Experiment::parse("run.json", &info.text).map_err(|e| ResultsError::content(folder, e))?;
        // The ends of a sweep are where strategies fail or cost nothing; the middle shows how they differ.
        let middle = info.points.len().saturating_sub(1) / 2;
        let all = differences(results);
        let comparisons = all.iter().map(Vec::len).sum();
        let matrices =
            COMPARED.iter().zip(&all).map(|(&metric, found)| matrix(results, metric, found)).collect();
        let (latency, own_latency) = figures::latency(results, middle);
        let lines = against.map(|other| versus(results, other)).unwrap_or_default();
        let checked = |assertion: &crate::assertion::Assertion| {
            (assertion.text.clone(), assertion.check(&results.runs))
        };
        Ok(Page {
            middle,
            rankings: (0..info.points.len().min(TABLES)).map(|point| ranked(results, point)).collect(),
            matrices,
            comparisons,
            latency,
            own_latency,
            remaining: figures::remaining(results, middle),
            pareto: figures::pareto(results, middle),
            sweeps: sweeps(results, middle),
            exposures: figures::exposures(results, middle),
            tiers: lines.iter().map(tier).collect(),
            tier_names: against.map(|other| (info.tier.clone(), other.info.tier.clone())),
            assertions: experiment.assertions.iter().map(checked).collect(),
            replays: replays(folder, results),
            results: results.clone(),
        })
    }

    /// All plots of the page.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        let groups =
            [&self.latency, &self.own_latency, &self.remaining, &self.pareto, &self.sweeps, &self.exposures];
        groups.into_iter().flatten()
    }

    /// Writes the page. If it would be larger than 3 MiB, plots are left out, and the page says so: first
    /// those of single strategies, then those of sweeps. Tables always stay.
    ///
    /// # Errors
    /// If the template fails.
    pub fn html(&self) -> Result<String, askama::Error> {
        let mut html = self.render(&self.own_latency, &self.sweeps)?;
        if html.len() > MOST_BYTES {
            html = self.render(&[], &self.sweeps)?;
        }
        if html.len() > MOST_BYTES {
            html = self.render(&[], &[])?;
        }
        Ok(html)
    }

    fn render(&self, own_latency: &[Figure], sweeps: &[Figure]) -> Result<String, askama::Error> {
        let info = &self.results.info;
        let mut strategies = Vec::new();
        for name in &info.strategies {
            let presets = summary::presets(name);
            let join = |of: fn(&crate::presets::Described) -> &str| {
                presets.iter().map(|preset| of(preset)).collect::<Vec<_>>().join(" + ")
            };
            strategies.push(Described {
                strategy: name.clone(),
                code: code(name),
                does: join(|preset| preset.does),
                source: join(|preset| preset.source),
            });
        }
        Html {
            style: STYLE,
            name: &info.experiment,
            facts: vec![
                ("tier", info.tier.clone()),
                ("runs", self.results.runs.len().to_string()),
                ("strategies", info.strategies.len().to_string()),
                ("points of the sweep", info.points.len().to_string()),
                ("seeds", seeds(&info.seeds)),
                ("version", info.version.clone()),
            ],
            labels: METRICS.iter().map(|metric| metric.label).collect(),
            meanings: METRICS.iter().map(|metric| (metric.label, metric.meaning)).collect(),
            rankings: &self.rankings,
            more_points: info.points.len().saturating_sub(TABLES),
            chosen: info.points.get(self.middle).cloned().unwrap_or_default(),
            seed: info.seeds.first().copied().unwrap_or_default(),
            matrices: &self.matrices,
            comparisons: self.comparisons,
            latency: &self.latency,
            own_latency,
            own_dropped: own_latency.len() < self.own_latency.len(),
            remaining: &self.remaining,
            pareto: &self.pareto,
            sweeps,
            sweeps_dropped: sweeps.len() < self.sweeps.len(),
            exposures: &self.exposures,
            tiers: &self.tiers,
            tier_names: &self.tier_names,
            assertions: &self.assertions,
            replays: &self.replays,
            replays_cut: self.replays.len() == REPLAYS,
            seeds: seeds(&info.seeds),
            strategies: &strategies,
            host: &info.host,
            text: &info.text,
        }
        .render()
    }
}

/// Seeds in short: a range if they are one.
fn seeds(all: &[u64]) -> String {
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if all.len() > 2 && last - first == all.len() as u64 - 1 => {
            format!("{} ({first} to {last})", all.len())
        }
        _ => all.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn cell(unit: Unit, value: &Interval) -> Cell {
    let (low, high) = (unit.format(value.low), unit.format(value.high));
    // An interval of which only digits differ that are not shown says no more than the median.
    let small = if low == high { String::new() } else { format!("{low} – {high}") };
    Cell { value: unit.format(value.median), small }
}

fn ranked(results: &Results, point: usize) -> Ranking {
    let rows = ranking(results, point).into_iter().map(|row| Ranked {
        code: code(&row.name),
        moved: format!("{} of {}", row.moved, row.runs),
        all_moved: row.moved == row.runs,
        cells: METRICS.iter().zip(&row.values).map(|(metric, value)| cell(metric.unit, value)).collect(),
        name: row.name,
    });
    let middle = results.info.points.len().saturating_sub(1) / 2;
    Ranking { settings: results.info.points[point].clone(), open: point == middle, rows: rows.collect() }
}

fn matrix(results: &Results, metric: usize, found: &[Comparison]) -> Matrix {
    let (metric, names) = (&METRICS[metric], &results.info.strategies);
    let cell = |row: &String, column: &String| {
        let forward = found.iter().find(|c| c.first == *column && c.second == *row).map(|c| (c, 1.0));
        let back = || found.iter().find(|c| c.first == *row && c.second == *column).map(|c| (c, -1.0));
        let Some((comparison, sign)) = forward.or_else(back) else {
            return Difference { class: "same", text: String::new(), title: String::new() };
        };
        let less = match comparison.verdict {
            Verdict::SecondSmaller => sign > 0.0,
            Verdict::FirstSmaller => sign < 0.0,
            Verdict::NotShown | Verdict::TooFewRuns => {
                let few = comparison.verdict == Verdict::TooFewRuns;
                let text = if few { "?" } else { "·" }.to_owned();
                let reason = if few { "too few runs to show a difference" } else { "no difference shown" };
                let title = format!("{row} and {column}: {reason}, p = {:.3}", comparison.adjusted);
                return Difference { class: "none", text, title };
            }
        };
        let median = comparison.difference.map_or(f64::NAN, |difference| difference.median * sign);
        let size = metric.unit.short(median.abs());
        // One of the two mostly never ends, or a few runs that never end outweigh all others.
        let (up, down) = if !median.is_finite() || less != (median < 0.0) {
            ("never".to_owned(), "ends".to_owned())
        } else {
            (format!("+{size}"), format!("−{size}"))
        };
        let title = format!("{row} less {column}, p = {:.2e} after correction", comparison.adjusted);
        Difference { class: if less { "less" } else { "more" }, text: if less { down } else { up }, title }
    };
    let rows = names
        .iter()
        .enumerate()
        .map(|(i, row)| (i + 1, row.clone(), names.iter().map(|column| cell(row, column)).collect()));
    Matrix { label: metric.label, meaning: metric.meaning, rows: rows.collect() }
}

fn tier(line: &Line) -> Tier {
    let ratio = line.ratio();
    Tier {
        strategy: line.strategy.clone(),
        metric: line.metric,
        first: line.unit.format(line.first),
        second: line.unit.format(line.second),
        ratio: if ratio.is_finite() { format!("{ratio:.3}") } else { "–".to_owned() },
        far: !(0.9..=1.1).contains(&ratio),
    }
}

/// A command for each strategy at each point. `SEED` is one of the page's seeds.
fn replays(folder: &Path, results: &Results) -> Vec<Replay> {
    let quote = |text: &str| {
        let plain =
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./+".contains(c));
        if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    let folder = quote(&folder.to_string_lossy());
    let all = results.info.points.iter().enumerate().flat_map(|(point, settings)| {
        let folder = folder.clone();
        let which = if results.info.points.len() > 1 { format!(" --point {point}") } else { String::new() };
        results.info.strategies.iter().map(move |strategy| Replay {
            settings: settings.clone(),
            command: format!("cargo lab replay {folder}{which} --strategy {} --seed SEED", quote(strategy)),
        })
    });
    all.take(REPLAYS).collect()
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
