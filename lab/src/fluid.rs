//! The fluid tier: a migration as regions, rates and queues, in steps of 10 to 100 ms of virtual time.
//!
//! - `space`: a disk or RAM as classes of granules, and what the target lacks of each
//! - `classes`: the classes of a workload
//! - `guest`: the guest's requests, and what they wait for
//! - `rates`, `moves`: who gets how much of devices and link, and what a step does with it
//! - `losses`: what a death would cost, by forking the run
//! - this file: the link that all share, the phases of a migration, and the orders of its policies
//!
//! A step runs the guest, then copies with what the guest leaves of devices and link (a tenth at least), then
//! asks the policies. It ends early when a round or a stop ends, so those times are exact.

use workload::Random;

use crate::experiment::{Fault, Party, Setup, When};
use crate::policy::{Latencies, Order, Phase, Plan, Policy, Seen, Stale, Tee};
use crate::presets::{self, Strategy};
use crate::record::{End, Outcome, SeriesPoint};

mod classes;
mod guest;
mod losses;
mod moves;
mod rates;
mod space;

use crate::meter::Meter;
use guest::{Guest, Place};
pub use space::{Class, Space};

/// The longest and the shortest regular step, in seconds.
const STEPS: (f64, f64) = (0.01, 0.1);
/// The shortest step of all, in seconds.
const TINY: f64 = 1e-4;
/// Rounds after which each further one takes a regular step at least. Rounds that cost nothing would become
/// shorter and shorter, and a run that cannot reach its limit would have millions of them.
const QUICK_ROUNDS: u32 = 1000;
/// Seconds that moving a guest costs besides the copy and a round trip.
const HANDOVER: f64 = 0.001;
/// Bytes of the copies in flight. The link is one connection, so a request of the guest waits for those that
/// were sent before it.
const IN_FLIGHT: f64 = 1_048_576.0;
/// The deviation of the link's rate from second to second.
const LINK_NOISE: f64 = 0.01;
/// CPU seconds of both sides for each byte copied, and for each request that is mirrored.
pub(crate) const CPU_COPY: f64 = 60e-6 / 1_048_576.0;
const CPU_MIRROR: f64 = 10e-6;

/// A disk or RAM that moves, with its policy.
struct Part {
    space: Space,
    policy: Box<dyn Policy + Send>,
    tee: Tee,
    plan: Plan,
    speed: f64,
    throttle: f64,
    /// The treatment of the rest, if the policy wants to move in this tick.
    wants: Option<Stale>,
    /// Seconds until the copier may begin the round.
    resting: f64,
    /// True if what is left is fetched after the guest has moved.
    pulls: bool,
}

impl Clone for Part {
    fn clone(&self) -> Self {
        Part { space: self.space.clone(), policy: self.policy.fork(), ..*self }
    }
}

impl Part {
    fn new(space: Space, policy: Box<dyn Policy + Send>) -> Part {
        Part {
            space,
            policy,
            tee: Tee::Background,
            plan: Plan::Sequential,
            speed: f64::INFINITY,
            throttle: 0.0,
            wants: None,
            resting: 0.0,
            pulls: false,
        }
    }
}

/// A run.
#[derive(Clone)]
pub struct Run<'a> {
    setup: &'a Setup,
    strategy: String,
    seed: u64,
    disk: Option<Part>,
    ram: Option<Part>,
    guest: Guest,
    meter: Meter,
    random: Random,
    now: f64,
    phase: Phase,
    end: Option<End>,
    step: f64,
    /// The factor of the link's rate, the time until which it holds, and the end of a cut.
    link: (f64, f64),
    cut_until: f64,
    faults: Vec<Fault>,
    /// The factor of what the guest writes to RAM, and the time until which it holds.
    dirty: (f64, f64),
    /// The guest's own traffic over the link in the last step, in bytes per second.
    beside: f64,
    /// Bytes on their way in the window of [`Tee::Behind`].
    window: f64,
    /// The granules that were written to an overlay or to deltas.
    overlay: Option<Space>,
    /// Bytes of granules and pages that the guest had to wait for.
    faulted: f64,
    /// Bytes to merge at the target after the guest has moved.
    merging: f64,
    /// Seconds of the stop that are left.
    stop_left: f64,
    /// True for the run itself, false for a fork.
    samples: bool,
    copier: f64,
    /// Bytes of copies that are in the link.
    in_link: f64,
}

impl<'a> Run<'a> {
    /// Prepares a run of a strategy with a seed.
    pub fn new(setup: &'a Setup, strategy: &Strategy, seed: u64) -> Self {
        let disk = strategy.disk.as_deref().and_then(presets::disk);
        let ram = strategy.ram.as_deref().and_then(presets::ram);
        Self::with(setup, disk, ram, seed)
    }

