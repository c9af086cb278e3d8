//! `lab run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{End, check, host, print};
use lab::event::Cost;
use lab::reader::suggestion;
use lab::report;
use lab::results::{Journal, Results, ResultsError};
use lab::schedule::{Job, Shard, jobs, run_all};
use lab::{Experiment, Outcome, RunInfo, Strategy, Tier, run_and_measure};

/// The options of `lab run`.
#[derive(Args)]
pub struct Run {
    /// The experiment.
    file: PathBuf,
    /// Run it in this tier, whatever the experiment names.
    #[arg(long, value_parser = tier)]
    tier: Option<Tier>,
    /// Run these seeds: a number of them, or a range as in 5-9.
    #[arg(long)]
    seeds: Option<Seeds>,
    /// Run this strategy only; may be given several times, or with commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the results to this folder instead of lab-results/NAME.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run the K-th of N parts of the runs, into a folder of its own in --out.
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Run on this many threads instead of one for each CPU.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Go on with an experiment that was interrupted.
    #[arg(long)]
    resume: bool,
}

/// The seeds of an experiment, as an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seeds {
    Count(u64),
    Range(u64, u64),
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number <= 1 << 50);
        let seeds = match text.split_once('-') {
            Some((first, last)) => {
                number(first).zip(number(last)).map(|(first, last)| Seeds::Range(first, last))
            }
            None => number(text).map(Seeds::Count),
        };
        seeds
            .filter(|seeds| match seeds {
                Seeds::Count(count) => (1..=100_000).contains(count),
                Seeds::Range(first, last) => first <= last && last - first < 100_000,
            })
            .ok_or_else(|| "give a number from 1 to 100000, or a range as in 5-9".to_owned())
    }
}

fn tier(text: &str) -> Result<Tier, String> {
    let names = Tier::ALL.map(Tier::name);
    Tier::named(text).ok_or_else(|| format!("there are {}{}", names.join(", "), suggestion(text, names)))
}

/// Reads an experiment file.
pub fn read(file: &Path) -> Result<Experiment, Box<dyn std::error::Error>> {
    let name = file.to_string_lossy();
    let text = std::fs::read_to_string(file).map_err(|e| {
        let hint = near(file).map(|near| format!("; did you mean {}?", near.display())).unwrap_or_default();
        format!("{name}: cannot be read: {e}{hint}")
    })?;
    Ok(Experiment::parse(&name, &text)?)
}

/// A file of nearly the same name in the same folder.
fn near(file: &Path) -> Option<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = folder
        .read_dir()
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    let given = file.file_name()?.to_str()?;
    let hint = suggestion(given, names.iter().map(String::as_str));
    names.iter().find(|name| hint.contains(&format!("'{name}'"))).map(|name| file.with_file_name(name))
}

impl Run {
    /// Runs the experiment.
    pub fn start(self) -> End {
        let mut experiment = read(&self.file)?;
        self.change(&mut experiment)?;
        experiment.check_tier().map_err(|text| format!("{}: {text}", self.file.display()))?;
        let shard = self.shard.unwrap_or(Shard::ALL);
        let out = self.out.clone().unwrap_or_else(|| {
            PathBuf::from("lab-results").join(self.file.file_stem().unwrap_or_else(|| "experiment".as_ref()))
        });
        let folder = match self.shard {
            Some(shard) => out.join(format!("shard-{}-of-{}", shard.number, shard.of)),
            None => out,
        };
        let mut info = info(&experiment, shard);
        let results = match self.finished(&folder, &info)? {
            Some(results) => results,
            None => self.run(&experiment, &folder, &mut info, shard)?,
        };
        if self.shard.is_some() {
            print(&format!("shard {shard}: {} runs in {}\n", results.runs.len(), folder.display()));
            return Ok(ExitCode::SUCCESS);
        }
        report::write(&folder, &results, None)?;
        print(&report::terminal::ranking_table(&results));
        let status = check(&experiment, &results);
        print(&format!("\nThe report is {}\n", folder.join(report::PAGE).display()));
        Ok(status)
    }

