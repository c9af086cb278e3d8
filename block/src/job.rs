//! Jobs: what works on a disk in the background, and what is common to all of it.
//!
//! A strategy is a loop that asks its job between two steps whether it may go on: [`Job::must_rest`] and
//! [`Job::rest`] for pause and cancel, [`Job::admit`] for the speed, [`Job::advance`] for the progress.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use executor::sync::Event;
use futures_util::future::{Either, select};

use crate::disk::Disk;
use crate::populate::Populated;
use crate::{Error, ErrorKind, Result};

mod pace;

use pace::Pace;

/// A job that runs.
pub(crate) struct Job {
    /// How far it is, in bytes.
    offset: Cell<u64>,
    pace: Pace,
    cancelled: Cell<bool>,
    pub(crate) stop_asked: Cell<bool>,
    ended: Cell<bool>,
    /// Anything above changed.
    changed: Event,
    disk: Weak<Disk>,
}

impl Job {
    pub(crate) fn new(disk: &Rc<Disk>) -> Self {
        Job {
            offset: Cell::new(0),
            pace: Pace::default(),
            cancelled: Cell::new(false),
            stop_asked: Cell::new(false),
            ended: Cell::new(false),
            changed: Event::new(),
            disk: Rc::downgrade(disk),
        }
    }

    /// Whether the loop has to come to [`Job::rest`] soon, with nothing of its own in flight.
    pub(crate) fn must_rest(&self) -> bool {
        self.cancelled.get()
    }

    /// Where a loop stands still with nothing in flight, for as long as it has to.
    ///
    /// # Errors
    /// `Cancelled` where the loop is to end.
    pub(crate) async fn rest(&self) -> Result<()> {
        if self.cancelled.get() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        Ok(())
    }

    /// Waits until `bytes` more fit into the speed limit; no longer than until [`Job::must_rest`].
    pub(crate) async fn admit(&self, bytes: u64) {
        while let Some(wait) = self.pace.wait(executor::now())
            && !self.must_rest()
        {
            self.sleep(wait).await;
        }
        self.pace.take(executor::now(), bytes);
    }

    /// The largest step in bytes that keeps to the speed limit smoothly, `most` at the most.
    pub(crate) fn step(&self, most: u64) -> u64 {
        self.pace.step(most)
    }

    async fn sleep(&self, wait: Duration) {
        let changed = std::pin::pin!(self.changed.wait());
        let slept = std::pin::pin!(executor::sleep(wait));
        match select(changed, slept).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    /// Everything below `offset` is done. Never goes back.
    pub(crate) fn advance(&self, offset: u64) {
        self.offset.set(self.offset.get().max(offset));
    }

    /// How far the job is, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Counts what was copied.
    pub(crate) fn count(&self, done: Populated) {
        if let Some(disk) = self.disk.upgrade() {
            disk.stats.populated(done);
        }
    }

    /// Limits the speed, in bytes a second; 0: no limit.
    pub(crate) fn set_speed(&self, speed: u64) {
        self.pace.set_speed(executor::now(), speed);
        self.changed.notify();
    }

    /// Asks the loop to end. It may have come to its end already.
    pub(crate) fn cancel(&self) {
        self.cancelled.set(true);
        self.changed.notify();
    }

    /// Says that nothing of the job is going on any more.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.changed.notify();
    }

    /// Waits for the job's end.
    pub(crate) async fn ended(&self) {
        while !self.ended.get() {
            self.changed.wait().await;
        }
    }
}
