//! The event tier: strategies on the real block layer, on simulated devices, in virtual time.
//!
//! - `world`: the devices of both hosts and the link between them
//! - `guest`: the guest's requests, and what its disk must hold
//! - `jobs`: presets that our own jobs do: mirrors and streams, as they are
//! - `model`: presets that no job does: a copy that follows a policy, to a target that can forget a granule
//! - `cost`: the processor time of a run
//! - this file: a run, and what it measures
//!
//! # What is real, and what is not
//!
//! Disks, images, gates, range locks, mirrors and streams are the code that ships, and so is a strategy's
//! [`crate::policy::Policy`]. Devices and link are those of [`block::sim`], whose head explains their service
//! and faults; the content of a disk is stamps, so every copied block is checked: the run ends with a read of
//! the whole disk, and each block must hold what the guest wrote there last.
//!
//! Faults of an experiment: a cut link has requests wait, as our NBD client does, and a death ends the run.
//! Devices that lie (`block::sim::Lies`) are for the tests: a strategy that is compared should not depend on
//! luck. Moving the guest itself costs a round trip and a millisecond, as in the fluid tier.

use std::rc::Rc;
use std::time::Duration;

use block::job::mirror::{CopyMode, MOST_WINDOW, MirrorTuning};
use block::sim::Lies;
use executor::Executor;

use crate::experiment::{Experiment, Party, Setup, When};
use crate::meter::{Loss, Meter};
use crate::policy::Phase;
use crate::presets::{self, Strategy};
use crate::record::{End, Outcome, SeriesPoint};

mod cost;
mod guest;
mod jobs;
mod model;
mod world;

pub use cost::Cost;
use guest::Guest;
use world::World;

/// The time that moving a guest takes besides the copy.
const HANDOVER: Duration = Duration::from_millis(1);
/// The time between two looks at the run.
const TICK: Duration = Duration::from_millis(100);
/// The guest runs before the migration for this long, or for this many requests.
const WARM_UP: (Duration, u64) = (Duration::from_secs(20), 5000);
/// The smallest unit of a disk here, in bytes.
const BLOCK: u64 = block::sim::stamps::BLOCK;
/// The largest disk, in bytes.
const LARGEST: u64 = 4 << 40;

/// The code that does a preset here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// A mirror that begins in this mode, with these settings.
    Mirror(CopyMode, MirrorTuning),
    /// A stream, in this order.
    Stream(Order),
    /// The policy, on a simulated target.
    Model,
}

/// The order of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Sequential,
    Hot,
    Trace,
}

/// Returns what does a disk preset in this tier, or why nothing does.
fn how(name: &str) -> Result<How, &'static str> {
    Ok(match name.split('(').next().unwrap_or(name) {
        "mirror-background" => How::Mirror(CopyMode::Background, MirrorTuning::default()),
        "mirror-io" => How::Mirror(CopyMode::WriteBlocking, MirrorTuning::default()),
        // In the list of presets, a W stands for a window.
        "mirror-behind" => match presets::window(name.trim_end_matches("(W)")) {
            Some(window @ 1..=MOST_WINDOW) => {
                How::Mirror(CopyMode::WriteBlocking, MirrorTuning { window, ..MirrorTuning::default() })
            }
            _ => return Err("windows of more than 1 GiB"),
        },
        "adaptive" => {
            How::Mirror(CopyMode::Background, MirrorTuning { adaptive: true, ..MirrorTuning::default() })
        }
        "postcopy-seq" => How::Stream(Order::Sequential),
        "postcopy-hot" => How::Stream(Order::Hot),
        "postcopy-trace" => How::Stream(Order::Trace),
        "stop-and-copy" | "dbt" | "dbt-hot-avoid" | "mirror-all" | "mirror-cold" | "three-phase"
        | "hybrid" => How::Model,
        "snapshot-delta" | "compose" => return Err("deltas and overlays"),
        "mirror-throttle" => return Err("a throttle of the guest"),
        _ => return Err("what it does"),
    })
}

/// Returns true if the tier runs the disk preset of this name.
pub fn runs(name: &str) -> bool {
    how(name).is_ok()
}

