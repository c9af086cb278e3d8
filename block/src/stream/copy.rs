//! The copy loop: copies all that is absent, several chunks at once.
//!
//! The loop knows its images and its job, but no commands, error policies or completion.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use executor::sync::{Permit, Semaphore};

use super::budget::Budget;
use super::order::{Next, Plan};
use super::scope::Scope;
use super::window::{RECENT, SLOTS, Window};
use crate::disk::Disk;
use crate::job::Job;
use crate::populate::{LARGEST_READ, Stopped, populate};
use crate::{Error, Result};

/// Bytes copied between two commits of the leaf: bounds the work that a crash makes the stream repeat.
const COMMIT_EVERY: u64 = 64 << 20;
/// The same while a guest is active, whose reads wait while a device flushes its cache.
const GENTLE_COMMIT_EVERY: u64 = 256 << 20;
/// The largest hole that is made zero in one step, in bytes.
const HOLE: u64 = 1 << 30;

/// The offset below which everything is done, and the ranges that were finished ahead of it.
#[derive(Default)]
struct Frontier {
    at: Cell<u64>,
    ahead: RefCell<BTreeMap<u64, u64>>,
}

impl Frontier {
    fn finish(&self, range: Range<u64>) -> u64 {
        let mut ahead = self.ahead.borrow_mut();
        ahead.insert(range.start, range.end);
        while let Some(entry) = ahead.first_entry() {
            if *entry.key() > self.at.get() {
                break;
            }
            self.at.set(self.at.get().max(entry.remove()));
        }
        self.at.get()
    }
}

/// A copy that failed. Of several, the one with the lowest range is kept.
pub(super) struct Failed {
    /// The range that could not be copied; empty if it is not known.
    pub range: Range<u64>,
    pub error: Error,
}

/// The copy loop of one image.
pub(super) struct Copy {
    disk: Rc<Disk>,
    scope: Rc<Scope>,
    job: Rc<Job>,
    plan: Plan,
    budget: Option<Budget>,
    window: Window,
    slots: Rc<Semaphore>,
    /// Allows one commit at a time, beside the copies.
    committing: Rc<Semaphore>,
    since_commit: Cell<u64>,
    frontier: Frontier,
    failed: RefCell<Option<Failed>>,
}

impl Copy {
    pub(super) fn new(
        disk: &Rc<Disk>,
        scope: &Rc<Scope>,
        job: &Rc<Job>,
        plan: Plan,
        budget: Option<Budget>,
    ) -> Rc<Self> {
        Rc::new(Copy {
            disk: disk.clone(),
            scope: scope.clone(),
            job: job.clone(),
            plan,
            budget,
            window: Window::new(),
            slots: Semaphore::new(SLOTS),
            committing: Semaphore::new(1),
            since_commit: Cell::new(0),
            frontier: Frontier::default(),
            failed: RefCell::default(),
        })
    }

