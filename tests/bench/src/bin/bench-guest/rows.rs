//! The measured rows, and the printed results.

use std::collections::BTreeMap;
use std::time::Duration;

use bench::Spread;
use guest_agent::client::Rate;
use harness::{Failure, STEP};

use crate::machine::{MEMORY, Peer, Side, Stage};
use crate::usage;

/// A row of I/O.
pub struct Io {
    pub name: &'static str,
    pub what: &'static str,
    block: u64,
    depth: u32,
    write: bool,
    sequential: bool,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const fn random(name: &'static str, what: &'static str, write: bool, depth: u32) -> Io {
    Io { name, what, block: 4 * KIB, depth, write, sequential: false }
}

const fn sequential(name: &'static str, what: &'static str, write: bool) -> Io {
    Io { name, what, block: MIB, depth: 1, write, sequential: true }
}

pub const IO: &[Io] = &[
    random("random-read-1", "4 KiB reads in random order, one at a time", false, 1),
    random("random-read-8", "4 KiB reads in random order, eight at a time", false, 8),
    random("random-write-1", "4 KiB writes in random order, one at a time", true, 1),
    random("random-write-8", "4 KiB writes in random order, eight at a time", true, 8),
    sequential("read-1m", "1 MiB reads in order", false),
    sequential("write-1m", "1 MiB writes in order", true),
];

impl Io {
    fn rate(&self, size: u64, time: Duration) -> Rate {
        Rate {
            device: "/dev/vda".to_owned(),
            offset: 0,
            length: size,
            block: self.block,
            depth: self.depth,
            write: self.write,
            sequential: self.sequential,
            time,
        }
    }
}

/// The target of a row's ratio.
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
    /// Not above 1 in every round: what is measured did not become more, or not more than the noise.
    NotMore,
    /// Not below 1 in every round.
    NotLess,
    Anything,
}

impl Wanted {
    /// Returns true if the ratio is as wanted.
    fn is_met(&self, ratio: &Spread) -> bool {
        match *self {
            Wanted::AtMost(most) => ratio.median <= most,
            Wanted::AtLeast(least) => ratio.median >= least,
            Wanted::NotMore => ratio.min <= 1.0,
            Wanted::NotLess => ratio.max >= 1.0,
            Wanted::Anything => true,
        }
    }

    fn text(&self) -> String {
        match self {
            Wanted::AtMost(most) => format!("at most {most}"),
            Wanted::AtLeast(least) => format!("at least {least}"),
            Wanted::NotMore => "not more in every round".to_owned(),
            Wanted::NotLess => "not less in every round".to_owned(),
            Wanted::Anything => String::new(),
        }
    }
}

impl Peer {
    /// The name of our machine, and that of the other one.
    fn names(&self) -> [&'static str; 2] {
        match self {
            Peer::Qemu => ["Millrace", "QEMU microvm"],
            Peer::NoScreen => ["with a screen", "without"],
            Peer::Build(_) => ["this build", "the other build"],
        }
    }

    /// The targets for boot, memory and I/O.
    fn wanted(&self) -> [Wanted; 3] {
        match self {
            Peer::Qemu => [Wanted::AtMost(0.7), Wanted::AtMost(1.0), Wanted::AtLeast(1.0)],
            // The screen itself takes memory.
            Peer::NoScreen => [Wanted::AtMost(1.15), Wanted::Anything, Wanted::NotLess],
            Peer::Build(_) => [Wanted::NotMore, Wanted::NotMore, Wanted::NotLess],
        }
    }
}

/// The parameters of all rounds.
pub struct Bench {
    pub stage: Stage,
    pub peer: Peer,
    pub runs: u32,
    /// The duration of each row of I/O in each round.
    pub time: Duration,
    /// The size of the image, in bytes.
    pub size: u64,
}

/// The figures of one machine, by row.
type Figures = BTreeMap<&'static str, Vec<f64>>;

/// The number of parts of a row's time. They alternate between the machines.
const SLICES: u32 = 4;

const BOOT: &str = "boot";
const BEYOND: &str = "memory";
/// The allowed memory beyond guest RAM, in MiB.
const MOST_BEYOND: f64 = 8.0;

