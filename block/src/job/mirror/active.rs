//! Writes of a guest that go to both sides: at once, or to the target later ([`super::behind`]), and as fast
//! as leaves the copier its share.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::{Event, Semaphore};
use futures_util::future::join;

use super::behind::{Batch, Room, WORKERS};
use super::control::Share;
use super::replica::Replica;
use crate::disk::filter::Below;
use crate::storage::ranges::RangeGuard;
use crate::{Buf, Result};

/// The time after a copy in which the next one may begin. If none does, the copier waits for something else
/// than the target: a pause, or its speed limit.
const GRACE: Duration = Duration::from_millis(20);
/// The most bytes that a request without data counts for.
const MOST_WITHOUT_DATA: u64 = 1 << 20;

/// Keeps the copier's share of the target, while copies are in flight.
pub(super) struct Pacer {
    on: Cell<bool>,
    share: RefCell<Share>,
    copies: Cell<u64>,
    until: Cell<Duration>,
    /// The tasks that wait, one after the other.
    door: Rc<Semaphore>,
    changed: Event,
}

/// A copy in flight, which has its lock.
pub(super) struct Copying<'a>(&'a Pacer);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
        self.0.until.set(executor::now() + GRACE);
        self.0.changed.notify();
    }
}

impl Pacer {
    pub(super) fn new() -> Self {
        Pacer {
            on: Cell::new(false),
            share: RefCell::default(),
            copies: Cell::new(0),
            until: Cell::default(),
            door: Semaphore::new(1),
            changed: Event::new(),
        }
    }

    /// Reserves the copier's share from now on.
    pub(super) fn turn_on(&self) {
        self.on.set(true);
    }

    /// Reserves nothing any more, and lets go on whoever waits.
    pub(super) fn turn_off(&self) {
        self.on.set(false);
        self.changed.notify();
    }

    /// Counts a copy as in flight.
    pub(super) fn copying(&self) -> Copying<'_> {
        self.copies.set(self.copies.get() + 1);
        Copying(self)
    }

    /// Records that this many bytes were copied.
    pub(super) fn copied(&self, bytes: u64) {
        self.share.borrow_mut().copied(bytes);
    }

    fn is_contended(&self) -> bool {
        self.on.get() && (self.copies.get() > 0 || executor::now() < self.until.get())
    }

    /// Waits until writes may go to the target. No lock may be held that a copy waits for.
    async fn turn(&self) {
        if !self.is_contended() {
            return;
        }
        let _first = self.door.acquire(1).await;
        while self.is_contended() && !self.share.borrow().may_write() {
            executor::timeout(GRACE, self.changed.wait()).await;
        }
    }

    /// Waits until this many bytes may go to the target, and counts them. No lock may be held that a copy
    /// waits for.
    async fn admit(&self, bytes: u64) {
        self.turn().await;
        self.wrote(bytes);
    }

    /// Records that this many bytes go to the target beside the copier.
    fn wrote(&self, bytes: u64) {
        if self.is_contended() {
            self.share.borrow_mut().wrote(bytes);
        } else {
            // Writes while nothing was copied cost the copier nothing.
            *self.share.borrow_mut() = Share::default();
        }
    }
}

impl Replica {
    /// Locks the range of a guest's write when it may go to both sides. Returns its room in the queue too, if
    /// it is to be queued.
    pub(super) async fn lock_for_write(&self, range: &Range<u64>) -> (RangeGuard, Option<Rc<Room>>) {
        let done = self.granules.done_in(range);
        let mut room = None;
        if done > 0 {
            if self.behind.window() > 0 {
                // For all of it: more of it may be copied until it has its lock.
                room = self.behind.room(range.end - range.start).await.map(Rc::new);
            }
            if room.is_none() {
                // Bytes that are copied until it has its lock are not counted.
                self.pacer.admit(done).await;
            }
        }
        (self.granules.locks.lock(range.clone()).await, room)
    }

    /// Locks the range of a guest's request without data when it may go to both sides.
    pub(super) async fn lock_without_data(&self, range: &Range<u64>) -> RangeGuard {
        let done = self.granules.done_in(range).min(MOST_WITHOUT_DATA);
        if done > 0 {
            self.pacer.admit(done).await;
        }
        self.granules.locks.lock(range.clone()).await
    }

    /// Writes a part of a guest's write to both sides. Its bytes are locked.
    pub(super) async fn write_to_both(&self, below: &Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let len = buf.len();
        let range = offset..offset + len as u64;
        self.behind.settled(&range).await;
        let Some(target) = self.try_enter() else {
            return self.source_alone(range, below.write(offset, buf)).await;
        };
        let bounce = self.granules.source().pool.get(len);
        bounce.copy_from_buf(&buf);
        let source = below.write(offset, bounce.clone());
        let (source, target) = join(source, target.node.write(offset, bounce.clone())).await;
        self.granules.source().pool.put(bounce);
        self.both_ended(range, source, target)
    }

    /// Writes a part of a guest's write to the source, and has the target written later. Its bytes are
    /// locked.
    pub(super) async fn write_behind(
        &self,
        below: &Below<'_>,
        offset: u64,
        buf: Buf,
        room: &Rc<Room>,
    ) -> Result<()> {
        let range = offset..offset + buf.len() as u64;
        // The guest may change its buffer as soon as the source has it.
        let bounce = Buf::new(buf.len());
        bounce.copy_from_buf(&buf);
        let written = below.write(offset, bounce.clone()).await;
        if written.is_err() {
            // Nobody knows what it has written.
            self.mark(&range);
            return written;
        }
        if self.behind.window() > 0 {
            self.behind.push(offset, &bounce, room);
            self.write_queued();
            return Ok(());
        }
        // The window was closed meanwhile: from then on, nothing more is queued.
        self.behind.settled(&range).await;
        let Some(target) = self.try_enter() else {
            self.mark(&range);
            return Ok(());
        };
        let target = target.node.write(offset, bounce).await;
        self.both_ended(range, Ok(()), target)
    }

    /// Starts a worker that writes what is queued, unless there are enough.
    fn write_queued(&self) {
        let workers = &self.behind.workers;
        let (true, Some(this)) = (workers.get() < WORKERS && self.behind.has_work(), self.this.upgrade())
        else {
            return;
        };
        workers.set(workers.get() + 1);
        executor::spawn(async move {
            loop {
                this.pacer.turn().await;
                let Some(batch) = this.behind.next().await else { break };
                this.write_batch(batch).await;
            }
            this.behind.workers.set(this.behind.workers.get() - 1);
        });
    }

    async fn write_batch(&self, batch: Batch) {
        let range = batch.range.clone();
        // While the target is opened again, nothing waits for it: it is copied later.
        let Some(target) = self.try_enter() else {
            return self.mark(&range);
        };
        self.pacer.wrote(range.end - range.start);
        let written = target.node.write(range.start, batch.data()).await;
        // The guest has its success, and gets no error of the target.
        let _ = self.both_ended(range, Ok(()), written);
    }

    /// The result of a request to both sides is the source's.
    pub(super) fn both_ended(&self, range: Range<u64>, source: Result<()>, target: Result<()>) -> Result<()> {
        if source.is_err() || target.is_err() {
            // Of one that failed nobody knows what it has written.
            self.mark(&range);
        } else {
            self.written.set(self.written.get() + (range.end - range.start));
        }
        self.wrote(&range);
        if let Err(error) = target {
            self.granules.note(error);
        }
        source
    }
}
