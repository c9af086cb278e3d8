//! The effect of a mirror's end on a guest, when the disk moves to the target.

use std::time::{Duration, Instant};

use bench::{Daemon, Disk, Latencies, Spread, Target, Vmm};
use harness::{Failure, STEP};
use serde_json::json;

use crate::copy::Bench;
use crate::files::Base;
use crate::guest::{Answered, Guest, between};
use crate::slow::Slow;

/// The size of the disk, in bytes: the copy is not what is measured.
const SIZE: u64 = 64 << 20;
/// The number of requests that the guest has in flight, half of them writes.
const DEPTH: usize = 8;
/// The time that a flush of the slow target takes.
const FLUSH: Duration = Duration::from_millis(200);
/// The time before a pivot whose slowest request is compared with it.
const BEFORE: Duration = Duration::from_secs(1);
/// The time after a pivot in which requests that it held back end.
const AFTER: Duration = Duration::from_millis(300);
/// The number of pivots, and the smaller one if there are fewer than five rounds.
const PIVOTS: usize = 60;
const FEW: usize = 12;

/// The longest request of those that were in flight between two points in time, in milliseconds.
fn longest(answered: &[Answered], from: Instant, to: Instant) -> f64 {
    let inside = answered.iter().filter(|one| one.sent < to && one.sent + one.took > from);
    inside.map(|one| one.took.as_secs_f64() * 1e3).fold(0.0, f64::max)
}

impl Bench {
    fn start_on_base(&self, vmm: Vmm, base: &std::path::Path) -> Result<Daemon, Failure> {
        let disk = Disk {
            leaf: (base.to_owned(), "raw".to_owned()),
            backing: None,
            direct: true,
            qemu_aio: self.qemu_aio.clone(),
        };
        Daemon::start(vmm, &self.millrace, &self.folder, &disk)
    }

    /// Measures the pivot to a target with slow flushes, and prints it.
    pub fn pivot_slow(&self) -> Result<(), Failure> {
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, SIZE)?;
        println!(
            "  raw to an NBD export whose flushes take {FLUSH:?}; {DEPTH} requests of 4 KiB at a time, half of \
             them writes"
        );
        let mut all = [(Vmm::Ours, Vec::new(), Vec::new()), (Vmm::Qemu, Vec::new(), Vec::new())];
        for seed in 0..u64::from(self.runs) {
            for (vmm, before, during) in &mut all {
                let slow = Slow::start(&self.folder, SIZE, FLUSH)?;
                let mut daemon = self.start_on_base(*vmm, &base.path)?;
                let guest = Guest::start(&mut daemon, 50, DEPTH, seed + 1)?;
                daemon.start_mirror(&Target::Export(slow.socket.clone()), "target", true)?;
                if !daemon.mirror_ready(STEP)? {
                    return Err(format!("{vmm:?}: not ready after {STEP:?}").into());
                }
                std::thread::sleep(BEFORE);
                let from = Instant::now();
                daemon.complete_mirror()?;
                let to = Instant::now();
                std::thread::sleep(AFTER);
                let answered = guest.end()?;
                drop(daemon);
                before.push(longest(&answered, from.checked_sub(BEFORE).unwrap_or(from), from));
                during.push(longest(&answered, from, to));
            }
        }
        std::fs::remove_file(&base.path)?;
        println!("  {:<10}{:>30}{:>30}", "longest ms", "in the second before", "while it ends");
        for (vmm, before, during) in &all {
            let (Some(before), Some(during)) =
                (Spread::of(before.iter().copied()), Spread::of(during.iter().copied()))
            else {
                return Ok(());
            };
            println!("  {:<10}{before:>30}{during:>30}", format!("{vmm:?}"));
        }
        let [(_, _, ours), (_, _, theirs)] = &all;
        if let (Some(most), Some(ratio)) = (Spread::of(ours.iter().copied()), Spread::ratio(ours, theirs)) {
            let mark = if most.median <= 10.0 { "ok" } else { "MISSED" };
            println!("  {mark:<8}{most} milliseconds, at most 10; {ratio} of QEMU's");
        }
        Ok(())
    }

    /// Moves a disk from image to image under load, and prints the blackouts.
    pub fn pivots(&self) -> Result<(), Failure> {
        let pivots = if self.runs < 5 { FEW } else { PIVOTS };
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, SIZE)?;
        let other = self.folder.join("other.img");
        std::fs::File::create(&other)?.set_len(SIZE)?;
        let mut daemon = self.start_on_base(Vmm::Ours, &base.path)?;
        let guest = Guest::start(&mut daemon, 50, DEPTH, 1)?;
        let mut moves = Vec::new();
        for number in 0..pivots {
            let target = if number % 2 == 0 { &other } else { &base.path };
            let target = Target::File(target.clone(), "raw");
            daemon.start_mirror(&target, &format!("target{number}"), true)?;
            if !daemon.mirror_ready(STEP)? {
                return Err(format!("not ready after {STEP:?}").into());
            }
            std::thread::sleep(BEFORE);
            let latency = daemon.qmp.execute_json("x-query-latency", json!({"device": "disk"}))?;
            let from = Instant::now();
            daemon.complete_mirror()?;
            let to = Instant::now();
            std::thread::sleep(AFTER);
            let arguments = json!({"device": "disk", "since": latency["next"]});
            let latency = daemon.qmp.execute_json("x-query-latency", arguments)?;
            let intervals = latency["intervals"].as_array().ok_or("no intervals")?;
            let closed: u64 = intervals.iter().filter_map(|one| one["gate-closed"].as_u64()).sum();
            moves.push((from, to, Duration::from_nanos(closed)));
        }
        let answered = guest.end()?;
        drop(daemon);
        std::fs::remove_file(&base.path)?;
        std::fs::remove_file(&other)?;
        let (mut blackouts, mut around, mut late) = (Latencies::default(), Latencies::default(), 0);
        for (from, to, closed) in &moves {
            let before = longest(&answered, from.checked_sub(BEFORE).unwrap_or(*from), *from);
            late += usize::from(closed.as_secs_f64() * 1e3 > before + 5.0);
            blackouts.add(*closed);
            around.add(Duration::from_secs_f64(longest(&answered, *from, *to) / 1e3));
        }
        let all = moves.first().map(|(from, ..)| between(&answered, *from, Instant::now()));
        println!(
            "  {pivots} pivots, raw to raw, under {DEPTH} requests of 4 KiB at a time, half of them writes"
        );
        println!("  {:<44}{:>10}{:>10}{:>10}", "microseconds", "p50", "p99", "max");
        let all = all.unwrap_or_default();
        for (what, latencies) in [
            ("time with the gate closed", &blackouts),
            ("longest request while each pivot ran", &around),
            ("all requests", &all),
        ] {
            let p = |percent| latencies.percentile(percent);
            println!("  {what:<44}{:>10.0}{:>10.0}{:>10.0}", p(50.0), p(99.0), p(100.0));
        }
        let median = blackouts.percentile(50.0) / 1e3;
        let mark = if median <= 1.0 { "ok" } else { "MISSED" };
        println!("  {mark:<8}{median:.2} milliseconds of blackout at the median, at most 1");
        let mark = if late == 0 { "ok" } else { "MISSED" };
        println!("  {mark:<8}{late} above 5 ms plus the slowest request of the second before, none allowed");
        Ok(())
    }
}
