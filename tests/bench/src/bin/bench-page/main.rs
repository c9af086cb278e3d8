//! Measures the page of a running machine: what its server costs beside a guest's load, and how soon the map
//! of a large disk is there.
//!
//! The guest is fio on the NBD export of a machine without a guest. Rounds with and without the page come in
//! turn, and ratios are taken pair by pair. Three clients watch, as pages do; one of them never reads.

mod clients;
mod seen;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bench::{Daemon, Disk, Spread, Vmm, storage};
use clap::Parser;
use harness::images::Images;
use harness::{Failure, check, programs};
use serde_json::Value;

use clients::Clients;

/// Measures what the page costs beside a guest's load, and how soon the map of a large disk is there.
#[derive(Parser)]
struct Arguments {
    /// Pairs of rounds, one with the page and one without.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Seconds of each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// The size of the disk in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(4..))]
    size: u64,
    /// Requests of fio in flight.
    #[arg(long, value_name = "N", default_value_t = 4)]
    depth: u32,
    /// A folder on the file system to measure.
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
}

const GIB: u64 = 1 << 30;
/// The part of the disk that fio works on, in bytes.
const WORKED_ON: u64 = GIB;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-page: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (millrace, _) = (programs::millrace()?, programs::web()?);
    let folder = match &arguments.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => programs::scratch()?,
    };
    println!("storage   {}, {}", storage::describe(folder.path())?, storage::load()?);
    println!("disk      {} GiB, qcow2 over raw; fio on the first GiB", arguments.size);
    let images = Images::new(&millrace, folder.path());
    images.raw("base.img", arguments.size * GIB, &[(0, WORKED_ON)])?;
    let leaf = images.leaf("leaf", ("base.img", "raw"))?;
    let disk = Disk {
        leaf: (leaf, "qcow2".to_owned()),
        backing: Some((folder.path().join("base.img"), "raw".to_owned())),
        direct: true,
        qemu_aio: "io_uring".to_owned(),
    };
    let mut daemon = Daemon::start(Vmm::Ours, &millrace, folder.path(), &disk)?;
    let export = daemon.export()?;
    let stage = Stage { millrace, folder: folder.path(), export };

    // Everything is in the leaf afterwards, so that all rounds do the same.
    stage.load("--rw=write --bs=1M --iodepth=4", None)?;
    let (mut with, mut without) = (Rounds::default(), Rounds::default());
    let mut shares = Vec::new();
    for pair in 0..arguments.pairs {
        // Each comes first in half of the pairs.
        for page in [pair % 2 == 0, pair % 2 == 1] {
            let work = format!("--rw=randrw --bs=4k --iodepth={}", arguments.depth);
            if !page {
                without.add(&stage.load(&work, Some(arguments.seconds))?)?;
                continue;
            }
            let page = Page::start(&stage)?;
            let clients = Clients::start(page.port, &page.token)?;
            let (begun, before) = (Instant::now(), page.processor_time()?);
            with.add(&stage.load(&work, Some(arguments.seconds))?)?;
            let used = page.processor_time()? - before;
            shares.push(100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64());
            let news = clients.end()?;
            check(news > 0, "the clients got news")?;
        }
    }
    let ratio = |which: fn(&Rounds) -> &Vec<f64>| Spread::ratio(which(&with), which(&without));
    for (name, limit, spread) in [
        ("p99 of reads, with the page beside without", "limit: 1.05", ratio(|rounds| &rounds.read)),
        ("p99 of writes, with the page beside without", "limit: 1.05", ratio(|rounds| &rounds.write)),
        ("requests a second, with beside without", "", ratio(|rounds| &rounds.rate)),
        ("the page's server, percent of a core", "limit: 2", Spread::of(shares)),
        ("p99 of reads without the page, us", "", Spread::of(without.read.iter().copied())),
        ("p99 of writes without the page, us", "", Spread::of(without.write.iter().copied())),
    ] {
        match spread {
            Some(spread) => println!("{name:<50}{spread:<24}{limit}"),
            None => println!("{name:<50}not measured"),
        }
    }
    let page = Page::start(&stage)?;
    seen::measure(&page, &stage.export)?;
    drop(page);
    println!("afterwards: {}", storage::load()?);
    daemon.quit()?;
    Ok(())
}

/// The figures of some rounds: the 99th percentiles in microseconds, and requests a second.
#[derive(Default)]
struct Rounds {
    read: Vec<f64>,
    write: Vec<f64>,
    rate: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, report: &Value) -> Result<(), Failure> {
        let job = &report["jobs"][0];
        let p99 = |kind: &str| job[kind]["clat_ns"]["percentile"]["99.000000"].as_f64();
        let rate = |kind: &str| job[kind]["iops"].as_f64();
        self.read.push(p99("read").ok_or("fio reports no reads")? / 1000.0);
        self.write.push(p99("write").ok_or("fio reports no writes")? / 1000.0);
        self.rate.push(rate("read").unwrap_or_default() + rate("write").unwrap_or_default());
        Ok(())
    }
}

/// A running machine.
struct Stage<'a> {
    millrace: PathBuf,
    folder: &'a Path,
    /// The socket of its NBD server, with the export `disk`.
    export: PathBuf,
}

impl Stage<'_> {
    /// Runs fio with these options. Returns its report.
    fn load(&self, work: &str, seconds: Option<u64>) -> Result<Value, Failure> {
        let mut command = Command::new("fio");
        command.args(["--name=guest", "--ioengine=nbd", "--output-format=json", "--randrepeat=0"]);
        command.args(work.split(' ')).arg(format!("--size={WORKED_ON}"));
        command.arg(format!("--uri=nbd+unix:///disk?socket={}", self.export.display()));
        if let Some(seconds) = seconds {
            command.args(["--time_based", &format!("--runtime={seconds}")]);
        }
        let output = command.current_dir(self.folder).output().map_err(|e| format!("fio: {e}"))?;
        check(output.status.success(), format!("fio: {}", String::from_utf8_lossy(&output.stderr)))?;
        // It may print a line before its report.
        let report = String::from_utf8(output.stdout)?;
        let begin = report.find('{').ok_or("fio has no report")?;
        Ok(serde_json::from_str(&report[begin..])?)
    }
}

/// The page's server. It is killed when this value is dropped.
struct Page {
    child: Child,
    port: u16,
    token: String,
}

impl Page {
    fn start(stage: &Stage) -> Result<Self, Failure> {
        use std::io::{BufRead, BufReader};
        let mut command = Command::new(&stage.millrace);
        command.arg("web").arg(stage.folder.join("monitor"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("the page's server has no output")?;
        let mut page = Page { child, port: 0, token: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split_once("/#t="));
        let (port, token) = address.ok_or_else(|| format!("an address: {line:?}"))?;
        (page.port, page.token) = (port.parse()?, token.to_owned());
        Ok(page)
    }

    /// The processor time of the server and of the process that connects for it.
    fn processor_time(&self) -> Result<Duration, Failure> {
        let server = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
        let mut all = Duration::ZERO;
        for process in std::iter::once(server.to_string().as_str()).chain(children.split_whitespace()) {
            // Nanoseconds on a processor, of the first thread; others live for a connection.
            let stat = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
            let time = stat.split(' ').next().and_then(|time| time.parse().ok());
            all += Duration::from_nanos(time.ok_or("schedstat has no time")?);
        }
        Ok(all)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
