//! The `millrace` program: disks, machine and monitor joined.

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod boot;
mod client;
mod console;
mod control;
mod devices;
mod drive;
mod exports;
mod host;
mod image;
mod io_errors;
mod options;
mod run;
mod signals;
mod user;

use options::{Cli, Command};

/// What went wrong, in one line for a person.
type Failure = String;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_a_command(&e),
    };
    log();
    let result = match cli.command {
        Command::Run(options) => run::run(*options),
        Command::Image(command) => image::run(command),
        Command::Host { folder } => host::run(&folder),
        Command::Qmp { socket, command } => client::qmp(&socket, &command),
        Command::Watch { socket, once } => client::watch(&socket, once),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("millrace: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Has the libraries' messages written to standard error: warnings, or what `MILLRACE_LOG` says, as `debug` or
/// `warn,block=trace`.
fn log() {
    let wish = std::env::var("MILLRACE_LOG").ok().and_then(|wish| wish.parse().ok());
    let targets: Targets = wish.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
}

/// Help and version are answers; everything else is an error like any other: one line, status 1.
fn not_a_command(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        // Nobody reads it where this fails.
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let text = e.render().to_string();
    if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{text}");
        return ExitCode::FAILURE;
    }
    // What clap says first, without its hints; arguments that are missing stand on lines of their own.
    let said = text.split("\n\n").next().unwrap_or_default();
    let said: Vec<_> = said.lines().map(str::trim).collect();
    eprintln!("millrace: {}", said.join(" ").trim_start_matches("error: "));
    ExitCode::FAILURE
}
