//! `cargo lab`: runs experiments that compare strategies of live migration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

/// Compares strategies of live migration, in a model or in virtual time.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an experiment and write tables, plots and a report.
    Run(cli::run::Run),
    /// Join the results of all shards.
    Merge(cli::results::Merge),
    /// Write the report of a folder of results again.
    Report(cli::results::Report),
    /// Compare two folders of results, strategy by strategy.
    Compare(cli::results::Compare),
    /// Run one run of a folder of results again.
    Replay(cli::replay::Replay),
    /// Find parameters of the model of RAM from measurements of one strategy.
    Calibrate(cli::calibrate::Calibrate),
    /// List strategies, devices and workloads.
    List,
    /// Make a figure of a publication, and check what it shows.
    Figure {
        /// Its name; without it, all names are listed.
        name: Option<String>,
        /// Write its plot to this file, as SVG.
        #[arg(long, value_name = "FILE", requires = "name")]
        svg: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => run.start(),
        Command::Merge(merge) => merge.start(),
        Command::Report(report) => report.start(),
        Command::Compare(compare) => compare.start(),
        Command::Replay(replay) => replay.start(),
        Command::Calibrate(calibrate) => calibrate.start(),
        Command::List => {
            cli::print(&cli::list::text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Figure { name, svg } => cli::list::figure(name.as_deref(), svg.as_deref()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        // 1 means that an assertion does not hold.
        ExitCode::from(2)
    })
}
