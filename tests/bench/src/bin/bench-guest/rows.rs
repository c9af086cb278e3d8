//! The measured rows, and the printed results.

use std::collections::BTreeMap;
use std::time::Duration;

use bench::{Spread, Vmm};
use guest_agent::client::Rate;
use harness::{Failure, STEP};

use crate::machine::{MEMORY, Stage};
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
}

/// The parameters of all rounds.
pub struct Bench {
    pub stage: Stage,
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
        self.boot(Vmm::Ours)?;
        self.boot(Vmm::Qemu)?;
        for round in 1..=self.runs {
            eprintln!("round {round} of {}", self.runs);
            ours.entry(BOOT).or_default().push(self.boot(Vmm::Ours)?);
            theirs.entry(BOOT).or_default().push(self.boot(Vmm::Qemu)?);
            self.round(io, [(Vmm::Ours, &mut ours), (Vmm::Qemu, &mut theirs)])?;
        }
        println!("{:<16}{:>24}{:>24}{:>24}", "", "Millrace", "QEMU microvm", "ratio");
        let mut good = true;
        let mut row = |name: &'static str, unit: &str, wanted: &Wanted| {
            let (Some(ours), Some(theirs)) = (ours.get(name), theirs.get(name)) else { return };
            let (Some(ratio), Some(a), Some(b)) =
                (Spread::ratio(ours, theirs), Spread::of(ours.clone()), Spread::of(theirs.clone()))
            else {
                return;
            };
            let (met, text) = match *wanted {
                Wanted::AtMost(most) => (ratio.median <= most, format!("at most {most}")),
                Wanted::AtLeast(least) => (ratio.median >= least, format!("at least {least}")),
            };
            good &= met;
            let mark = if met { "ok" } else { "MISSED" };
            println!("{name:<16}{a:>24}{b:>24}{ratio:>24}  {unit:<10}{mark:<8}{text}");
        };
        row(BOOT, "s", &Wanted::AtMost(0.7));
        row(BEYOND, "MiB", &Wanted::AtMost(1.0));
        for one in io {
            let unit = if one.sequential { "MiB/s" } else { "per second" };
            row(one.name, unit, &Wanted::AtLeast(1.0));
        }
        if let Some(beyond) = ours.get(BEYOND).and_then(|values| Spread::of(values.clone())) {
            let met = beyond.median <= MOST_BEYOND;
            good &= met;
            let mark = if met { "ok" } else { "MISSED" };
            println!("{mark:<8}{beyond} MiB beyond guest RAM, at most {MOST_BEYOND}");
        }
        Ok(good)
    }

    /// Boots a guest while no other runs. Returns the time to its init, in seconds.
    fn boot(&self, vmm: Vmm) -> Result<f64, Failure> {
        let machine = self.stage.boot(vmm)?;
        let boot = machine.boot.as_secs_f64();
        machine.end()?;
        Ok(boot)
    }

    /// Boots a guest on each machine. Each row is measured on one machine right after the other, in
    /// slices, so that the load of a busy host affects both alike.
    fn round(&self, io: &[&Io], all: [(Vmm, &mut Figures); 2]) -> Result<(), Failure> {
        let mut machines = Vec::new();
        for (vmm, figures) in all {
            machines.push((self.stage.boot(vmm)?, figures));
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
        for (machine, figures) in machines {
            let beyond = usage::beyond(machine.id(), MEMORY * MIB)? as f64 / MIB as f64;
            figures.entry(BEYOND).or_default().push(beyond);
            machine.end()?;
        }
        Ok(())
    }
}
