//! The effect of a stream or a mirror on a guest: random requests of 4 KiB over each program's NBD export,
//! first while nothing else happens, then while the disk is copied.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bench::{Daemon, Disk, Latencies, Spread, Target, Vmm, blank, storage};
use guest_agent::pattern::mix;
use harness::nbd::{Command, Nbd};
use harness::{Failure, STEP};

use crate::copy::Bench;
use crate::files::{self, Base, Made};
use crate::rows::Job;

const BLOCK: u64 = 4096;
/// The time for which the disk is measured without a stream.
const IDLE: Duration = Duration::from_secs(3);

/// The time after which a mirror is given up: nothing promises that it catches up with a guest that writes.
const LONGEST: Duration = Duration::from_secs(60);

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub job: Job,
    /// The percentage of writes.
    pub writes: u64,
    /// The number of requests in flight.
    pub depth: usize,
    /// The share of QEMU's p99 that ours is to be at most.
    pub share: f64,
}

const ROW: Row = Row { name: "", what: "", job: Job::Stream, writes: 0, depth: 1, share: 0.5 };

pub const ROWS: &[Row] = &[
    Row { name: "guest-read-1", what: "guest reads of 4 KiB, one at a time, and a stream", ..ROW },
    Row { name: "guest-read-4", what: "guest reads of 4 KiB, four at a time, and a stream", depth: 4, ..ROW },
    Row {
        name: "guest-read-8",
        what: "guest reads of 4 KiB, eight at a time, and a stream",
        depth: 8,
        ..ROW
    },
    Row {
        name: "guest-write-1",
        what: "guest writes of 4 KiB, one at a time, and a stream",
        writes: 100,
        ..ROW
    },
    Row {
        name: "guest-write-4",
        what: "guest writes of 4 KiB, four at a time, and a stream",
        writes: 100,
        depth: 4,
        ..ROW
    },
    Row {
        name: "guest-write-8",
        what: "guest writes of 4 KiB, eight at a time, and a stream",
        writes: 100,
        depth: 8,
        ..ROW
    },
    Row {
        name: "mirror-read-1",
        what: "guest reads of 4 KiB, one at a time, and a mirror",
        job: Job::Mirror,
        ..ROW
    },
    Row {
        name: "mirror-read-8",
        what: "guest reads of 4 KiB, eight at a time, and a mirror",
        job: Job::Mirror,
        depth: 8,
        ..ROW
    },
    Row {
        name: "mirror-write-1",
        what: "guest writes of 4 KiB, one at a time, and a mirror",
        job: Job::Mirror,
        writes: 100,
        share: 0.25,
        ..ROW
    },
    Row {
        name: "mirror-write-8",
        what: "guest writes of 4 KiB, eight at a time, and a mirror",
        job: Job::Mirror,
        writes: 100,
        depth: 8,
        ..ROW
    },
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
    /// The time until the stream ended or the mirror was ready, in seconds.
    seconds: f64,
    /// False for a mirror that was not ready within [`LONGEST`].
    ended: bool,
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

    /// Starts a program on `base` alone, with O_DIRECT, and makes the target of a mirror.
    fn on_base(&self, vmm: Vmm, base: &Made) -> Result<(Daemon, PathBuf), Failure> {
        let target = self.folder.join("target");
        blank(&target, "qcow2", base.size, self.leaf_options.as_deref())?;
        storage::evict(&base.path)?;
        storage::settle(&self.folder)?;
        let disk = Disk {
            leaf: (base.path.clone(), base.format.to_owned()),
            backing: None,
            direct: true,
            qemu_aio: self.qemu_aio.clone(),
        };
        Ok((Daemon::start(vmm, &self.millrace, &self.folder, &disk)?, target))
    }

    /// Measures a row and prints it.
    pub fn guest(&self, row: &Row) -> Result<(), Failure> {
        let size = self.size;
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, size)?;
        println!("  raw image of {} MiB, to qcow2, O_DIRECT; requests over NBD", size >> 20);
        let mut all = [(Vmm::Ours, Vec::new()), (Vmm::Qemu, Vec::new())];
        for seed in 0..u64::from(self.runs) {
            for (vmm, rounds) in &mut all {
                rounds.push(self.beside(row, *vmm, &base, seed + 1)?);
            }
        }
        std::fs::remove_file(&base.path)?;
        print(row, &all, size);
        Ok(())
    }

    fn beside(&self, row: &Row, vmm: Vmm, base: &Made, seed: u64) -> Result<Round, Failure> {
        let (mut daemon, target) = match row.job {
            Job::Stream => self.on_new_leaf(vmm, base)?,
            Job::Mirror => self.on_base(vmm, base)?,
        };
        let began = Instant::now();
        let guest = Guest::start(&mut daemon, row.writes, row.depth, seed)?;
        std::thread::sleep(IDLE);
        let copies = Instant::now();
        let ended = match row.job {
            Job::Stream => {
                daemon.stream()?;
                true
            }
            Job::Mirror => {
                daemon.start_mirror(&Target::File(target.clone(), "qcow2"), "target", false)?;
                daemon.mirror_ready(LONGEST)?
            }
        };
        let now = Instant::now();
        let answered = guest.end()?;
        drop(daemon);
        std::fs::remove_file(target)?;
        Ok(Round {
            idle: between(&answered, began, copies),
            during: between(&answered, copies, now),
            seconds: (now - copies).as_secs_f64(),
            ended,
        })
    }
}

fn print(row: &Row, all: &[(Vmm, Vec<Round>); 2], size: u64) {
    println!(
        "  {:<16}{:>28}{:>28}{:>12}{:>12}{:>12}",
        "microseconds", "p50", "p99", "max", "per second", "MiB/s"
    );
    let p99 = |rounds: &[Round], of: fn(&Round) -> &Latencies| -> Vec<f64> {
        rounds.iter().map(|round| of(round).percentile(99.0)).collect()
    };
    for (vmm, rounds) in all {
        for (phase, of) in [("idle", idle as fn(&Round) -> &Latencies), ("copying", during)] {
            let spread = |percent| Spread::of(rounds.iter().map(|round| of(round).percentile(percent)));
            let seconds = |round: &Round| if phase == "idle" { IDLE.as_secs_f64() } else { round.seconds };
            let rate = Spread::of(rounds.iter().map(|round| of(round).count() as f64 / seconds(round)));
            let stream = Spread::of(rounds.iter().map(|round| size as f64 / 1048576.0 / round.seconds));
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
    for (vmm, rounds) in all {
        let late = rounds.iter().filter(|round| !round.ended).count();
        if late > 0 {
            println!("  {vmm:?} was not ready after {LONGEST:?} in {late} of {} rounds", rounds.len());
        }
    }
    let seconds = |rounds: &[Round]| -> Vec<f64> { rounds.iter().map(|round| round.seconds).collect() };
    let [(_, ours), (_, theirs)] = all;
    let wanted = [
        (Spread::ratio(&seconds(ours), &seconds(theirs)), "of QEMU's time to its end", 1.0),
        (Spread::ratio(&p99(ours, during), &p99(theirs, during)), "of QEMU's p99 meanwhile", row.share),
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
