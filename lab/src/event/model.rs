//! A copy that follows a policy: what our jobs do not have. The target can forget a granule, so that what is
//! pulled after the move was really not there.
//!
//! - `bits`: a bit for each granule
//! - `copier`: what is copied next, and the copy
//! - `migration`: the policy is asked, and the guest is moved
//! - this file: the state, and the guest's requests

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use block::buf::Pool;
use block::storage::Storage;
use block::{Buf, Disk, Result};
use executor::sync::Event;
use futures_util::future::join;
use workload::{Kind as OpKind, Op};

use super::guest::{Guest, request};
use super::{Mover, Progress};
use crate::policy::{Phase, Plan, Tee};

mod bits;
mod copier;
mod migration;

use bits::Bits;
pub(super) use migration::start;

/// Bytes of a copy, and copies in flight: enough to keep the link busy.
const CHUNK: u64 = 256 << 10;
const COPIERS: usize = 4;
/// Levels of heat: powers of two of the guest's writes to a granule.
const HOTTEST: u8 = 15;

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

    fn is_held(&self, granule: u64) -> bool {
        self.held.borrow().iter().any(|range| range.contains(&granule))
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

    /// Granules that are being copied.
    fn in_flight(&self) -> u64 {
        self.held.borrow().iter().map(|range| range.end - range.start).sum()
    }
}
