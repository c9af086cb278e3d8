//! The effect of a stream on a guest: random requests of 4 KiB over each program's NBD export, first
//! while nothing else happens, then while the disk streams.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bench::{Daemon, Disk, Latencies, Spread, Vmm, storage};
use guest_agent::pattern::mix;
use harness::nbd::{Command, Nbd};
use harness::{Failure, STEP};

use crate::copy::Bench;
use crate::files::{self, Base, Made};

const BLOCK: u64 = 4096;
/// The time for which the disk is measured without a stream.
const IDLE: Duration = Duration::from_secs(3);

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    /// The percentage of writes.
    pub writes: u64,
    /// The number of requests in flight.
    pub depth: usize,
}

pub const ROWS: &[Row] = &[
    Row { name: "guest-read-1", what: "guest reads of 4 KiB, one at a time", writes: 0, depth: 1 },
    Row { name: "guest-read-4", what: "guest reads of 4 KiB, four at a time", writes: 0, depth: 4 },
    Row { name: "guest-write-1", what: "guest writes of 4 KiB, one at a time", writes: 100, depth: 1 },
    Row { name: "guest-write-4", what: "guest writes of 4 KiB, four at a time", writes: 100, depth: 4 },
];

/// A completed request.
#[derive(Clone, Copy)]
pub struct Answered {
    pub sent: Instant,
    pub took: Duration,
}

/// A guest that reads and writes at random until it is ended.
pub struct Guest {
    thread: JoinHandle<Result<Vec<Answered>, String>>,
    ends: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Guest {
    /// Starts a guest on a connection of its own.
    pub fn start(daemon: &mut Daemon, writes: u64, depth: usize, seed: u64) -> Result<Self, Failure> {
        let socket = daemon.export()?;
        let nbd = Nbd::connect(&socket, "disk", STEP)?;
        let ends = std::sync::Arc::default();
        let told = std::sync::Arc::clone(&ends);
        let thread =
            std::thread::spawn(move || work(nbd, writes, depth, seed, &told).map_err(|e| e.to_string()));
        Ok(Guest { thread, ends })
    }

    /// Ends the guest. Returns its completed requests.
    pub fn end(self) -> Result<Vec<Answered>, Failure> {
        self.ends.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the guest panicked")??)
    }
}

fn work(
    mut nbd: Nbd,
    writes: u64,
    depth: usize,
    seed: u64,
    ends: &std::sync::atomic::AtomicBool,
) -> Result<Vec<Answered>, Failure> {
    let mut random = seed;
    let mut answered = Vec::new();
    let mut sent = HashMap::new();
    let (block, mut data) = ([0x5a; BLOCK as usize], Vec::new());
    let blocks = nbd.size() / BLOCK;
    loop {
        while nbd.in_flight() < depth && !ends.load(std::sync::atomic::Ordering::Relaxed) {
            random = mix(random);
            let offset = (random >> 16) % blocks * BLOCK;
            let now = Instant::now();
            let cookie = if random % 100 < writes {
                nbd.send(Command::Write(BLOCK as u32), offset, &block)?
            } else {
                nbd.send(Command::Read(BLOCK as u32), offset, &[])?
            };
            sent.insert(cookie, now);
        }
        if nbd.in_flight() == 0 {
            return Ok(answered);
        }
        let reply = nbd.receive(&mut data)?;
        if reply.error != 0 {
            return Err(format!("{:?} failed with error {}", reply.command, reply.error).into());
        }
        if let Some(sent) = sent.remove(&reply.cookie) {
            answered.push(Answered { sent, took: sent.elapsed() });
        }
    }
}

/// The latencies of the requests that were sent between two points in time.
pub fn between(answered: &[Answered], from: Instant, to: Instant) -> Latencies {
    let mut latencies = Latencies::default();
    let inside = answered.iter().filter(|one| (from..to).contains(&one.sent));
    inside.for_each(|one| latencies.add(one.took));
    latencies
}

/// One round of one program.
struct Round {
    idle: Latencies,
    during: Latencies,
    /// The duration of the stream, in seconds.
    stream: f64,
}

impl Bench {
    /// Starts a program on a new qcow2 leaf over `base`, with O_DIRECT, and with neither image in the
    /// page cache.
    pub fn on_new_leaf(&self, vmm: Vmm, base: &Made) -> Result<(Daemon, PathBuf), Failure> {
        let leaf = self.folder.join("target");
        files::leaf(&leaf, "qcow2", base, self.leaf_options.as_deref())?;
        storage::evict(&base.path)?;
        storage::settle(&self.folder)?;
        let disk = Disk {
            leaf: (leaf.clone(), "qcow2".to_owned()),
            backing: Some((base.path.clone(), base.format.to_owned())),
            direct: true,
            qemu_aio: self.qemu_aio.clone(),
        };
        Ok((Daemon::start(vmm, &self.millrace, &self.folder, &disk)?, leaf))
    }

