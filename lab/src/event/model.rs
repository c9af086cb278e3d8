//! A copy that follows a policy: what our jobs do not have. The target can forget a granule, so that what is
//! pulled after the move was really not there.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block::buf::Pool;
use block::sim::stamps::BLOCK;
use block::storage::{Opener, Storage};
use block::{Buf, Disk, Kind, Result};
use executor::JoinHandle;
use executor::sync::Event;
use futures_util::future::join;
use workload::{Kind as OpKind, Op};

use super::guest::{Guest, Way, request};
use super::world::{FAR_SOURCE, TARGET, World};
use super::{HANDOVER, Mover, Progress};
use crate::experiment::Setup;
use crate::policy::{LinkSeen, Order, Phase, Plan, Policy, Seen, SpaceSeen, Stale, Tee};
use crate::presets;
use crate::record::End;

/// Bytes of a copy, and copies in flight: enough to keep the link busy.
const CHUNK: u64 = 256 << 10;
const COPIERS: usize = 4;
/// Seconds over which rates are averaged, as in the fluid tier.
const SMOOTH: f64 = 2.0;
/// The longest and the shortest time between two ticks of the policy, in seconds.
const STEPS: (f64, f64) = (0.01, 0.1);
/// Levels of heat: powers of two of the guest's writes to a granule.
const HOTTEST: u8 = 15;

/// A bit for each granule, and the number of those that are set.
#[derive(Clone, Default)]
struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    fn new(count: u64, set: u64) -> Bits {
        let mut bits = Bits { words: vec![0; count.div_ceil(64) as usize], count: 0 };
        (0..set).for_each(|granule| bits.set(granule, true));
        bits
    }

    fn has(&self, granule: u64) -> bool {
        self.words[granule as usize / 64] >> (granule % 64) & 1 == 1
    }

    fn set(&mut self, granule: u64, on: bool) {
        if self.has(granule) != on {
            self.words[granule as usize / 64] ^= 1 << (granule % 64);
            self.count = if on { self.count + 1 } else { self.count - 1 };
        }
    }

    fn next(&self, from: u64) -> Option<u64> {
        let mut index = from as usize / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}

/// The rates that a policy sees.
#[derive(Clone, Copy, Default)]
struct Rates {
    copied: f64,
    dirtied: f64,
    least: (u64, f64),
    /// Bytes copied and made stale at the last tick.
    before: (u64, u64),
    at: f64,
}

/// See the module.
pub(super) struct Model {
    granule: u64,
    granules: u64,
    size: u64,
    data: u64,
    source: Rc<dyn Storage>,
    target: Rc<dyn Storage>,
    disk: RefCell<Rc<Disk>>,
    /// The granules to be copied, those written in a round over a frozen bitmap, and those never copied.
    todo: RefCell<Bits>,
    next: RefCell<Bits>,
    fresh: RefCell<Bits>,
    heat: RefCell<Vec<u16>>,
    /// The granules that are being copied or written to both sides.
    held: RefCell<Vec<Range<u64>>>,
    changed: Event,
    tee: Cell<Tee>,
    plan: Cell<Plan>,
    level: Cell<u8>,
    cursor: Cell<u64>,
    rounds: Cell<u32>,
    phase: Cell<Phase>,
    copied: Cell<u64>,
    dirtied: Cell<u64>,
    /// Copiers take new work.
    works: Cell<bool>,
    failed: RefCell<Option<block::Error>>,
    pool: Pool,
}

/// Granules that nobody else copies or writes to both sides.
struct Hold<'a>(&'a Model, Range<u64>);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.borrow_mut().retain(|other| *other != self.1);
        self.0.changed.notify();
    }
}

impl Mover for Model {
    fn progress(&self) -> Progress {
        let todo = self.left();
        Progress {
            phase: self.phase.get(),
            todo,
            fresh: self.fresh.borrow().count * self.granule,
            both: matches!(self.tee.get(), Tee::Active | Tee::All),
            rounds: self.rounds.get(),
        }
    }
}

type Started = (Rc<dyn Mover>, JoinHandle<Result<End>>);