    /// Populates all that is absent: the ranges that the plan has first, then along the disk from `from`
    /// on. Nothing is in flight when this ends.
    ///
    /// # Errors
    /// The failed copy with the lowest offset; `Cancelled` if the job was cancelled.
    pub(super) async fn run(self: &Rc<Self>, from: u64) -> std::result::Result<(), Failed> {
        self.plan.go_back(from);
        self.frontier.at.set(from);
        self.frontier.ahead.take();
        let result = self.copy_all().await;
        // Waits after an error, too, so that nothing is half done when the caller continues.
        let _idle = (self.slots.acquire(SLOTS).await, self.committing.acquire(1).await);
        if let Err(error) = result {
            let at = self.plan.at();
            self.note(at..at, error);
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    async fn copy_all(self: &Rc<Self>) -> Result<()> {
        while self.failed.borrow().is_none() {
            if self.job.must_rest() {
                let _idle = self.slots.acquire(SLOTS).await;
                self.job.rest().await?;
                continue;
            }
            let slot = self.turn().await;
            let before = self.plan.at();
            let Some(next) =
                self.plan.next(&self.scope, self.window.chunk() + self.scope.image.cluster_size()).await?
            else {
                self.advance(before..self.scope.image.size());
                break;
            };
            if next.sequential {
                self.advance(before..next.absent.start);
            }
            let (chunk, data) = self.cut(&next).await?;
            let cost = if data { chunk.end - chunk.start } else { 0 };
            self.job.admit(cost).await;
            if self.job.must_rest() {
                continue;
            }
            self.plan.take(&next, chunk.end);
            self.commit_now_and_then(cost);
            executor::spawn(self.clone().copy(chunk, next.sequential, data, slot));
        }
        Ok(())
    }

    /// Waits until one more copy may be in flight.
    async fn turn(&self) -> Permit {
        if let Some(pause) = self.budget.as_ref().map(Budget::pause).filter(|pause| !pause.is_zero()) {
            executor::sleep(pause).await;
        }
        self.window.set_gentle(self.disk.is_busy(RECENT));
        self.slots.acquire(self.window.slots()).await
    }

    /// Returns the part of an absent range that is copied at once, and true if there is data for it.
    async fn cut(&self, next: &Next) -> Result<(Range<u64>, bool)> {
        let Range { start, end } = next.absent.clone();
        let unit = self.scope.image.cluster_size();
        let below = async |len| match self.scope.image.backing() {
            Some(backing) => {
                let run = backing.map(start, len).await.map_err(Error::of_source)?;
                Ok::<_, Error>((run.len, run.data))
            }
            None => Ok((len, false)),
        };
        if below(end - start).await?.1 {
            let most = self.job.step(self.window.chunk());
            return Ok((start..(start - start % unit + most.next_multiple_of(unit)).min(end), true));
        }
        // A hole costs no data, so it is taken in large steps.
        let hole = below(HOLE.min(self.scope.image.size() - start)).await?.0;
        let absent = self.scope.next_absent(start..start + hole.max(end - start), HOLE).await?;
        let end = absent.map_or(end, |absent| absent.end.max(end));
        Ok((start..end, false))
    }

    /// Copies a chunk, in a task of its own: it never waits for the loop, which may be paused for long.
    async fn copy(self: Rc<Self>, chunk: Range<u64>, sequential: bool, data: bool, slot: Permit) {
        match populate(&self.scope.image, chunk.clone()).await {
            Ok(done) => {
                self.disk.stats.populated(done);
                if data {
                    self.window.copied(executor::now(), done);
                }
                if sequential {
                    self.advance(chunk);
                }
            }
            Err(Stopped { done, at, error }) => {
                self.disk.stats.populated(done);
                let at = at.max(chunk.start);
                if sequential {
                    self.advance(chunk.start..at);
                }
                // Whole clusters are populated, even if the chunk ends inside one.
                let image = &self.scope.image;
                let end = chunk.end.next_multiple_of(image.cluster_size()).min(image.size());
                let failed = (at - at % LARGEST_READ + LARGEST_READ).min(end);
                self.note(at..failed.max(at), error);
            }
        }
        drop(slot);
    }

    fn advance(&self, range: Range<u64>) {
        self.job.advance(self.frontier.finish(range));
    }

    /// Returns the offset below which everything along the disk is done.
    pub(super) fn frontier(&self) -> u64 {
        self.frontier.at.get()
    }

    /// Starts a commit of the image if one is due. Copies continue meanwhile.
    fn commit_now_and_then(self: &Rc<Self>, bytes: u64) {
        self.since_commit.set(self.since_commit.get() + bytes);
        let due = if self.window.is_gentle() { GENTLE_COMMIT_EVERY } else { COMMIT_EVERY };
        if self.since_commit.get() < due {
            return;
        }
        let Some(one) = self.committing.try_acquire(1) else { return };
        self.since_commit.set(0);
        let this = self.clone();
        executor::spawn(async move {
            if let Err(error) = this.scope.image.flush().await {
                let at = this.frontier.at.get();
                this.note(at..at, error);
            }
            drop(one);
        });
    }

    /// Records a failure, and keeps the one with the lowest range.
    fn note(&self, range: Range<u64>, error: Error) {
        let mut failed = self.failed.borrow_mut();
        match &*failed {
            Some(old) if old.range.start <= range.start => {}
            _ => *failed = Some(Failed { range, error }),
        }
    }
}
