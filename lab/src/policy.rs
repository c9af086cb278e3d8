//! The interface between strategies and what runs them.
//!
//! A strategy is a [`Policy`]: pure code that sees a [`Seen`] at each tick and gives orders. It has no clock,
//! no I/O and no random numbers of its own, so every tier runs the same code. A disk and a guest's RAM have a
//! policy each; the guest moves when all of them order [`Order::Pivot`] in one tick.

use smallvec::SmallVec;

/// The orders of one tick.
pub type Orders = SmallVec<[Order; 4]>;

/// A strategy.
pub trait Policy {
    /// Its name, as experiments write it.
    fn name(&self) -> String;

    /// Looks at what happens and gives orders. Called once before anything is copied, and then after each
    /// step.
    fn tick(&mut self, seen: &Seen) -> Orders;

    /// Copies the policy with its state, so that a run can be forked at any instant.
    fn fork(&self) -> Box<dyn Policy + Send>;
}

/// The state of a migration, as a policy sees it. Times are in seconds since the command, sizes in bytes,
/// rates in bytes per second.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The time.
    pub now: f64,
    /// The state of what this policy moves.
    pub own: SpaceSeen,
    /// The state of the other part, if the experiment has both.
    pub other: Option<SpaceSeen>,
    /// The guest's requests.
    pub guest: Latencies,
    /// The link.
    pub link: LinkSeen,
    /// The part of the migration.
    pub phase: Phase,
    /// The limits that the experiment sets.
    pub limits: Limits,
}

/// The state of a disk or of RAM while it moves.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceSeen {
    /// Its size.
    pub size: u64,
    /// Bytes to be copied, the part that was never copied included.
    pub todo: u64,
    /// Bytes that were never copied.
    pub fresh: u64,
    /// With frozen rounds: what is left of this round.
    pub round: u64,
    /// With frozen rounds: what was written since the round began. It is part of `todo`.
    pub next: u64,
    /// Rounds that were begun.
    pub rounds: u32,
    /// Bytes that were copied, some of them more than once.
    pub copied: u64,
    /// The moving average of what is copied each second.
    pub copied_rate: f64,
    /// The moving average of what the guest makes stale each second.
    pub dirty_rate: f64,
    /// The least `todo` so far.
    pub least_todo: u64,
    /// The time at which `todo` was that small.
    pub least_at: f64,
    /// The data written beyond the target's knowledge: with [`Tee::Behind`], what the window holds.
    pub window: u64,
}

/// The latencies of the last second, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99th percentile before the migration.
    pub idle_p99: f64,
    /// Requests that ended, a second.
    pub rate: f64,
}

/// The state of the link.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSeen {
    /// Its rate now; 0 while it is cut.
    pub rate: f64,
    /// The time for a message to the other side and back.
    pub round_trip: f64,
}

/// The part of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// The guest runs at the source.
    #[default]
    Before,
    /// The guest is stopped.
    Stopped,
    /// The guest runs at the target, which does not have everything yet.
    After,
    /// The target has everything.
    Done,
}

/// The limits of an experiment, in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// The longest stop of the guest that is wanted.
    pub downtime: f64,
    /// The time by which the migration has to end.
    pub deadline: f64,
    /// The 99th percentile that the guest should not exceed.
    pub p99: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { downtime: 0.3, deadline: 6.0 * 3600.0, p99: 0.02 }
    }
}

/// An order of a policy.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Order {
    /// The way of the guest's writes from now on.
    Tee(Tee),
    /// The copier's limit in bytes per second.
    Speed(f64),
    /// The order in which the copier takes granules.
    Take(Plan),
    /// Begins a round: what is to be copied now, and nothing that is written from now on.
    FreezeRound,
    /// The guest moves as soon as every policy wants it.
    Pivot {
        /// The treatment of what the target does not have then.
        stale: Stale,
    },
    /// Slows the guest: this share of its writes, or of its CPU, is withheld; 0 to 1.
    Throttle(f64),
    /// Gives up. The guest goes on at the source.
    Abort,
}

/// The way of the guest's writes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Tee {
    /// To the source alone; what was copied becomes stale.
    #[default]
    Background,
    /// To both sides, where the target has the granule already.
    Active,
    /// To both sides everywhere; what is mirrored need not be copied.
    All,
    /// As `Active`, but the guest waits for the source alone, unless more than this many bytes are on their
    /// way.
    Behind(u64),
    /// To a delta over the source; the copier reads what lies below.
    Delta,
    /// To the source, and to an overlay at the target, which is merged at the end.
    Overlay,
}

/// The order in which granules are copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plan {
    /// From the start to the end, and again.
    #[default]
    Sequential,
    /// Those first that are written least.
    ColdFirst,
    /// Those first that are used most.
    HotFirst,
    /// As a boot of the same image used them.
    Trace,
}

/// The treatment of what the target lacks at the pivot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// It is copied while the guest is stopped.
    Copy,
    /// It is fetched afterwards: what the guest asks for at once, the rest behind it.
    Pull,
}
