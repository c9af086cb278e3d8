//! Measures what a guest and its host feel of our machine beside QEMU's microvm: the same kernel, initramfs,
//! command line and image, in turn, on the same KVM. Where this host has none that runs a stock kernel, all
//! of it runs in the emulated host, where absolute figures mean little and ratios do.

mod machine;
mod rows;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use bench::storage;
use clap::Parser;
use harness::{Failure, programs};

/// Measures our machine beside QEMU's microvm, and prints ratios.
#[derive(Parser)]
struct Arguments {
    /// Only these rows of I/O, or all whose name begins so; see `--list`. Boot and memory are always
    /// measured.
    rows: Vec<String>,
    /// What rows there are.
    #[arg(long)]
    list: bool,
    /// Rounds; medians are printed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Length of each row in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    seconds: u64,
    /// MiB of the image.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    size: u64,
    /// Boots only, without I/O.
    #[arg(long)]
    boot: bool,
    /// O_DIRECT instead of the page cache.
    #[arg(long)]
    direct: bool,
    /// Further options of QEMU's machine, as `,pit=off`.
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    qemu_machine: String,
    /// QEMU's way to do I/O: io_uring, native or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    qemu_aio: String,
    /// Our way to do I/O: io_uring or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    aio: String,
    /// Gives QEMU's disk an I/O thread of its own, as ours has.
    #[arg(long)]
    qemu_iothread: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench-guest: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let wanted = &arguments.rows;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|prefix| name.starts_with(&**prefix));
    let rows: Vec<_> = rows::IO.iter().filter(|row| is_wanted(row.name)).collect();
    if arguments.list {
        rows.iter().for_each(|row| println!("{:<16}{}", row.name, row.what));
        return Ok(true);
    }
    if rows.is_empty() {
        return Err(format!("no row is called {}; --list tells their names", wanted.join(" ")).into());
    }
    // Fetched while there is a network, and taken along where the host's files are not shared.
    let qemu = emulated_host::qemu()?;
    programs::enter_emulated_host(|command| {
        command.files.push(qemu.root.clone().unwrap_or_else(|| qemu.program.clone()));
        command.timeout = Duration::from_secs(3600);
    })?;
    let folder = programs::scratch()?;
    println!("host      {}", kvm_probe::kvm());
    println!(
        "storage   {}, {}",
        storage::describe(folder.path())?,
        if arguments.direct { "O_DIRECT" } else { "page cache" }
    );
    println!("rounds    {}, in turn; (min..max) beside each median", arguments.runs);
    let bench = rows::Bench {
        stage: machine::Stage::new(folder.path(), arguments)?,
        runs: arguments.runs,
        time: Duration::from_secs(arguments.seconds.max(1)),
        size: arguments.size << 20,
    };
    bench.measure(if arguments.boot { &[] } else { &rows })
}
