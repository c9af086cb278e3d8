//! The target of a replica: its flushes, what none of them has covered, and its return after a loss.
//!
//! A server may be restarted while a replica writes to its export. What it had answered and not flushed may
//! be lost then, and nothing else. So the granules that were written since the last good flush are known:
//! the target is opened again, and just these are copied again.
//!
//! A granule counts as written when a write to it has ended, well or not: a flush that began before that
//! leaves its bit set.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use executor::sync::{Event, Permit, Semaphore};

use crate::Result;
use crate::image::node::{LocalFuture, Node};
use crate::job::granules::bitmap::Bitmap;
use crate::storage::in_use::Use;

/// Opens the target once more.
pub(super) type Opening = Box<dyn Fn() -> LocalFuture<'static, Result<Rc<Node>>>>;

/// See the module.
pub(super) struct Target {
    node: RefCell<Rc<Node>>,
    /// `None` for a target that is not opened again.
    opening: Option<Opening>,
    /// The granules that were written since the last good flush.
    unflushed: RefCell<Bitmap>,
    /// Bytes written since a flush began.
    since: Cell<u64>,
    /// Allows one flush at a time.
    flushing: Rc<Semaphore>,
    /// The number of flushes that have begun, and the number of the last that succeeded.
    begun: Cell<u64>,
    done: Cell<u64>,
    /// It is being opened again.
    away: Cell<bool>,
    /// Operations on it in flight.
    inside: Cell<u64>,
    changed: Event,
}

/// An operation on the target in flight: it is not opened again meanwhile.
pub(super) struct Inside<'a> {
    target: &'a Target,
    /// The target's image.
    pub(super) node: Rc<Node>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.target.inside.set(self.target.inside.get() - 1);
        self.target.changed.notify();
    }
}

/// The one flush of the target that runs. Whoever waits for room is notified of its end, however it ends.
struct Flushing<'a>(&'a Target, Option<Permit>);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.1.take();
        self.0.changed.notify();
    }
}

/// The time in which the target is opened again.
struct Away<'a>(&'a Target);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.away.set(false);
        self.0.changed.notify();
    }
}

impl Target {
    /// Creates a target. `unflushed` must have no bit set.
    pub(super) fn new(node: Rc<Node>, opening: Option<Opening>, unflushed: Bitmap) -> Self {
        Target {
            node: RefCell::new(node),
            opening,
            unflushed: RefCell::new(unflushed),
            since: Cell::new(0),
            flushing: Semaphore::new(1),
            begun: Cell::new(0),
            done: Cell::new(0),
            away: Cell::new(false),
            inside: Cell::new(0),
            changed: Event::new(),
        }
    }

    /// Its image. It is another one after a loss.
    pub(super) fn node(&self) -> Rc<Node> {
        self.node.borrow().clone()
    }

    /// Begins an operation, unless the target is being opened again.
    pub(super) fn try_enter(&self) -> Option<Inside<'_>> {
        if self.away.get() {
            return None;
        }
        self.inside.set(self.inside.get() + 1);
        Some(Inside { target: self, node: self.node() })
    }

    /// Begins an operation when the target is there.
    pub(super) async fn enter(&self) -> Inside<'_> {
        loop {
            match self.try_enter() {
                Some(inside) => return inside,
                None => self.changed.wait().await,
            }
        }
    }

    /// Records that a write of this range has ended, well or not.
    pub(super) fn wrote(&self, range: &Range<u64>) {
        self.unflushed.borrow_mut().insert(range);
        self.since.set(self.since.get().saturating_add(range.end - range.start));
    }

    /// Waits as long as a flush runs and `most` bytes were written since it began.
    pub(super) async fn room(&self, most: u64) {
        while self.since.get() >= most && self.flushing.try_acquire(1).is_none() {
            self.changed.wait().await;
        }
    }

    /// The bytes that were written since a flush began.
    pub(super) fn since_flush(&self) -> u64 {
        self.since.get()
    }

    /// Returns true if it has to be opened again, and so holds no more than was flushed.
    pub(super) fn is_lost(&self) -> bool {
        self.node.borrow().storage().is_lost()
    }

    /// Makes durable what was written before. One flush works for all who wait for it. If the target was
    /// lost, opens it again, and returns what has to be copied again.
    pub(super) async fn flush(&self) -> Result<Option<Bitmap>> {
        let needed = self.begun.get() + 1;
        let _one = Flushing(self, Some(self.flushing.acquire(1).await));
        if self.done.get() >= needed {
            return Ok(None);
        }
        let number = self.begun.get() + 1;
        self.begun.set(number);
        let covered = self.unflushed.borrow_mut().take();
        self.since.set(0);
        let node = self.node();
        let flushed = node.flush().await;
        self.changed.notify();
        match flushed {
            Ok(()) => {
                self.done.set(number);
                Ok(None)
            }
            Err(error) => {
                self.unflushed.borrow_mut().merge(&covered);
                match &self.opening {
                    Some(opening) if node.storage().is_lost() => {
                        self.open_again(&node, opening).await.map(Some)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Waits until the flushes that were begun have ended.
    pub(super) async fn flushes_ended(&self) {
        self.flushing.acquire(1).await;
    }

    async fn open_again(&self, lost: &Rc<Node>, opening: &Opening) -> Result<Bitmap> {
        self.away.set(true);
        let _away = Away(self);
        while self.inside.get() > 0 {
            self.changed.wait().await;
        }
        // A server that was killed takes some time to return, and `opening` tries once.
        lost.storage().returned().await;
        lost.end_use();
        // A server may take one client at a time.
        lost.storage().hang_up();
        match opening().await {
            Ok(node) => {
                node.set_node_name(&lost.node_name());
                self.node.replace(node);
                Ok(self.unflushed.borrow_mut().take())
            }
            Err(error) => {
                lost.give_use(Use::begin(&**lost.storage(), true).ok());
                Err(error)
            }
        }
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
