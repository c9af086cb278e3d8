//! The guest: its requests, what its disk must hold, and what it notices of the migration.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block::buf::Pool;
use block::sim::Stamp;
use block::sim::stamps::{Content, Stamps};
use block::{Buf, Disk};
use executor::sync::{Event, Semaphore};
use workload::{Arrival, Kind, Op, Requests, Spec};

use super::model::Model;
use super::world::World;
use super::{BLOCK, Progress, line, losses};
use crate::histogram::Histogram;
use crate::meter::Meter;
use crate::policy::{Latencies, Phase};

/// Requests that a guest has at its disk at once, as many as a virtio queue of the usual size has places.
/// Further ones wait inside the guest, in the order in which they arrived.
const QUEUE: u64 = 256;

/// The way of the guest's requests.
#[derive(Clone)]
pub(super) enum Way {
    /// To a disk.
    Disk(Rc<Disk>),
    /// By a model, which has its own rules.
    Model(Rc<Model>),
}

/// Numbers that the guest counts.
#[derive(Default)]
struct Counts {
    requests: Cell<u64>,
    read_bytes: Cell<u64>,
    written_at_target: Cell<u64>,
    read_at_target: Cell<u64>,
    faulted: Cell<u64>,
    wrong: Cell<u64>,
}

fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// See the module.
pub(super) struct Guest {
    spec: Spec,
    /// Bytes of the disk, and a round trip to the other host.
    size: u64,
    round_trip: f64,
    seed: u64,
    /// `None` while it is stopped.
    way: RefCell<Option<Way>>,
    started: Event,
    queue: Rc<Semaphore>,
    /// Requests that have begun, and not ended.
    inside: Cell<u64>,
    left: Event,
    /// The last version of each block that it has written.
    written: RefCell<Stamps>,
    version: Cell<u32>,
    /// Ranges that are being written, from start to end. It writes no block twice at once, as no file system
    /// does, so no two of them overlap.
    writing: RefCell<BTreeMap<u64, u64>>,
    wrote: Event,
    pool: Pool,
    meter: RefCell<Option<Meter>>,
    idle: RefCell<Histogram>,
    /// The time of the command.
    begin: Cell<Duration>,
    /// The time at which it went on at the other host.
    moved: Cell<Option<Duration>>,
    /// The migration has ended: what arrives from now on does not count.
    over: Cell<bool>,
    /// It sends nothing any more.
    ended: Cell<bool>,
    /// Requests that have arrived and not ended, and the last time at which one ended, or began to wait
    /// alone.
    waiting: Cell<u64>,
    last: Cell<Duration>,
    /// The longest time that a request has waited at the gate, and for how long nothing ended.
    at_gate: Cell<f64>,
    blackout: Cell<f64>,
    counts: Counts,
    /// The state at the last tick: time, bytes to do, bytes sent.
    before: Cell<(f64, u64, u64)>,
    rates: Cell<(f64, f64)>,
}

impl Guest {
    pub(super) fn new(setup: &crate::Setup, world: &World, seed: u64) -> Rc<Self> {
        Rc::new(Guest {
            spec: setup.workload.clone(),
            size: world.size,
            round_trip: 2.0 * setup.link.delay,
            seed,
            way: RefCell::default(),
            started: Event::new(),
            queue: Semaphore::new(QUEUE),
            inside: Cell::new(0),
            left: Event::new(),
            written: RefCell::new(Stamps::new(world.data)),
            version: Cell::new(0),
            writing: RefCell::default(),
            wrote: Event::new(),
            pool: Pool::default(),
            meter: RefCell::default(),
            idle: RefCell::default(),
            begin: Cell::default(),
            moved: Cell::default(),
            over: Cell::new(false),
            ended: Cell::new(false),
            waiting: Cell::new(0),
            last: Cell::default(),
            at_gate: Cell::new(0.0),
            blackout: Cell::new(0.0),
            counts: Counts::default(),
            before: Cell::new((0.0, world.data, 0)),
            rates: Cell::default(),
        })
    }