    /// Prepares a run of policies that need not be presets, with a seed.
    pub fn with(
        setup: &'a Setup,
        disk: Option<Box<dyn Policy + Send>>,
        ram: Option<Box<dyn Policy + Send>>,
        seed: u64,
    ) -> Self {
        let names: Vec<String> = [&disk, &ram].into_iter().flatten().map(|policy| policy.name()).collect();
        let of_disk = setup.disk.zip(disk).map(|(disk, policy)| {
            Part::new(Space::new(disk.granule as f64, classes::of_disk(&disk, &setup.workload)), policy)
        });
        let of_ram = setup
            .ram
            .zip(ram)
            .map(|(ram, policy)| Part::new(Space::new(classes::PAGE, classes::of_ram(&ram)), policy));
        let size: f64 = [&of_disk, &of_ram].into_iter().flatten().map(|part| part.space.size()).sum();
        let step = (size / setup.link.rate / 2000.0).clamp(STEPS.0, STEPS.1);
        let overlay = of_disk.as_ref().map(|part| {
            let mut space = part.space.clone();
            for class in &mut space.classes {
                (class.fresh, class.left) = (0.0, 0.0);
            }
            space
        });
        let mut run = Run {
            setup,
            strategy: names.join("+"),
            seed,
            disk: of_disk,
            ram: of_ram,
            guest: Guest::new(&setup.workload, seed),
            meter: Meter::new(Latencies::default()),
            random: Random::of(seed, "link"),
            now: 0.0,
            phase: Phase::Before,
            end: None,
            step,
            link: (1.0, 0.0),
            cut_until: 0.0,
            faults: setup.faults.clone(),
            dirty: (1.0, 0.0),
            beside: 0.0,
            window: 0.0,
            overlay,
            faulted: 0.0,
            merging: 0.0,
            stop_left: 0.0,
            samples: true,
            copier: 0.0,
            in_link: 0.0,
        };
        run.meter = Meter::new(run.idle());
        run.meter.record.differs_bytes = size as u64;
        run
    }

    /// Has the run keep no series and no costs of deaths, which makes it quicker.
    pub fn without_series(mut self) -> Self {
        self.samples = false;
        self
    }

    /// Runs to the end.
    pub fn finish(mut self) -> Outcome {
        while self.end.is_none() {
            self.step();
        }
        if self.samples {
            self.sample();
        }
        let end = self.end.unwrap_or_default();
        let stalled = self.guest.stalled;
        let gap = self.guest.longest_gap() * 1e3;
        self.meter.record.blackout_ms = self.meter.record.blackout_ms.max(gap);
        if end == End::Moved {
            // What waited for the move ends right after it. What arrives then is not part of the run.
            let waited = self.guest.waiting();
            let step = self.guest.step(self.now, STEPS.1, &self.place());
            self.meter.add(&step.first(waited));
        }
        let strategy = self.strategy.clone();
        let (seed, now) = (self.seed, self.now);
        let copied: f64 = self.parts().map(|part| part.space.copied).sum();
        let fresh: f64 = self.parts().map(|part| part.space.fresh()).sum();
        let used: f64 = self.parts().map(|part| part.space.used()).sum();
        let disk_data = self.disk.as_ref().map_or(0.0, |part| part.space.size());
        let setup = self.setup;
        let rounds = self.parts().map(|part| part.space.rounds).max().unwrap_or(0);
        let record = &mut self.meter.record;
        record.rounds = rounds;
        let sent = record.sent_bytes as f64;
        record.amplification =
            if record.differs_bytes > 0 { sent / record.differs_bytes as f64 } else { 0.0 };
        // Each byte that is not fresh any more was sent once; what was sent beyond that was sent again.
        let first = record.differs_bytes as f64 - fresh;
        record.resent_share = if sent > 0.0 { (sent - first).max(0.0) / sent } else { 0.0 };
        record.cpu_s_per_gib += copied * CPU_COPY;
        record.cpu_s_per_gib /= (sent / (1 << 30) as f64).max(1e-9);
        let disk = setup.disk.map_or(0.0, |disk| disk.size as f64);
        if disk > 0.0 {
            // Source and target, and what lies beside them.
            record.space_ratio = (2.0 * disk_data + record.space_ratio) / disk;
        }
        record.faulted_share = if used > 0.0 { (self.faulted / used).min(1.0) } else { 0.0 };
        record.end = end;
        record.converged = end == End::Moved;
        if end != End::Moved {
            record.independence_s = now;
        }
        "fluid".clone_into(&mut record.tier);
        record.strategy.clone_from(&strategy);
        record.seed = seed;
        let (record, mut series) = self.meter.finish(now, stalled);
        for line in &mut series {
            line.strategy.clone_from(&strategy);
            line.seed = seed;
        }
        Outcome { record, series }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.disk.iter().chain(self.ram.iter())
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.disk.iter_mut().chain(self.ram.iter_mut())
    }