/// Starts a preset.
pub(super) fn start(setup: &Setup, world: &World, guest: &Rc<Guest>, disk: Rc<Disk>, name: &str) -> Started {
    let granule = setup.disk.map_or(CHUNK, |disk| disk.granule);
    let granules = world.size.div_ceil(granule);
    let all = Bits::new(granules, world.data.div_ceil(granule));
    let model = Rc::new(Model {
        granule,
        granules,
        size: world.size,
        data: world.data,
        source: world.near.clone(),
        target: world.far.clone(),
        disk: RefCell::new(disk),
        todo: RefCell::new(all.clone()),
        next: RefCell::new(Bits::new(granules, 0)),
        fresh: RefCell::new(all),
        heat: RefCell::new(vec![0; granules as usize]),
        held: RefCell::default(),
        changed: Event::new(),
        tee: Cell::new(Tee::Background),
        plan: Cell::new(Plan::Sequential),
        level: Cell::new(HOTTEST),
        cursor: Cell::new(0),
        rounds: Cell::new(0),
        phase: Cell::new(Phase::Before),
        copied: Cell::new(0),
        dirtied: Cell::new(0),
        works: Cell::new(true),
        failed: RefCell::default(),
        pool: Pool::default(),
    });
    let policy = presets::disk(name).expect("the experiment was checked");
    let step = (world.size as f64 / setup.link.rate / 2000.0).clamp(STEPS.0, STEPS.1);
    let move_it = Move {
        model: model.clone(),
        guest: guest.clone(),
        policy,
        limits: setup.limits,
        link: LinkSeen { rate: setup.link.rate, round_trip: 2.0 * setup.link.delay },
        step,
        delay: world.delay,
        target: world.target.clone(),
        hosts: world.hosts.clone(),
        event: world.job_event.clone(),
        rates: Rates { least: (u64::MAX, 0.0), ..Rates::default() },
        begin: executor::now(),
    };
    let task = executor::spawn(move_it.run());
    (model, task)
}

impl Model {
    /// The disk that the guest uses.
    pub(super) fn disk(&self) -> Rc<Disk> {
        self.disk.borrow().clone()
    }

    fn left(&self) -> u64 {
        ((self.todo.borrow().count + self.next.borrow().count) * self.granule)
            .min(self.data.max(self.granule))
    }

    fn granules(&self, op: &Op) -> Range<u64> {
        op.offset / self.granule..(op.offset + op.len).div_ceil(self.granule)
    }

