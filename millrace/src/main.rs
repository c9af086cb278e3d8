//! The `millrace` program: connects disks, machine and monitor.

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod allowed;
mod boot;
mod client;
mod console;
mod control;
mod devices;
mod drive;
mod end;
mod exports;
mod host;
mod image;
mod io_errors;
mod log;
mod options;
mod pidfile;
mod reports;
mod run;
mod screen;
mod signals;
mod user;
mod web;

use options::{Cli, Command};

/// An error in one line, for the user.
type Failure = String;

/// Runs the program with the process's arguments.
fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_a_command(&e),
    };
    // Must come before the first thread, so that no thread takes a signal or keeps privileges.
    let held = matches!(cli.command, Command::Run(_)).then(signals::hold_back);
    let given_up = match &cli.command {
        Command::Run(options) if options.user.is_some() => sandbox::gain_none(),
        _ => Ok(()),
    };
    log::start();
    raise_limits();
    let result = match (cli.command, held) {
        (Command::Run(options), held) => {
            let given_up = given_up.map_err(|e| format!("--user: giving up rights: {e}"));
            given_up.and_then(|()| run::run(*options, held.unwrap_or_else(signals::hold_back)))
        }
        (Command::Image(command), _) => image::run(command),
        (Command::Host { folder }, _) => host::run(&folder),
        (Command::Qmp { socket, command }, _) => client::qmp(&socket, &command),
        (Command::Watch { socket, once }, _) => client::watch(&socket, once),
        (Command::Web { arguments }, _) => web::run(&arguments),
    };
    let code = result.unwrap_or_else(|failure| {
        log::say(&format!("millrace: {failure}"));
        ExitCode::FAILURE
    });
    log::finish(end::FAREWELL);
    code
}

/// Raises the limit of open files to the hard limit. Disks, queues and clients need some files each, and a
/// chain of images needs one per image. The usual soft limit of 1024 is for programs that use select(2).
fn raise_limits() {
    let raise = |(soft, hard): (u64, u64)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    };
    if let Err(e) = getrlimit(Resource::RLIMIT_NOFILE).and_then(raise) {
        tracing::warn!("cannot raise the limit of open files: {}", e.desc());
    }
}

/// Prints help or version with status 0, and everything else like any other error: one line, status 1.
fn not_a_command(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        // Fails only if nobody reads it.
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let text = e.render().to_string();
    if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{text}");
        return ExitCode::FAILURE;
    }
    // The first paragraph of clap's message, without its hints. Missing arguments stand on lines of their
    // own.
    let said = text.split("\n\n").next().unwrap_or_default();
    let said: Vec<_> = said.lines().map(str::trim).collect();
    eprintln!("millrace: {}", said.join(" ").trim_start_matches("error: "));
    ExitCode::FAILURE
}
