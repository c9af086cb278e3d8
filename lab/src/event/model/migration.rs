//! The migration: a policy is asked, and what it orders is done.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::buf::Pool;
use block::sim::stamps::BLOCK;
use block::sim::{SimDevice, SimHosts};
use block::storage::Opener;
use block::{Disk, Kind, Result};
use executor::JoinHandle;
use executor::sync::Event;

use super::super::guest::{Guest, Way};
use super::super::world::{FAR_SOURCE, TARGET, World};
use super::super::{HANDOVER, Mover};
use super::bits::Bits;
use super::{CHUNK, COPIERS, HOTTEST, Model};
use crate::experiment::Setup;
use crate::policy::{Limits, LinkSeen, Order, Phase, Plan, Policy, Seen, SpaceSeen, Stale, Tee};
use crate::presets;
use crate::record::End;

/// Seconds over which rates are averaged, as in the fluid tier.
const SMOOTH: f64 = 2.0;
/// The longest and the shortest time between two ticks of the policy, in seconds.
const STEPS: (f64, f64) = (0.01, 0.1);

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

type Started = (Rc<dyn Mover>, JoinHandle<Result<End>>);

/// Starts a preset.
pub(in super::super) fn start(
    setup: &Setup,
    world: &World,
    guest: &Rc<Guest>,
    disk: Rc<Disk>,
    name: &str,
) -> Started {
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
    // Reading the experiment has refused a name that is no preset's.
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

/// The migration.
struct Move {
    model: Rc<Model>,
    guest: Rc<Guest>,
    policy: Box<dyn Policy + Send>,
    limits: Limits,
    link: LinkSeen,
    step: f64,
    delay: Duration,
    target: Rc<SimDevice>,
    hosts: Rc<SimHosts>,
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
    fn seen(&self, rates: &Rates) -> SpaceSeen {
        SpaceSeen {
            size: self.data,
            todo: self.left(),
            fresh: self.fresh.borrow().count * self.granule,
            round: (self.todo.borrow().count + self.in_flight()) * self.granule,
            next: self.next.borrow().count * self.granule,
            rounds: self.rounds.get(),
            copied: self.copied.get(),
            copied_rate: rates.copied,
            dirty_rate: rates.dirtied,
            least_todo: rates.least.0,
            least_at: rates.least.1,
            window: 0,
        }
    }

    /// The same copy from the target's side, with what is left.
    async fn turned(&self, hosts: &Rc<SimHosts>, disk: Rc<Disk>) -> Result<Model> {
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
