//! Measures live copy against other programs, in turn and on the same files: against the block-stream of
//! `qemu-storage-daemon`, and, as a lower bound, against copies of the plain file by cp, dd and
//! copy_file_range.
//!
//! Every measured time ends when the copy is on stable storage. For our stream that is its event; for
//! QEMU, it is when the daemon has ended and its leaf is synced; for the plain copies, when the copy is
//! synced; a mirror's ends when it is ready. Also measured: the effect of streams, mirrors, switches and
//! pivots on a guest, and the memory that a huge disk takes. After each row stands the machine's load.

mod budget;
mod copy;
mod files;
mod guest;
mod memory;
mod pivot;
mod rows;
mod slow;
mod switch;

use std::path::PathBuf;
use std::process::ExitCode;

use bench::storage;
use clap::Parser;
use harness::{Failure, programs, qemu_img};

/// Measures live copy against QEMU and plain copies, and prints ratios.
#[derive(Parser)]
struct Arguments {
    /// Measure only the rows whose names begin with one of these; see `--list`.
    rows: Vec<String>,
    /// List the rows and exit.
    #[arg(long)]
    list: bool,
    /// Rounds of each row; medians are printed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// MiB of data of a full base image; the other images scale with it.
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(64..))]
    size: u64,
    /// A quick run: three rounds of 512 MiB.
    #[arg(long, conflicts_with_all = ["runs", "size"])]
    quick: bool,
    /// Folder for the images; by default, the temporary folder.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Measure this program, such as another build, instead of the one of this tree.
    #[arg(long, value_name = "FILE")]
    millrace: Option<PathBuf>,
    /// Read the base image into the page cache before each copy, instead of evicting it.
    #[arg(long)]
    warm: bool,
    /// QEMU's I/O engine: io_uring, native or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    qemu_aio: String,
    /// Options of the leaf for both programs, as for `qemu-img create -o`; by default, QEMU's defaults.
    #[arg(long, value_name = "OPTIONS")]
    leaf: Option<String>,
    /// Copies a file by copy_file_range, and syncs it: one of the plain copies, in its own process.
    #[arg(long, hide = true, num_args = 2)]
    copy_file_range: Vec<PathBuf>,
}

/// A row of any kind: its name, its description, and the function that measures it.
type Row = (&'static str, &'static str, Box<dyn Fn(&copy::Bench) -> Result<(), Failure>>);

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for row in rows::ROWS {
        rows.push((row.name, row.what, Box::new(|bench| bench.row(row))));
    }
    for row in guest::ROWS {
        rows.push((row.name, row.what, Box::new(|bench| bench.guest(row))));
    }
    rows.push(("budget", "guest latency with x-max-latency", Box::new(copy::Bench::budget)));
    rows.push(("switch", "blackout of `change` under load", Box::new(copy::Bench::switch)));
    rows.push((
        "pivot-slow",
        "longest request at the pivot to a slow flush",
        Box::new(copy::Bench::pivot_slow),
    ));
    rows.push(("pivot", "blackout of a mirror's pivot under load", Box::new(copy::Bench::pivots)));
    rows.push(("memory", "peak memory of a sparse disk of 1 TiB", Box::new(copy::Bench::memory)));
    rows
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-copy: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<(), Failure> {
    if let [from, to] = &arguments.copy_file_range[..] {
        return copy::copy_file_range(from, to);
    }
    let mut rows = rows();
    if arguments.list {
        rows.iter().for_each(|(name, what, _)| println!("{name:<20}{what}"));
        return Ok(());
    }
    if arguments.quick {
        (arguments.runs, arguments.size) = (3, 512);
    }
    if !qemu_img::is_installed() {
        return Err("qemu-img and qemu-storage-daemon are missing: install the package qemu-utils".into());
    }
    let wanted = &arguments.rows;
    rows.retain(|(name, ..)| {
        wanted.is_empty() || wanted.iter().any(|prefix| name.starts_with(prefix.as_str()))
    });
    if rows.is_empty() {
        return Err(format!("no row begins with {}; --list shows the names", wanted.join(" ")).into());
    }
    let millrace = match arguments.millrace {
        Some(file) => file,
        None => programs::millrace()?,
    };
    let folder = match &arguments.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => programs::scratch()?,
    };
    let bench = copy::Bench {
        millrace,
        folder: folder.path().to_owned(),
        runs: arguments.runs,
        size: arguments.size << 20,
        warm: arguments.warm,
        qemu_aio: arguments.qemu_aio,
        leaf_options: arguments.leaf,
    };
    println!("storage   {}", storage::describe(folder.path())?);
    println!("QEMU      {}, aio={}", qemu_img::version()?, bench.qemu_aio);
    println!(
        "rounds    {}, in turn; the base image is {} when each begins; medians with (min..max)",
        bench.runs,
        if bench.warm { "in the page cache" } else { "not in the page cache" },
    );
    for (name, what, measure) in rows {
        println!("\n{name}: {what}");
        if let Err(e) = measure(&bench) {
            println!("  not measured: {e}");
        }
        println!("  {}", storage::load()?);
    }
    Ok(())
}