    /// Starts its requests, on this disk.
    pub(super) fn start(self: &Rc<Self>, disk: Rc<Disk>) {
        self.go_on(Way::Disk(disk));
        let requests = Requests::new(&self.spec, self.size, self.seed).expect("the experiment was checked");
        match self.spec.arrival {
            Arrival::Open { .. } => {
                let this = self.clone();
                executor::spawn(async move {
                    for op in requests {
                        let at = Duration::from_nanos(op.at);
                        executor::sleep_until(at).await;
                        if this.ended.get() {
                            return;
                        }
                        this.arrives();
                        let counts = !this.over.get();
                        executor::spawn(this.clone().serve(op, at, counts));
                    }
                });
            }
            Arrival::Closed { depth } => {
                let requests = Rc::new(RefCell::new(requests));
                for _ in 0..depth {
                    let (this, requests) = (self.clone(), requests.clone());
                    executor::spawn(async move {
                        loop {
                            let Some(op) = requests.borrow_mut().next() else { return };
                            this.arrives();
                            let counts = !this.over.get();
                            this.clone().serve(op, executor::now(), counts).await;
                        }
                    });
                }
            }
        }
    }

    /// Runs without a migration for a time, or for a number of requests, and returns what it noticed.
    pub(super) async fn warm_up(&self, most: (Duration, u64)) -> Latencies {
        let end = executor::now() + most.0;
        // A second at least: windows of the meter are as long.
        let least = executor::now() + Duration::from_secs(1);
        while executor::now() < end && (executor::now() < least || self.requests() < most.1) {
            executor::sleep(Duration::from_millis(50)).await;
        }
        let idle = self.idle.take();
        let (p50, p99) = (idle.quantile(0.5), idle.quantile(0.99));
        Latencies { p50, p99, idle_p99: p99, rate: idle.total() / executor::now().as_secs_f64() }
    }

    /// The migration begins.
    pub(super) fn command(&self, meter: Meter) {
        self.meter.replace(Some(meter));
        self.begin.set(executor::now());
        self.last.set(executor::now());
    }

    /// Stops it, and waits until its requests have ended.
    pub(super) async fn stop(&self) {
        self.way.take();
        while self.inside.get() > 0 {
            self.left.wait().await;
        }
    }

    /// Has its requests go this way from now on.
    pub(super) fn go_on(&self, way: Way) {
        self.way.replace(Some(way));
        self.started.notify();
    }

    /// It goes on at the other host.
    pub(super) fn go_on_there(&self, way: Way) {
        self.moved.set(Some(executor::now()));
        self.go_on(way);
    }

    /// Counts a time for which it stood still.
    pub(super) fn stood_still(&self, time: Duration) {
        self.at_gate.set(self.at_gate.get().max(time.as_secs_f64()));
    }

    /// The migration has ended. Waits for the requests that arrived before that, so that their waits count.
    pub(super) async fn over(&self) {
        self.over.set(true);
        while self.waiting.get() > 0 {
            self.left.wait().await;
        }
    }

    fn arrives(&self) {
        if self.over.get() {
            return;
        }
        if self.waiting.get() == 0 {
            self.last.set(executor::now());
        }
        self.waiting.set(self.waiting.get() + 1);
        if let Some(meter) = &mut *self.meter.borrow_mut()
            && matches!(self.spec.arrival, Arrival::Open { .. })
        {
            meter.miss(1.0);
        }
    }

    /// The time for which nothing has ended though something waits.
    fn stalled(&self) -> f64 {
        if self.waiting.get() == 0 { 0.0 } else { (executor::now() - self.last.get()).as_secs_f64() }
    }

    fn ends(&self, kind: Kind, arrived: Duration) {
        let took = (executor::now() - arrived).as_secs_f64();
        self.waiting.set(self.waiting.get() - 1);
        add(&self.counts.requests, 1);
        let gap = (executor::now() - self.last.get()).as_secs_f64();
        self.last.set(executor::now());
        match &mut *self.meter.borrow_mut() {
            None => self.idle.borrow_mut().add(took, 1.0),
            Some(meter) => {
                self.blackout.set(self.blackout.get().max(gap));
                meter.add(&[(took, 1.0)]);
                meter.miss(-1.0);
                // One that waited for the move is not a fault, and a flush takes its time anyway.
                let there = self.moved.get().is_some_and(|moved| arrived >= moved);
                if there && matches!(kind, Kind::Read | Kind::Write) && took >= self.round_trip {
                    meter.add_faults(took, 1.0);
                }
            }
        }
    }