/// Checks that the tier can run an experiment.
///
/// # Errors
/// The first strategy or value that it cannot run.
pub fn check(experiment: &Experiment) -> Result<(), String> {
    for strategy in &experiment.strategies {
        if let Some(ram) = &strategy.ram {
            return Err(format!("the event tier does not run {ram}: RAM exists only as a fluid model"));
        }
        let disk = strategy.disk.as_deref().unwrap_or_default();
        if let Err(reason) = how(disk) {
            let names: Vec<&str> =
                presets::DISK.iter().map(|preset| preset.name).filter(|name| how(name).is_ok()).collect();
            return Err(format!(
                "the event tier does not run {disk}: {reason} exist only as a fluid model; it runs {}",
                names.join(", ")
            ));
        }
    }
    for point in &experiment.points {
        let setup = &point.setup;
        let Some(disk) = &setup.disk else { continue };
        if disk.size % (64 << 10) != 0 || disk.size > LARGEST {
            return Err("the event tier needs a disk.size in multiples of 64K, at most 4T".to_owned());
        }
        if disk.granule < 64 << 10 {
            return Err("the event tier needs a disk.granule of at least 64K, as the mirror has".to_owned());
        }
        if setup.workload.sizes.iter().any(|(size, _)| size % BLOCK != 0) {
            return Err("the event tier needs a workload.request-size in multiples of 4K".to_owned());
        }
        if let workload::Offsets::Strided(stride) = setup.workload.offsets
            && stride % BLOCK != 0
        {
            return Err("the event tier needs a stride in multiples of 4K".to_owned());
        }
        if setup.workload.working_set.is_some_and(|bytes| bytes % BLOCK != 0) {
            return Err("the event tier needs a workload.working-set in multiples of 4K".to_owned());
        }
    }
    Ok(())
}

/// The state of a migration, for the meter.
#[derive(Clone, Copy, Debug)]
struct Progress {
    phase: Phase,
    /// Bytes that the target lacks or has stale, and those that it never had.
    todo: u64,
    fresh: u64,
    /// True if writes go to both sides, and if the guest waits for the source's data after the move.
    both: bool,
    rounds: u32,
}

/// Something that moves the guest's disk.
trait Mover {
    fn progress(&self) -> Progress;
}

/// Runs a strategy with a seed.
///
/// # Panics
/// Panics if the tier cannot run it ([`check`]).
pub fn run(setup: &Setup, strategy: &Strategy, seed: u64) -> (Outcome, Cost) {
    let executor = Executor::simulated(seed);
    let (setup, strategy) = (setup.clone(), strategy.clone());
    executor.block_on(async move { migrate(&setup, &strategy, seed, Lies::default()).await })
}

