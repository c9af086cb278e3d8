//! Measures a guest and its host on our machine against QEMU's microvm, or against another build or form of
//! ours: with the same kernel, initramfs, command line and image, in turn, on the same KVM. If this host's
//! KVM cannot run a stock kernel, everything runs in the emulated host; absolute figures then mean little,
//! but ratios do.

mod machine;
mod rows;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bench::storage;
use clap::Parser;
use harness::{Failure, programs};

use machine::Peer;

/// Measures our machine against QEMU's microvm, and prints ratios.
#[derive(Parser)]
struct Arguments {
    /// Measure only the I/O rows whose names begin with one of these; see `--list`. Boot and memory are
    /// always measured.
    rows: Vec<String>,
    /// List the rows and exit.
    #[arg(long)]
    list: bool,
    /// Rounds; medians are printed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds of each row in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    seconds: u64,
    /// Size of the image in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    size: u64,
    /// Measure boots only, without I/O.
    #[arg(long)]
    boot: bool,
    /// Use O_DIRECT instead of the page cache.
    #[arg(long)]
    direct: bool,
    /// Compare our machine with a screen that nobody looks at (--vnc) with one without, instead of QEMU's.
    #[arg(long, conflicts_with = "beside")]
    screen: bool,
    /// Compare with this program, which is another build of millrace, instead of QEMU's.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Further options of QEMU's machine, such as `,pit=off`.
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    qemu_machine: String,
    /// QEMU's I/O engine: io_uring, native or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    qemu_aio: String,
    /// Our I/O engine: io_uring or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    aio: String,
    /// Give QEMU's disk an I/O thread of its own, as ours has.
    #[arg(long)]
    qemu_iothread: bool,
}

impl Arguments {
    /// The machine that ours is compared with.
    fn peer(&self) -> Peer {
        match &self.beside {
            Some(program) => Peer::Build(program.clone()),
            None if self.screen => Peer::NoScreen,
            None => Peer::Qemu,
        }
    }
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
        return Err(format!("no row begins with {}; --list shows the names", wanted.join(" ")).into());
    }
    // Fetched while there is a network, and copied into the emulated host if the host's files are not
    // shared.
    let mut files = Vec::new();
    match arguments.peer() {
        Peer::Qemu => {
            let qemu = emulated_host::qemu()?;
            files.push(qemu.root.clone().unwrap_or_else(|| qemu.program.clone()));
        }
        Peer::Build(program) => files.push(program),
        Peer::NoScreen => {}
    }
    programs::enter_emulated_host(|command| {
        command.files.extend(files);
        command.timeout = Duration::from_secs(3600);
    })?;
    let folder = programs::scratch()?;
    println!("host      {}", kvm_probe::kvm());
    println!(
        "storage   {}, {}",
        storage::describe(folder.path())?,
        if arguments.direct { "O_DIRECT" } else { "page cache" }
    );
    println!("rounds    {}, in turn; medians with (min..max)", arguments.runs);
    let bench = rows::Bench {
        stage: machine::Stage::new(folder.path(), arguments)?,
        peer: arguments.peer(),
        runs: arguments.runs,
        time: Duration::from_secs(arguments.seconds.max(1)),
        size: arguments.size << 20,
    };
    bench.measure(if arguments.boot { &[] } else { &rows })
}
