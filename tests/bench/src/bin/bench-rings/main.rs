//! Drives our virtio block device through its rings, in this process, and the one of
//! `qemu-storage-daemon` through vhost-user, with the same driver and on the same files. Measures
//! requests per second and latency.

mod device;
mod driver;
mod rows;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bench::storage;
use clap::Parser;
use harness::{Failure, programs, qemu_img};

/// Measures virtio block devices through their rings, ours against QEMU's, and prints ratios.
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
    /// Seconds of each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// MiB of the image that is read and written in place.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..))]
    size: u64,
    /// MiB of the backing file over which clusters are allocated.
    #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(64..))]
    backing: u64,
    /// A quick run: three short rounds on small images.
    #[arg(long, conflicts_with_all = ["runs", "seconds", "size", "backing"])]
    quick: bool,
    /// Measure instead how much slower the 99th percentile of a guest's reads beside a stream is while a VNC
    /// client looks at its screen.
    #[arg(long, conflicts_with_all = ["rows", "list"])]
    screen: bool,
    /// Folder for the images; by default, the temporary folder.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Use the page cache instead of O_DIRECT.
    #[arg(long)]
    cached: bool,
    /// QEMU's I/O engine: io_uring, native or threads.
    #[arg(long, value_name = "AIO", default_value = "io_uring")]
    qemu_aio: String,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench-rings: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<bool, Failure> {
    if arguments.quick {
        (arguments.runs, arguments.seconds, arguments.size, arguments.backing) = (3, 2, 512, 2048);
    }
    let wanted = &arguments.rows;
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|prefix| name.starts_with(&**prefix));
    let rows: Vec<_> = rows::all().into_iter().filter(|row| chosen(&row.name())).collect();
    if arguments.list {
        rows.iter().for_each(|row| println!("{}", row.name()));
        return Ok(true);
    }
    if rows.is_empty() {
        return Err(format!("no row begins with {}; --list shows the names", wanted.join(" ")).into());
    }
    if !qemu_img::is_installed() {
        return Err("qemu-img and qemu-storage-daemon are missing: install the package qemu-utils".into());
    }
    let folder = match &arguments.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => programs::scratch()?,
    };
    let bench = rows::Bench {
        folder: folder.path().to_owned(),
        runs: arguments.runs,
        time: Duration::from_secs(arguments.seconds.max(1)),
        size: arguments.size << 20,
        backing: arguments.backing << 20,
        direct: !arguments.cached,
        qemu_aio: arguments.qemu_aio,
    };
    println!("storage   {}", storage::describe(folder.path())?);
    println!("cache     {}", if bench.direct { "O_DIRECT" } else { "page cache" });
    if arguments.screen {
        println!("rounds    {} of {:?}, in turn; medians with (min..max)", bench.runs, bench.time);
        return screen::measure(&bench);
    }
    println!("QEMU      {}, aio={}, vhost-user-blk", qemu_img::version()?, bench.qemu_aio);
    println!("rounds    {} of {:?}, in turn; medians with (min..max)", bench.runs, bench.time);
    bench.measure(&rows)?;
    Ok(true)
}