impl Bench {
    /// Measures everything and prints it. Returns true if all ratios meet their targets.
    pub fn measure(&self, io: &[&Io]) -> Result<bool, Failure> {
        let (mut ours, mut theirs) = (Figures::new(), Figures::new());
        // Boots once without measuring: the first boot reads programs and kernel from the storage.
        self.boot(Side::Ours)?;
        self.boot(Side::Peer)?;
        for round in 1..=self.runs {
            eprintln!("round {round} of {}", self.runs);
            ours.entry(BOOT).or_default().push(self.boot(Side::Ours)?);
            theirs.entry(BOOT).or_default().push(self.boot(Side::Peer)?);
            self.round(io, [(Side::Ours, &mut ours), (Side::Peer, &mut theirs)])?;
        }
        let [us, them] = self.peer.names();
        println!("{:<16}{us:>24}{them:>24}{:>24}", "", "ratio");
        let mut good = true;
        let mut row = |name: &'static str, unit: &str, wanted: &Wanted| {
            let (Some(ours), Some(theirs)) = (ours.get(name), theirs.get(name)) else { return };
            let (Some(ratio), Some(a), Some(b)) =
                (Spread::ratio(ours, theirs), Spread::of(ours.clone()), Spread::of(theirs.clone()))
            else {
                return;
            };
            let (met, text) = (wanted.is_met(&ratio), wanted.text());
            good &= met;
            let mark = if met { "ok" } else { "MISSED" };
            println!("{name:<16}{a:>24}{b:>24}{ratio:>24}  {unit:<10}{mark:<8}{text}");
        };
        let [boot, beyond, rate] = self.peer.wanted();
        row(BOOT, "s", &boot);
        row(BEYOND, "MiB", &beyond);
        for one in io {
            let unit = if one.sequential { "MiB/s" } else { "per second" };
            row(one.name, unit, &rate);
        }
        if self.peer == Peer::Qemu
            && let Some(beyond) = ours.get(BEYOND).and_then(|values| Spread::of(values.clone()))
        {
            let met = beyond.median <= MOST_BEYOND;
            good &= met;
            let mark = if met { "ok" } else { "MISSED" };
            println!("{mark:<8}{beyond} MiB beyond guest RAM, at most {MOST_BEYOND}");
        }
        Ok(good)
    }

    /// Boots a guest while no other runs. Returns the time to its init, in seconds.
    fn boot(&self, side: Side) -> Result<f64, Failure> {
        let machine = self.stage.boot(side)?;
        let boot = machine.boot.as_secs_f64();
        machine.end()?;
        Ok(boot)
    }

    /// Boots a guest on each machine. Each row is measured on one machine right after the other, in
    /// slices, so that the load of a busy host affects both alike.
    fn round(&self, io: &[&Io], all: [(Side, &mut Figures); 2]) -> Result<(), Failure> {
        let mut machines = Vec::new();
        for (side, figures) in all {
            machines.push((self.stage.boot(side)?, figures));
        }
        for row in io {
            let mut done = [(0.0, 0.0); 2];
            for _ in 0..SLICES {
                for ((machine, _), (count, seconds)) in machines.iter_mut().zip(&mut done) {
                    self.stage.settle()?;
                    let job = machine.agent.rate(&row.rate(self.size, self.time / SLICES))?;
                    let stat = machine.agent.wait(job, self.time + STEP)?;
                    *seconds += stat.elapsed.as_secs_f64();
                    *count +=
                        if row.sequential { stat.bytes as f64 / MIB as f64 } else { stat.total.count as f64 };
                }
            }
            for ((_, figures), (count, seconds)) in machines.iter_mut().zip(done) {
                figures.entry(row.name).or_default().push(count / f64::max(seconds, f64::MIN_POSITIVE));
            }
        }
        // While both run: pages of a program or library that both map count half for each.
        for (machine, figures) in &mut machines {
            let beyond = usage::beyond(machine.id(), MEMORY * MIB)? as f64 / MIB as f64;
            figures.entry(BEYOND).or_default().push(beyond);
        }
        machines.into_iter().try_for_each(|(machine, _)| machine.end())
    }
}