    /// Waits until nobody holds any of these granules, and holds them.
    async fn hold(&self, range: Range<u64>) -> Hold<'_> {
        while self.held.borrow().iter().any(|other| other.start < range.end && range.start < other.end) {
            self.changed.wait().await;
        }
        self.held.borrow_mut().push(range.clone());
        Hold(self, range)
    }

    /// Notes that the target has an old version of these granules.
    fn mark(&self, range: Range<u64>) {
        let mut todo = self.todo.borrow_mut();
        let mut next = self.next.borrow_mut();
        for granule in range {
            if todo.has(granule) || next.has(granule) {
                continue;
            }
            self.dirtied.set(self.dirtied.get() + self.granule);
            if self.rounds.get() > 0 { next.set(granule, true) } else { todo.set(granule, true) }
        }
        drop((todo, next));
        self.changed.notify();
    }

    /// Does a request of the guest.
    pub(super) async fn request(&self, guest: &Guest, op: &Op, buf: &Buf) -> Result<()> {
        let disk = self.disk();
        let ticket = disk.enter().await;
        let range = self.granules(op);
        let writes = op.kind == OpKind::Write;
        if writes {
            let mut heat = self.heat.borrow_mut();
            for granule in range.clone() {
                heat[granule as usize] = heat[granule as usize].saturating_add(1);
            }
        }
        let moved = matches!(self.phase.get(), Phase::After | Phase::Done);
        if op.len == 0 {
            return request(&disk, &ticket, op, buf).await;
        }
        if moved {
            // Also one that is just being copied: the copy would overwrite what the guest writes.
            if range.clone().any(|granule| self.todo.borrow().has(granule) || self.is_held(granule)) {
                self.fetch(guest, op, range).await?;
            }
            return request(&disk, &ticket, op, buf).await;
        }
        if !writes {
            return request(&disk, &ticket, op, buf).await;
        }
        match self.tee.get() {
            Tee::Active | Tee::All => {
                let _hold = self.hold(range.clone()).await;
                let all_todo = range.clone().all(|granule| self.todo.borrow().has(granule));
                if self.tee.get() == Tee::Active && all_todo {
                    return request(&disk, &ticket, op, buf).await;
                }
                let both = join(request(&disk, &ticket, op, buf), self.target.write(op.offset, buf.clone()));
                let (source, target) = both.await;
                for granule in range {
                    let (start, end) = (granule * self.granule, (granule + 1) * self.granule);
                    if op.offset <= start && op.offset + op.len >= end.min(self.size) {
                        self.todo.borrow_mut().set(granule, false);
                        self.fresh.borrow_mut().set(granule, false);
                    }
                }
                source.and(target)
            }
            _ => {
                let done = request(&disk, &ticket, op, buf).await;
                // At its end: a copy that read before it is stale.
                self.mark(range);
                done
            }
        }
    }

    /// Fetches what a request needs after the move.
    async fn fetch(&self, guest: &Guest, op: &Op, range: Range<u64>) -> Result<()> {
        let _hold = self.hold(range.clone()).await;
        for granule in range {
            if !self.todo.borrow().has(granule) {
                continue;
            }
            let (start, end) = (granule * self.granule, ((granule + 1) * self.granule).min(self.size));
            let whole = op.kind == OpKind::Write && op.offset <= start && op.offset + op.len >= end;
            if !whole {
                self.copy(start..end).await?;
                guest.faulted(end - start);
            }
            self.todo.borrow_mut().set(granule, false);
            self.fresh.borrow_mut().set(granule, false);
        }
        Ok(())
    }

    /// Copies a range from the side that it is read at to the one that it is written to.
    async fn copy(&self, range: Range<u64>) -> Result<()> {
        let buf = self.pool.get((range.end - range.start) as usize);
        self.source.read(range.start, buf.clone()).await?;
        self.target.write(range.start, buf.clone()).await?;
        self.pool.put(buf);
        self.copied.set(self.copied.get() + range.end - range.start);
        Ok(())
    }

    fn is_held(&self, granule: u64) -> bool {
        self.held.borrow().iter().any(|range| range.contains(&granule))
    }

    fn heat(&self, granule: u64) -> u8 {
        let writes = self.heat.borrow()[granule as usize];
        (16 - writes.leading_zeros()).min(u32::from(HOTTEST)) as u8
    }

    /// The next granules to be copied, in the order of the plan.
    fn take(&self) -> Option<Range<u64>> {
        let todo = self.todo.borrow();
        if todo.count == 0 {
            return None;
        }
        let cold = self.plan.get() == Plan::ColdFirst;
        if !cold {
            self.level.set(HOTTEST);
        }
        let fits = |granule: u64, level: u8| (!cold || self.heat(granule) <= level) && !self.is_held(granule);
        // Each level once from where it is, and once from the start.
        for _ in 0..=2 * HOTTEST {
            let level = self.level.get();
            let mut at = self.cursor.get();
            while let Some(granule) = todo.next(at) {
                if fits(granule, level) {
                    let most = (CHUNK / self.granule).max(1);
                    let mut end = granule + 1;
                    while end < self.granules && end - granule < most && todo.has(end) && fits(end, level) {
                        end += 1;
                    }
                    self.cursor.set(end);
                    return Some(granule..end);
                }
                at = granule + 1;
            }
            if self.cursor.replace(0) == 0 {
                if level == HOTTEST && !cold {
                    return None;
                }
                self.level.set(if level == HOTTEST { 0 } else { level + 1 });
            }
        }
        None
    }

    /// Copies as long as there is something.
    async fn copier(self: Rc<Self>) {
        while self.failed.borrow().is_none() {
            let taken = if self.works.get() { self.take() } else { None };
            let Some(range) = taken else {
                self.changed.wait().await;
                continue;
            };
            let hold = self.hold(range.clone()).await;
            for granule in range.clone() {
                self.todo.borrow_mut().set(granule, false);
            }
            let bytes = range.start * self.granule..(range.end * self.granule).min(self.size);
            let done = self.copy(bytes).await;
            for granule in range {
                self.fresh.borrow_mut().set(granule, false);
            }
            drop(hold);
            if let Err(error) = done {
                self.failed.replace(Some(error));
            }
        }
    }

    /// Waits until nothing is left to copy and nothing in flight.
    async fn emptied(&self) {
        while self.todo.borrow().count > 0 || !self.held.borrow().is_empty() {
            self.changed.wait().await;
        }
    }

    /// Begins a round, with everything that is stale now.
    fn freeze(&self) {
        let next = self.next.take();
        self.next.replace(Bits::new(self.granules, 0));
        let mut todo = self.todo.borrow_mut();
        let mut at = 0;
        while let Some(granule) = next.next(at) {
            todo.set(granule, true);
            at = granule + 1;
        }
        drop(todo);
        self.changed.notify();
    }

    fn seen(&self, rates: &Rates) -> SpaceSeen {
        SpaceSeen {
            size: self.data,
            todo: self.left(),
            fresh: self.fresh.borrow().count * self.granule,
            round: (self.todo.borrow().count + self.in_flight()) * self.granule,
            next: self.next.borrow().count * self.granule,
            rounds: self.rounds.get(),
            copied_rate: rates.copied,
            dirty_rate: rates.dirtied,
            least_todo: rates.least.0,
            least_at: rates.least.1,
            window: 0,
        }
    }

    /// Granules that are being copied.
    fn in_flight(&self) -> u64 {
        self.held.borrow().iter().map(|range| range.end - range.start).sum()
    }
}