/// `lies` are the faults of both devices, the target's writes and the source's reads.
async fn migrate(setup: &Setup, strategy: &Strategy, seed: u64, lies: Lies) -> (Outcome, Cost) {
    let name = strategy.disk.clone().unwrap_or_default();
    let how = how(&name).expect("the experiment was checked");
    let world = World::new(setup, matches!(how, How::Stream(_))).expect("the experiment was checked");
    let disk = world.source_disk().await.expect("a simulated disk opens");
    let guest = Guest::new(setup, &world, seed);
    let cpu = cost::now();
    guest.start(disk.clone());
    let idle = guest.warm_up(WARM_UP).await;
    let mut cost = Cost { idle_s: cost::now() - cpu, idle_requests: guest.requests(), ..Cost::default() };
    let cpu = cost::now();
    guest.command(Meter::new(idle));
    world.source.set_lies(Lies { misdirected: 0, ..lies });
    world.target.set_lies(Lies { rot: 0, ..lies });
    let before = (world.link.traffic(), world.source.counts(), guest.read_bytes());
    let (mover, task): (Rc<dyn Mover>, _) = match how {
        How::Mirror(mode, tuning) => {
            let deadline =
                Duration::try_from_secs_f64(setup.limits.deadline).ok().filter(|_| tuning.adaptive);
            jobs::mirror(&world, disk, mode, MirrorTuning { deadline, ..tuning })
        }
        How::Stream(order) => jobs::stream(&world, &guest, disk, order, seed),
        How::Model => model::start(setup, &world, &guest, disk, &name),
    };
    let mut faults = setup.faults.clone();
    let begin = executor::now();
    let data = world.data.max(1);
    let mut task = std::pin::pin!(task);
    let mut independence = None;
    let end = loop {
        let done = executor::timeout(TICK, task.as_mut()).await;
        let now = (executor::now() - begin).as_secs_f64();
        let progress = mover.progress();
        let sent = world.link.traffic().data - before.0.data;
        guest.tick(now, &progress, sent);
        match done {
            Some(Some(Ok(end))) => break end,
            // A job gives up, for instance, if requests in flight do not end because the link is cut.
            Some(_) => break End::Failed,
            None => {}
        }
        if independence.is_none() && progress.phase == Phase::After && progress.todo == 0 {
            independence = Some(now);
        }
        let copied = 1.0 - progress.fresh as f64 / data as f64;
        let mut died = false;
        faults.retain(|fault| {
            let due = match fault.when {
                When::At(seconds) => now >= seconds,
                When::Copied(share) => copied >= share,
            };
            if due && fault.party == Party::Link {
                world.link.cut(Duration::try_from_secs_f64(fault.length).unwrap_or(Duration::MAX / 4));
            }
            died |= due && fault.party != Party::Link;
            !due
        });
        if died {
            break End::Failed;
        }
        if now >= setup.limits.deadline {
            break End::Late;
        }
    };
    let now = (executor::now() - begin).as_secs_f64();
    let progress = mover.progress();
    let requests = guest.requests() - cost.idle_requests;
    let sent = world.link.traffic().data - before.0.data;
    let read = (world.source.counts().read_bytes - before.1.read_bytes)
        .saturating_sub(guest.read_bytes_at_source() - before.2);
    let written = world.target.counts().written_bytes.saturating_sub(guest.written_at_target());
    (cost.requests, cost.copied) = (requests, read);
    cost.total_s = cost::now() - cpu;
    if end == End::Moved {
        // Before the devices take no time any more.
        guest.over().await;
    }
    let (mut meter, stalled) = guest.take_meter();
    let cpu = cost::now();
    let wrong = if end == End::Moved { guest.verify(&world).await } else { guest.wrong() };
    if end == End::Moved {
        (cost.check_s, cost.checked) = (cost::now() - cpu, world.size);
    }
    let record = &mut meter.record;
    record.wrong_blocks = wrong;
    record.differs_bytes = world.data;
    record.sent_bytes = sent;
    record.source_read_bytes = read;
    record.target_written_bytes = written;
    record.amplification = if world.data > 0 { sent as f64 / world.data as f64 } else { 0.0 };
    let first = world.data.saturating_sub(progress.fresh) as f64;
    record.resent_share = if sent > 0 { (sent as f64 - first).max(0.0) / sent as f64 } else { 0.0 };
    record.rounds = progress.rounds;
    record.cpu_s_per_gib = crate::fluid::CPU_COPY * (1_u64 << 30) as f64;
    record.space_ratio = 2.0 * world.data as f64 / world.size as f64;
    record.faulted_share = (guest.faulted_bytes() as f64 / guest.used_bytes().max(1) as f64).min(1.0);
    record.end = end;
    record.converged = end == End::Moved;
    record.independence_s = match end {
        End::Moved if progress.phase == Phase::After => independence.unwrap_or(now),
        End::Moved => now,
        End::Aborted | End::Late | End::Failed => now,
    };
    "event".clone_into(&mut record.tier);
    record.strategy = strategy.name();
    record.seed = seed;
    let (record, mut series) = meter.finish(now, stalled);
    for line in &mut series {
        line.strategy = strategy.name();
        line.seed = seed;
    }
    (Outcome { record, series }, cost)
}

/// The costs of the deaths of source, target and link now, as the fluid tier defines them. A link that is
/// cut has requests wait that need the other side.
fn losses(progress: &Progress) -> [Loss; 3] {
    match progress.phase {
        Phase::Before | Phase::Stopped => {
            let source = if progress.both && progress.todo == 0 { Loss::Reboots } else { Loss::Loses };
            let link = match (progress.phase, progress.both) {
                (Phase::Stopped, _) => Loss::Restarts,
                (_, true) => Loss::Pauses,
                (_, false) => Loss::Nothing,
            };
            [source, Loss::Restarts, link]
        }
        Phase::After if progress.todo > 0 => [Loss::Loses, Loss::Loses, Loss::Pauses],
        Phase::After | Phase::Done => [Loss::Nothing, Loss::Loses, Loss::Nothing],
    }
}

/// A line of the series.
fn line(now: f64, progress: &Progress, sent: u64, rates: (f64, f64)) -> SeriesPoint {
    SeriesPoint {
        t_s: now,
        phase: Meter::phase(progress.phase),
        todo_bytes: progress.todo,
        sent_bytes: sent,
        copy_bytes_per_s: rates.0,
        dirty_bytes_per_s: rates.1,
        ..SeriesPoint::default()
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
