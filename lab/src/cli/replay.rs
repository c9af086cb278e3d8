//! `lab replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{End, print};
use lab::assertion::{columns, value};
use lab::experiment::{Fault, Party, When};
use lab::reader::suggestion;
use lab::report::terminal::table;
use lab::results::Results;
use lab::{Experiment, RunRecord, Strategy, Tier, run_one, units};

/// The options of `lab replay`.
#[derive(Args)]
pub struct Replay {
    /// The folder of results.
    folder: PathBuf,
    /// The strategy.
    #[arg(long)]
    strategy: String,
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// The number of the point of the sweep.
    #[arg(long, default_value_t = 0)]
    point: usize,
    /// Let this party die at the time --at.
    #[arg(long, requires = "at")]
    kill: Option<Who>,
    /// The time of the death, as in 90s.
    #[arg(long, requires = "kill", value_parser = seconds)]
    at: Option<f64>,
}

/// A party that may die.
#[derive(Clone, Copy, ValueEnum)]
enum Who {
    Source,
    Target,
    Link,
}

fn seconds(text: &str) -> Result<f64, String> {
    units::time(text).ok_or_else(|| "give a time, as in 90s or 5min".to_owned())
}

impl Replay {
    /// Runs the run again and compares it with the line of runs.csv. The status is 1 if it differs.
    pub fn start(self) -> End {
        let results = Results::read(&self.folder)?;
        let mut experiment = Experiment::parse("run.json", &results.info.text)?;
        // `--tier` may have chosen another one than the file.
        experiment.tier = Tier::named(&results.info.tier)
            .ok_or_else(|| format!("run.json: the tier '{}' is not known", results.info.tier))?;
        let names = &results.info.strategies;
        if !names.contains(&self.strategy) {
            let hint = suggestion(&self.strategy, names.iter().map(String::as_str));
            let all = names.join(", ");
            return Err(
                format!("these results have no strategy '{}'{hint}; they have {all}", self.strategy).into()
            );
        }
        let count = experiment.points.len();
        if self.point >= count {
            return Err(format!("--point {}: the sweep has the points 0 to {}", self.point, count - 1).into());
        }
        let strategy =
            experiment.strategies.iter().find(|strategy| strategy.name() == self.strategy).cloned();
        let Some(strategy) = strategy else {
            return Err(format!("the experiment has no strategy '{}' any more", self.strategy).into());
        };
        let same = |run: &&RunRecord| {
            (run.point, &run.strategy, run.seed) == (self.point, &self.strategy, self.seed)
        };
        let Some(old) = results.runs.iter().find(same) else {
            return Err(format!("these results have no seed {}", self.seed).into());
        };
        if let Some((who, at)) = self.kill.zip(self.at) {
            let party = match who {
                Who::Source => Party::Source,
                Who::Target => Party::Target,
                Who::Link => Party::Link,
            };
            let death = Fault { party, when: When::At(at), length: f64::INFINITY };
            experiment.points[self.point].setup.faults.push(death);
            let new = self.again(&experiment, &strategy);
            print(&beside(old, &new, "with the death"));
            return Ok(ExitCode::SUCCESS);
        }
        let new = self.again(&experiment, &strategy);
        if *old == new || format!("{old:?}") == format!("{new:?}") {
            print(&beside(old, old, ""));
            print("\nThe run is the same as in runs.csv.\n");
            return Ok(ExitCode::SUCCESS);
        }
        print(&beside(old, &new, "again"));
        let (then, now) = (&results.info.version, env!("CARGO_PKG_VERSION"));
        print(&format!("\nThe run DIFFERS from runs.csv, which version {then} wrote; this is {now}.\n"));
        Ok(ExitCode::FAILURE)
    }

    fn again(&self, experiment: &Experiment, strategy: &Strategy) -> RunRecord {
        run_one(experiment, self.point, strategy, self.seed).record
    }
}

/// The columns of a run, and beside them those of another one that differ.
fn beside(old: &RunRecord, new: &RunRecord, title: &str) -> String {
    let number = |run: &RunRecord, column: &str| {
        value(run, column).map_or("–".to_owned(), |value| format!("{value}"))
    };
    let mut rows = Vec::new();
    if !title.is_empty() {
        rows.push(vec!["column".to_owned(), "runs.csv".to_owned(), title.to_owned()]);
    }
    let ends = (format!("{:?}", old.end).to_lowercase(), format!("{:?}", new.end).to_lowercase());
    let mut row = |column: &str, a: String, b: String| {
        let second = if a == b { String::new() } else { b };
        rows.push(if title.is_empty() {
            vec![column.to_owned(), a]
        } else {
            vec![column.to_owned(), a, second]
        });
    };
    row("end", ends.0, ends.1);
    for column in columns().iter().filter(|column| value(old, column).is_some()) {
        row(column, number(old, column), number(new, column));
    }
    table(&rows)
}