    /// The guest before the migration.
    fn idle(&self) -> Latencies {
        let mut guest = Guest::new(&self.setup.workload, self.seed);
        let mut histogram = crate::histogram::Histogram::default();
        let place = Place {
            copier: 0.0,
            behind: 0.0,
            mirrored: 0.0,
            faulting: 0.0,
            tee: Tee::Background,
            ..self.place()
        };
        const SECONDS: u32 = 20;
        for step in 0..SECONDS * 10 {
            for (seconds, weight) in guest.step(f64::from(step) / 10.0, 0.1, &place).latencies {
                histogram.add(seconds, weight);
            }
        }
        let (p50, p99) = (histogram.quantile(0.5), histogram.quantile(0.99));
        Latencies { p50, p99, idle_p99: p99, rate: histogram.total() / f64::from(SECONDS) }
    }

    /// The link's rate now, in bytes per second.
    fn link_rate(&self) -> f64 {
        if self.now < self.cut_until { 0.0 } else { self.setup.link.rate * self.link.0 }
    }

    /// The state as a policy sees it.
    fn seen(&self, ram: bool) -> Seen {
        let window = self.window;
        let of = |part: &Option<Part>| part.as_ref().map(|part| part.space.seen(window));
        let (disk, memory) = (of(&self.disk), of(&self.ram));
        let (own, other) = if ram { (memory, disk) } else { (disk, memory) };
        Seen {
            now: self.now,
            own: own.unwrap_or_default(),
            other,
            guest: self.meter.last,
            link: crate::policy::LinkSeen { rate: self.link_rate(), round_trip: 2.0 * self.setup.link.delay },
            phase: self.phase,
            limits: self.setup.limits,
        }
    }

    /// Asks the policies and follows their orders.
    fn ask(&mut self) {
        for ram in [false, true] {
            let seen = self.seen(ram);
            let cost = if ram { self.setup.ram.map_or(0.0, |ram| ram.round_cost) } else { 0.0 };
            let part = if ram { &mut self.ram } else { &mut self.disk };
            let Some(part) = part else { continue };
            part.wants = None;
            for order in part.policy.tick(&seen) {
                match order {
                    Order::Tee(tee) => part.tee = tee,
                    Order::Speed(speed) => part.speed = speed.max(1.0),
                    Order::Take(plan) => part.plan = plan,
                    Order::FreezeRound => {
                        part.space.freeze();
                        let many = part.space.rounds > QUICK_ROUNDS;
                        part.resting = if many { cost.max(self.step) } else { cost };
                    }
                    Order::Pivot { stale } => part.wants = Some(stale),
                    Order::Throttle(share) => part.throttle = share.clamp(0.0, 0.99),
                    Order::Abort => self.end = Some(End::Aborted),
                }
            }
        }
        if self.phase == Phase::Before && self.end.is_none() && self.parts().all(|part| part.wants.is_some())
        {
            self.stop();
        }
    }

