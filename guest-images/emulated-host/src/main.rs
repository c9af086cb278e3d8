//! A program for users: reports whether KVM can run guests, and runs commands in the emulated host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use emulated_host::{Invocation, Result};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Report whether this host's KVM runs a stock kernel; exit with status 1 if it does not
    Probe,
    /// Run a command on a software-emulated machine that has KVM
    Run {
        /// Memory in MiB
        #[arg(long, default_value_t = 2048)]
        memory: u32,
        /// Size of the disk at $MILLRACE_SCRATCH in MiB
        #[arg(long, default_value_t = 16 << 10)]
        scratch: u64,
        /// Seconds after which the machine is killed
        #[arg(long, default_value_t = 1800)]
        timeout: u64,
        /// Another file or directory that the command needs, if the host's root cannot be shared
        /// (repeatable)
        #[arg(long)]
        file: Vec<PathBuf>,
        /// A TCP port of 127.0.0.1 on this host that leads to the same one inside (repeatable)
        #[arg(long)]
        port: Vec<u16>,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        argv: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("emulated-host: {error}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Probe => {
            println!("{}", emulated_host::where_guests_run());
            Ok(if kvm_probe::kvm().is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Run { memory, scratch, timeout, file, port, argv } => {
            let mut command = Invocation::new(argv)?;
            command.memory_mib = memory;
            command.scratch_mib = scratch;
            command.timeout = Duration::from_secs(timeout);
            command.files = file;
            command.ports = port;
            let status = emulated_host::run(&command)?;
            Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
        }
    }
}