    /// Measures a row and prints it.
    pub fn guest(&self, row: &Row) -> Result<(), Failure> {
        let size = self.size;
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, size)?;
        println!("  raw base of {} MiB, qcow2 leaf, O_DIRECT; requests over NBD", size >> 20);
        let mut all = [(Vmm::Ours, Vec::new()), (Vmm::Qemu, Vec::new())];
        for seed in 0..u64::from(self.runs) {
            for (vmm, rounds) in &mut all {
                let (mut daemon, leaf) = self.on_new_leaf(*vmm, &base)?;
                let began = Instant::now();
                let guest = Guest::start(&mut daemon, row.writes, row.depth, seed + 1)?;
                std::thread::sleep(IDLE);
                let streams = Instant::now();
                daemon.stream()?;
                let ended = Instant::now();
                let answered = guest.end()?;
                drop(daemon);
                std::fs::remove_file(leaf)?;
                rounds.push(Round {
                    idle: between(&answered, began, streams),
                    during: between(&answered, streams, ended),
                    stream: (ended - streams).as_secs_f64(),
                });
            }
        }
        std::fs::remove_file(&base.path)?;
        print(&all, size);
        Ok(())
    }
}

fn print(all: &[(Vmm, Vec<Round>); 2], size: u64) {
    println!(
        "  {:<16}{:>28}{:>28}{:>12}{:>12}{:>12}",
        "microseconds", "p50", "p99", "max", "per second", "MiB/s"
    );
    let p99 = |rounds: &[Round], of: fn(&Round) -> &Latencies| -> Vec<f64> {
        rounds.iter().map(|round| of(round).percentile(99.0)).collect()
    };
    for (vmm, rounds) in all {
        for (phase, of) in [("idle", idle as fn(&Round) -> &Latencies), ("streaming", during)] {
            let spread = |percent| Spread::of(rounds.iter().map(|round| of(round).percentile(percent)));
            let seconds = |round: &Round| if phase == "idle" { IDLE.as_secs_f64() } else { round.stream };
            let rate = Spread::of(rounds.iter().map(|round| of(round).count() as f64 / seconds(round)));
            let stream = Spread::of(rounds.iter().map(|round| size as f64 / 1048576.0 / round.stream));
            let (Some(p50), Some(p99), Some(max), Some(rate), Some(stream)) =
                (spread(50.0), spread(99.0), spread(100.0), rate, stream)
            else {
                return;
            };
            let stream = if phase == "idle" { String::new() } else { format!("{:.0}", stream.median) };
            println!(
                "  {:<16}{p50:>28}{p99:>28}{:>12.0}{:>12.0}{stream:>12}",
                format!("{vmm:?} {phase}"),
                max.max,
                rate.median
            );
        }
    }
    let [(_, ours), (_, theirs)] = all;
    let wanted = [
        (Spread::ratio(&p99(ours, during), &p99(theirs, during)), "of QEMU's p99 while streaming", 0.5),
        (Spread::ratio(&p99(ours, during), &p99(ours, idle)), "times our own idle p99", 3.0),
    ];
    for (ratio, what, most) in wanted {
        let Some(ratio) = ratio else { continue };
        let mark = if ratio.median <= most { "ok" } else { "MISSED" };
        println!("  {mark:<8}{ratio} {what}, at most {most}");
    }
}

fn idle(round: &Round) -> &Latencies {
    &round.idle
}

fn during(round: &Round) -> &Latencies {
    &round.during
}