/// The migration.
struct Move {
    model: Rc<Model>,
    guest: Rc<Guest>,
    policy: Box<dyn Policy + Send>,
    limits: crate::policy::Limits,
    link: LinkSeen,
    step: f64,
    delay: Duration,
    target: Rc<block::sim::SimDevice>,
    hosts: Rc<block::sim::SimHosts>,
    event: Rc<Event>,
    rates: Rates,
    begin: Duration,
}

impl Move {
    async fn run(mut self) -> Result<End> {
        let model = self.model.clone();
        // From here on its writes pass the model.
        self.guest.stop().await;
        self.guest.go_on(Way::Model(model.clone()));
        let mut started = false;
        loop {
            if let Some(error) = model.failed.take() {
                return Err(error);
            }
            self.look();
            let (mut pivot, mut abort) = (None, false);
            for order in self.policy.tick(&self.seen()) {
                match order {
                    Order::Tee(tee) => model.tee.set(tee),
                    Order::Take(plan) => {
                        if model.plan.replace(plan) != plan && plan == Plan::ColdFirst {
                            model.level.set(0);
                        }
                    }
                    Order::FreezeRound => {
                        model.freeze();
                        model.rounds.set(model.rounds.get() + 1);
                    }
                    Order::Pivot { stale } => pivot = Some(stale),
                    Order::Abort => abort = true,
                    // No preset of this tier orders these.
                    Order::Speed(_) | Order::Throttle(_) => {}
                }
            }
            if abort {
                return Ok(End::Aborted);
            }
            if let Some(stale) = pivot {
                return self.pivot(stale, started).await;
            }
            if !started {
                started = true;
                self.start_copiers();
            }
            // A round that ends has the policy asked at once.
            let wait = Duration::from_secs_f64(self.step);
            executor::timeout(wait, async {
                executor::sleep(Duration::from_millis(1)).await;
                model.emptied().await;
            })
            .await;
        }
    }

    fn start_copiers(&self) {
        for _ in 0..COPIERS {
            executor::spawn(self.model.clone().copier());
        }
    }

    fn now(&self) -> f64 {
        (executor::now() - self.begin).as_secs_f64()
    }

    /// Updates the averages.
    fn look(&mut self) {
        let (model, rates, now) =
            (&self.model, &mut self.rates, (executor::now() - self.begin).as_secs_f64());
        let seconds = now - rates.at;
        let (copied, dirtied) = (model.copied.get(), model.dirtied.get());
        if seconds > 0.0 {
            let weight = (seconds / SMOOTH).min(1.0);
            let average = |old: f64, new: f64| if old == 0.0 { new } else { old + (new - old) * weight };
            if copied > rates.before.0 {
                rates.copied = average(rates.copied, (copied - rates.before.0) as f64 / seconds);
            }
            rates.dirtied = average(rates.dirtied, (dirtied - rates.before.1) as f64 / seconds);
            (rates.before, rates.at) = ((copied, dirtied), now);
        }
        let left = model.left();
        if (left as f64) < rates.least.0 as f64 * 0.999 - model.granule as f64 {
            rates.least = (left, now);
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            now: self.now(),
            own: self.model.seen(&self.rates),
            other: None,
            guest: self.guest.seen(),
            link: self.link,
            phase: self.model.phase.get(),
            limits: self.limits,
        }
    }