    /// Applies the options that change an experiment.
    fn change(&self, experiment: &mut Experiment) -> Result<(), String> {
        experiment.tier = self.tier.unwrap_or(experiment.tier);
        match self.seeds {
            Some(Seeds::Count(count)) => {
                let first = experiment.seeds.first().copied().unwrap_or(1);
                experiment.seeds = (first..first + count).collect();
            }
            Some(Seeds::Range(first, last)) => experiment.seeds = (first..=last).collect(),
            None => {}
        }
        let names: Vec<String> = experiment.strategies.iter().map(Strategy::name).collect();
        if let Some(unknown) = self.only.iter().find(|name| !names.contains(name)) {
            let hint = suggestion(unknown, names.iter().map(String::as_str));
            return Err(format!(
                "--only {unknown}: the experiment has no such strategy{hint}; it has {}",
                names.join(", ")
            ));
        }
        if !self.only.is_empty() {
            experiment.strategies.retain(|strategy| self.only.contains(&strategy.name()));
            experiment.assertions.retain(|assertion| self.only.contains(&assertion.strategy));
        }
        Ok(())
    }

    /// The results of the folder, if `--resume` finds that nothing is left to do.
    fn finished(&self, folder: &Path, info: &RunInfo) -> Result<Option<Results>, ResultsError> {
        if !self.resume || !folder.join(lab::results::INFO).exists() {
            return Ok(None);
        }
        let results = Results::read(folder)?;
        match lab::results::journal::difference(&results.info, info) {
            Some(what) => Err(ResultsError::Other { path: folder.to_owned(), what }),
            None => Ok(Some(results)),
        }
    }

    fn run(
        &self,
        experiment: &Experiment,
        folder: &Path,
        info: &mut RunInfo,
        shard: Shard,
    ) -> Result<Results, ResultsError> {
        let (mut journal, mut outcomes) = if self.resume {
            Journal::resume(folder, info)?
        } else {
            (Journal::create(folder, info)?, BTreeMap::new())
        };
        let mut all = jobs(experiment.points.len(), experiment.strategies.len(), &experiment.seeds, shard);
        let count = all.len();
        let known: BTreeSet<Job> = outcomes.keys().copied().collect();
        all.retain(|job| !known.contains(job));
        let bar = progress(count, count - all.len());
        let threads = self
            .threads
            .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        let (before, began) = (host::steal(), Instant::now());
        let run = |job: &Job| {
            run_and_measure(experiment, job.point, &experiment.strategies[job.strategy], job.seed)
        };
        let mut total = Cost::default();
        let result = run_all(&all, threads, run, |job, (outcome, cost): (Outcome, Cost)| {
            total.add(&cost);
            journal.add(&outcome)?;
            outcomes.insert(job, outcome);
            bar.inc(1);
            Ok(())
        });
        bar.finish_and_clear();
        result?;
        let text = total.text();
        if !text.is_empty() {
            let most = host::most_memory().map(|mib| format!(", at most {mib} MiB of memory"));
            let seconds = began.elapsed().as_secs_f64();
            print(&format!("{text}\ntime: {seconds:.1} s{}\n", most.unwrap_or_default()));
        }
        info.host = host::facts(before);
        let results = Results::new(info.clone(), outcomes);
        results.write(folder)?;
        journal.remove()?;
        Ok(results)
    }
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(count: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    let style = "{wide_bar} {pos} of {len} runs, {elapsed} gone, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(done as u64);
    // The estimate must not count what an earlier call has done.
    bar.reset_eta();
    bar
}

/// The description of the runs.
fn info(experiment: &Experiment, shard: Shard) -> RunInfo {
    RunInfo {
        experiment: experiment.name.clone(),
        text: experiment.text.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tier: experiment.tier.name().to_owned(),
        seeds: experiment.seeds.clone(),
        strategies: experiment.strategies.iter().map(Strategy::name).collect(),
        points: experiment.points.iter().map(lab::Point::label).collect(),
        shard: shard.to_string(),
        runs: 0,
        host: Vec::new(),
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