    fn is_being_written(&self, range: &Range<u64>) -> bool {
        let writing = self.writing.borrow();
        writing.range(..range.end).next_back().is_some_and(|(_, end)| range.start < *end)
    }

    /// Serves a request that arrived at a time.
    async fn serve(self: Rc<Self>, op: Op, arrived: Duration, counts: bool) {
        let place = self.queue.acquire(1).await;
        let way = loop {
            if let Some(way) = self.way.borrow().clone() {
                break way;
            }
            self.started.wait().await;
        };
        self.inside.set(self.inside.get() + 1);
        if self.request(&way, op).await.is_err() {
            // A simulated device fails only by the mistake of somebody.
            add(&self.counts.wrong, 1);
        }
        self.inside.set(self.inside.get() - 1);
        drop(place);
        if counts {
            self.ends(op.kind, arrived);
        }
        self.left.notify();
    }

    async fn request(&self, way: &Way, op: Op) -> block::Result<()> {
        let range = op.offset..op.offset + op.len;
        match op.kind {
            Kind::Read => {
                let buf = self.pool.get(op.len as usize);
                let before = self.versions(&range);
                self.through(way, &op, &buf).await?;
                self.compare(&range, &buf, &before);
                add(&self.counts.read_bytes, op.len);
                if self.moved.get().is_some() {
                    add(&self.counts.read_at_target, op.len);
                }
                self.pool.put(buf);
            }
            Kind::Write => {
                while self.is_being_written(&range) {
                    self.wrote.wait().await;
                }
                self.writing.borrow_mut().insert(range.start, range.end);
                let version = self.version.get() + 1;
                self.version.set(version);
                let buf = self.pool.get(op.len as usize);
                for at in (0..op.len).step_by(BLOCK as usize) {
                    Stamp { block: ((op.offset + at) / BLOCK) as u32, version }.put(&buf, at as usize);
                }
                let done = self.through(way, &op, &buf).await;
                let mut written = self.written.borrow_mut();
                for block in range.start / BLOCK..range.end / BLOCK {
                    let block = block as u32;
                    written.set(block, Content::Stamp(Stamp { block, version }));
                }
                drop(written);
                self.writing.borrow_mut().remove(&range.start);
                self.wrote.notify();
                if self.moved.get().is_some() {
                    add(&self.counts.written_at_target, op.len);
                }
                self.pool.put(buf);
                done?;
            }
            Kind::Flush | Kind::Trim => self.through(way, &op, &Buf::new(0)).await?,
        }
        Ok(())
    }

    async fn through(&self, way: &Way, op: &Op, buf: &Buf) -> block::Result<()> {
        match way {
            Way::Disk(disk) => {
                let asked = executor::now();
                let ticket = disk.enter().await;
                if self.meter.borrow().is_some() {
                    self.stood_still(executor::now() - asked);
                }
                request(disk, &ticket, op, buf).await
            }
            Way::Model(model) => model.request(self, op, buf).await,
        }
    }

    /// The versions of a range's blocks.
    fn versions(&self, range: &Range<u64>) -> Vec<Content> {
        let written = self.written.borrow();
        (range.start / BLOCK..range.end / BLOCK).map(|block| written.get(block as u32)).collect()
    }

    /// Compares what was read with what was there before. A newer version is right if it is being written.
    fn compare(&self, range: &Range<u64>, buf: &Buf, before: &[Content]) {
        for (index, block) in (range.start / BLOCK..range.end / BLOCK).enumerate() {
            let found = Stamp::get(buf, index * BLOCK as usize);
            let right = match &before[index] {
                Content::Stamp(stamp) => {
                    found.is_some_and(|found| found.block == stamp.block && found.version >= stamp.version)
                }
                _ => found.is_none_or(|found| u64::from(found.block) == block && found.version > 0),
            };
            if !right {
                add(&self.counts.wrong, 1);
            }
        }
    }

    /// Counts a granule that a request had to wait for.
    pub(super) fn faulted(&self, bytes: u64) {
        add(&self.counts.faulted, bytes);
    }

