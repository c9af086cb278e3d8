//! `lab merge`, `lab report` and `lab compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{End, check, print};
use lab::results::{INFO, Results, ResultsError, merge};
use lab::{Experiment, report};

/// The options of `lab merge`.
#[derive(Args)]
pub struct Merge {
    /// The folders of the shards, in any order.
    #[arg(required = true)]
    shards: Vec<PathBuf>,
    /// Write the joint results to this folder.
    #[arg(long)]
    out: PathBuf,
}

impl Merge {
    /// Joins the shards.
    pub fn start(self) -> End {
        if self.out.join(INFO).exists() {
            return Err(format!(
                "{} has results already; choose another folder with --out",
                self.out.display()
            )
            .into());
        }
        let read = |folder: PathBuf| Results::read(&folder).map(|results| (folder, results));
        let parts = self.shards.into_iter().map(read).collect::<Result<Vec<_>, ResultsError>>()?;
        let results = merge(parts)?;
        results.write(&self.out)?;
        report::write(&self.out, &results, None)?;
        print(&report::terminal::ranking_table(&results));
        let experiment = Experiment::parse(INFO, &results.info.text)?;
        let status = check(&experiment, &results);
        print(&format!("\nThe report is {}\n", self.out.join(report::PAGE).display()));
        Ok(status)
    }
}

/// The options of `lab report`.
#[derive(Args)]
pub struct Report {
    /// The folder of results.
    folder: PathBuf,
    /// Show in what the results of this folder differ, as those of another tier do.
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
}

impl Report {
    /// Writes the report.
    pub fn start(self) -> End {
        let results = Results::read(&self.folder)?;
        let against = self.against.as_deref().map(Results::read).transpose()?;
        report::write(&self.folder, &results, against.as_ref())?;
        print(&report::terminal::ranking_table(&results));
        print(&format!("\nThe report is {}\n", self.folder.join(report::PAGE).display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// The options of `lab compare`.
#[derive(Args)]
pub struct Compare {
    /// The first folder of results.
    first: PathBuf,
    /// The second.
    second: PathBuf,
}

impl Compare {
    /// Prints the comparison.
    pub fn start(self) -> End {
        let (first, second) = (Results::read(&self.first)?, Results::read(&self.second)?);
        print(&report::versus::text(&first, &second));
        Ok(ExitCode::SUCCESS)
    }
}