    /// Moves the guest.
    async fn pivot(mut self, stale: Stale, copies: bool) -> Result<End> {
        let model = self.model.clone();
        let begin = executor::now();
        model.phase.set(Phase::Stopped);
        self.guest.stop().await;
        model.freeze();
        if !copies {
            self.start_copiers();
        }
        match stale {
            Stale::Copy => model.emptied().await,
            Stale::Pull => {
                model.works.set(false);
                while !model.held.borrow().is_empty() {
                    model.changed.wait().await;
                }
                self.forget();
            }
        }
        if let Some(error) = model.failed.take() {
            return Err(error);
        }
        if model.fresh.borrow().count * model.granule < model.data {
            model.target.sync().await?;
        }
        executor::sleep(2 * self.delay + HANDOVER).await;
        let leaf = block::chain::open(&*self.hosts, TARGET, Kind::Raw, true).await?;
        let event = self.event.clone();
        let disk = Disk::new("virtio0", leaf, false, self.hosts.clone(), move |_| event.notify());
        model.disk.replace(disk.clone());
        self.guest.stood_still(executor::now() - begin);
        if stale == Stale::Copy {
            model.phase.set(Phase::Done);
            self.guest.go_on_there(Way::Disk(disk));
            return Ok(End::Moved);
        }
        // What is left is read over the link from here on.
        let pull = Rc::new(model.turned(&self.hosts, disk).await?);
        self.guest.go_on_there(Way::Model(pull.clone()));
        for order in self.policy.tick(&Seen { phase: Phase::After, ..self.seen() }) {
            if let Order::Take(plan) = order {
                pull.plan.set(plan);
            }
        }
        for _ in 0..COPIERS {
            executor::spawn(pull.clone().copier());
        }
        model.phase.set(Phase::After);
        loop {
            let done = executor::timeout(Duration::from_millis(50), pull.emptied()).await;
            if let Some(error) = pull.failed.take() {
                return Err(error);
            }
            model.todo.replace(pull.todo.borrow().clone());
            model.fresh.replace(pull.fresh.borrow().clone());
            if done.is_some() {
                model.phase.set(Phase::Done);
                return Ok(End::Moved);
            }
        }
    }

    /// Has the target forget what it has old versions of: nobody can read that unnoticed then.
    fn forget(&self) {
        let (todo, granule) = (self.model.todo.borrow(), self.model.granule);
        let mut stamps = self.target.stamps().borrow_mut();
        let mut at = 0;
        while let Some(next) = todo.next(at) {
            let bytes = next * granule..((next + 1) * granule).min(self.model.size);
            stamps.clear((bytes.start / BLOCK) as u32, ((bytes.end - bytes.start) / BLOCK) as u32);
            at = next + 1;
        }
    }
}

impl Model {
    /// The same copy from the target's side, with what is left.
    async fn turned(&self, hosts: &Rc<block::sim::SimHosts>, disk: Rc<Disk>) -> Result<Model> {
        Ok(Model {
            source: hosts.open(FAR_SOURCE, false).await?,
            target: hosts.open(TARGET, true).await?,
            disk: RefCell::new(disk),
            todo: RefCell::new(self.todo.borrow().clone()),
            next: RefCell::new(Bits::new(self.granules, 0)),
            fresh: RefCell::new(self.fresh.borrow().clone()),
            heat: RefCell::new(self.heat.borrow().clone()),
            held: RefCell::default(),
            changed: Event::new(),
            tee: Cell::new(Tee::Background),
            plan: Cell::new(Plan::Sequential),
            level: Cell::new(0),
            cursor: Cell::new(0),
            rounds: Cell::new(0),
            phase: Cell::new(Phase::After),
            copied: Cell::new(0),
            dirtied: Cell::new(0),
            works: Cell::new(true),
            failed: RefCell::default(),
            pool: Pool::default(),
            ..*self
        })
    }
}
