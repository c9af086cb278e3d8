//! The `millrace` program: disks, machine and monitor joined.

use std::process::ExitCode;

use clap::Parser;

mod control;
mod drive;
mod image;
mod options;
mod run;
mod signals;

use options::{Cli, Command};

/// What went wrong, in one line for a person.
type Failure = String;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .without_time()
        .with_target(false)
        .init();
    let result = match cli.command {
        Command::Run(options) => run::run(options),
        Command::Image(command) => image::run(command),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("millrace: {failure}");
            ExitCode::FAILURE
        }
    }
}