    /// Looks at the run: a tenth of a second has passed.
    pub(super) fn tick(&self, now: f64, progress: &Progress, sent: u64) {
        let stalled = self.stalled();
        self.blackout.set(self.blackout.get().max(stalled));
        let (then, todo, before) = self.before.replace((now, progress.todo, sent));
        let seconds = now - then;
        let mut meter = self.meter.borrow_mut();
        let Some(meter) = &mut *meter else { return };
        if seconds > 0.0 {
            if matches!(self.spec.arrival, Arrival::Closed { .. }) {
                meter.miss(meter.record.idle_iops * seconds);
            }
            let copied = (sent - before) as f64 / seconds;
            // What came to be copied, beside what was copied.
            let dirty = (copied - (todo as f64 - progress.todo as f64) / seconds).max(0.0);
            let weight = (seconds / 2.0).min(1.0);
            let average = |old: f64, new: f64| if old == 0.0 { new } else { old + (new - old) * weight };
            let (old_copied, old_dirty) = self.rates.get();
            self.rates.set((average(old_copied, copied), average(old_dirty, dirty)));
        }
        meter.advance(now, stalled);
        if meter.is_due(now) {
            let (copied, dirty) = self.rates.get();
            let net = if progress.phase == Phase::Before { copied - dirty } else { copied };
            let predicted = if net > 0.0 { now + progress.todo as f64 / net } else { f64::INFINITY };
            meter.sample(line(now, progress, sent, (copied, dirty)), losses(progress), predicted);
        }
    }

    /// Ends the measurement. Returns the meter, and for how long nothing has ended.
    pub(super) fn take_meter(&self) -> (Meter, f64) {
        let stalled = self.stalled();
        let mut meter = self.meter.take().unwrap_or_else(|| Meter::new(Latencies::default()));
        meter.record.blackout_ms = self.blackout.get().max(stalled) * 1e3;
        meter.record.stop_ms = self.at_gate.get() * 1e3;
        (meter, stalled)
    }

    /// Stops it, reads its whole disk, and returns the number of blocks that are wrong.
    pub(super) async fn verify(&self, world: &World) -> u64 {
        let way = self.way.borrow().clone();
        // Or else its requests would pile up while its disk is read.
        self.ended.set(true);
        self.stop().await;
        let disk = match way {
            Some(Way::Disk(disk)) => disk,
            Some(Way::Model(model)) => model.disk(),
            None => return self.wrong(),
        };
        world.source.set_instant(true);
        world.target.set_instant(true);
        world.link.set_instant(true);
        let buf = self.pool.get(1 << 20);
        let ticket = disk.enter().await;
        let mut at = 0;
        while at < self.size {
            let len = (self.size - at).min(buf.len() as u64);
            let part = buf.slice(0..len as usize);
            if disk.read(&ticket, at, part.clone()).await.is_err() {
                add(&self.counts.wrong, 1);
            }
            add(&self.counts.wrong, self.written.borrow().differences((at / BLOCK) as u32, &part));
            at += len;
        }
        drop(ticket);
        self.wrong()
    }

    /// The workload.
    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.get()
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.counts.read_bytes.get()
    }

    pub(super) fn read_bytes_at_source(&self) -> u64 {
        self.counts.read_bytes.get() - self.counts.read_at_target.get()
    }

    pub(super) fn written_at_target(&self) -> u64 {
        self.counts.written_at_target.get()
    }

    pub(super) fn faulted_bytes(&self) -> u64 {
        self.counts.faulted.get()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.spec.working_set.unwrap_or(self.size)
    }

    pub(super) fn wrong(&self) -> u64 {
        self.counts.wrong.get()
    }

    /// Returns the latencies of the last second.
    pub(super) fn seen(&self) -> Latencies {
        self.meter.borrow().as_ref().map(|meter| meter.last).unwrap_or_default()
    }
}

/// Does a request on a disk.
pub(super) async fn request(
    disk: &Rc<Disk>,
    ticket: &block::Ticket,
    op: &Op,
    buf: &Buf,
) -> block::Result<()> {
    match op.kind {
        Kind::Read => disk.read(ticket, op.offset, buf.clone()).await,
        Kind::Write => disk.write(ticket, op.offset, buf.clone()).await,
        Kind::Flush => disk.flush(ticket).await,
        Kind::Trim => disk.discard(ticket, op.offset, op.len).await,
    }
}