    /// Stops the guest for the move.
    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        // Where everything is at the target already, a disk changes its image, and the guest stays for now:
        // that takes as long as the requests in flight.
        let place = Place { behind: 0.0, ..self.place() };
        let there = |part: &Part| part.wants == Some(Stale::Copy) && part.space.todo() <= 0.0;
        let changes = self.ram.is_none() && self.disk.as_ref().is_some_and(there);
        self.stop_left = match (&self.ram, self.setup.ram) {
            (Some(_), Some(ram)) => ram.switch_cost + 2.0 * self.setup.link.delay,
            _ if changes => self.guest.slowest(&place),
            _ => HANDOVER + 2.0 * self.setup.link.delay,
        };
        let overlay = self.overlay.as_ref().map_or(0.0, Space::left);
        if let Some(part) = &mut self.disk {
            self.merging = match part.tee {
                Tee::Overlay => overlay,
                Tee::Delta => part.space.recopied + part.space.next(),
                _ => 0.0,
            };
        }
        for part in self.parts_mut() {
            part.pulls = part.wants == Some(Stale::Pull);
            part.space.merge();
            part.resting = 0.0;
            // From here on nothing is frozen.
            part.throttle = 0.0;
        }
    }

    /// Starts the guest at the target.
    fn start(&mut self) {
        self.phase = if self.merging > 0.0 || self.parts().any(|part| part.pulls && part.space.left() > 0.0) {
            Phase::After
        } else {
            Phase::Done
        };
        if !self.parts().any(|part| part.pulls && part.space.left() > 0.0) {
            self.meter.record.independence_s = self.now;
        }
        if self.phase == Phase::Done {
            self.end = Some(End::Moved);
        }
    }

    /// Draws the link's rate and the guest's writes anew if their time is over, and begins faults.
    fn weather(&mut self) {
        if self.now >= self.link.1 {
            self.link = (1.0 + LINK_NOISE * self.random.normal().clamp(-3.0, 3.0), self.now + 1.0);
        }
        if let Some(ram) = &self.setup.ram
            && self.now >= self.dirty.1
        {
            let factor = (1.0 + ram.variation * self.random.normal()).max(0.05);
            self.dirty = (factor, self.now + ram.variation_time);
        }
        let fresh: f64 = self.parts().map(|part| part.space.fresh()).sum();
        let copied = 1.0 - fresh / (self.meter.record.differs_bytes as f64).max(1.0);
        let now = self.now;
        let (due, later) = self.faults.iter().partition(|fault| match fault.when {
            When::At(seconds) => now >= seconds,
            When::Copied(share) => copied >= share,
        });
        self.faults = later;
        let due: Vec<Fault> = due;
        for fault in due {
            match fault.party {
                Party::Link => self.cut_until = self.cut_until.max(now + fault.length),
                Party::Source | Party::Target => self.end = Some(End::Failed),
            }
        }
    }

    fn step(&mut self) {
        self.ask();
        self.weather();
        if self.end.is_some() {
            return;
        }
        let rates = self.copy_rates();
        let seconds = self.length(rates);
        let mut dirtied = (0.0, 0.0);
        self.beside = 0.0;
        self.guest_step(seconds, &mut dirtied.0);
        self.ram_step(seconds, &mut dirtied.1);
        self.copy(rates, seconds, dirtied);
        self.now += seconds;
        for part in self.parts_mut() {
            part.resting = (part.resting - seconds).max(0.0);
        }
        self.meter.record.throttled_s += seconds * self.parts().map(|part| part.throttle).fold(0.0, f64::max);
        self.meter.record.blackout_ms = self.meter.record.blackout_ms.max(self.guest.stalled * 1e3);
        self.meter.advance(self.now, self.guest.stalled);
        match self.phase {
            Phase::Stopped => {
                self.meter.record.stop_ms += seconds * 1e3;
                // The rest is sent first, and then what the stop costs.
                if rates == (0.0, 0.0) || self.link_rate() == 0.0 {
                    self.stop_left = (self.stop_left - seconds).max(0.0);
                }
                let left = self.parts().any(|part| !part.pulls && part.space.left() > 0.0);
                if !left && self.stop_left <= TINY && self.window <= 0.0 {
                    self.start();
                }
            }
            Phase::After => {
                let left = self.parts().any(|part| part.pulls && part.space.left() > 0.0);
                if !left && self.meter.record.independence_s == 0.0 {
                    self.meter.record.independence_s = self.now;
                }
                if !left && self.merging <= 0.0 {
                    self.phase = Phase::Done;
                    self.end = Some(End::Moved);
                }
            }
            Phase::Before | Phase::Done => {}
        }
        if self.now >= self.setup.limits.deadline && self.end.is_none() {
            self.end = Some(End::Late);
        }
        if self.samples && self.meter.is_due(self.now) {
            self.sample();
        }
    }

    /// Adds a line to the series, and looks what deaths would cost now.
    fn sample(&mut self) {
        let losses = self.losses();
        let (mut todo, mut copied, mut dirty) = (0, 0.0, 0.0);
        for part in self.parts() {
            let seen = part.space.seen(0.0);
            todo += seen.todo;
            copied += seen.copied_rate;
            dirty += seen.dirty_rate;
        }
        let net = if self.phase == Phase::Before { copied - dirty } else { copied };
        let predicted = if net > 0.0 { self.now + todo as f64 / net } else { f64::INFINITY };
        let line = SeriesPoint {
            t_s: self.now,
            phase: Meter::phase(self.phase),
            todo_bytes: todo,
            sent_bytes: self.meter.record.sent_bytes,
            copy_bytes_per_s: copied,
            dirty_bytes_per_s: dirty,
            ..SeriesPoint::default()
        };
        self.meter.sample(line, losses, predicted);
    }
}

#[cfg(test)]
#[path = "fluid_tests.rs"]
mod tests;
