//! The copier: the loop that a job copies with, several chunks at once.
//!
//! The copier has window, budget, order, speed, pause, error policy and progress. A job says by its
//! [`Work`] what is to be copied, and how one range is.

mod beside;
mod budget;
pub(crate) mod order;
mod window;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use executor::sync::{Permit, Semaphore};

use crate::disk::Disk;
use crate::disk::job::{Job, Operation};
use crate::image::copy::{LARGEST_READ, Populated, Stopped};
use crate::{Error, ErrorAction, ErrorKind, Result};
use budget::Budget;
use order::{Next, Plan};
use window::{RECENT, Window};

/// The largest number of copies in flight.
const SLOTS: u64 = 8;
/// Bytes copied between two flushes of the target: bounds the work that a crash makes a job repeat.
const FLUSH_EVERY: u64 = 64 << 20;
/// The same while a guest is active, whose reads wait while a device flushes its cache.
const GENTLE_FLUSH_EVERY: u64 = 256 << 20;

/// The limit of a job that nobody waits for: an active guest's median latency, as a multiple of that beside
/// the smallest copies.
pub(crate) const GENTLE: f64 = 2.0;

/// The work of a job that copies. All offsets and lengths are bytes of the disk.
#[async_trait(?Send)]
pub(crate) trait Work {
    /// The size of the disk.
    fn size(&self) -> u64;

    /// Ranges are copied in multiples of this, at offsets that are multiples of it, but for the disk's end.
    fn unit(&self) -> u64;

    /// Returns the first range in `range` that is to be copied, at most `most` bytes of it.
    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>>;

    /// Returns for how many bytes from `offset` on, at most `len`, the source has data, or else has none.
    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)>;

    /// Copies a range that [`Work::next`] has returned, or a part of it.
    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped>;

    /// Makes durable what was copied.
    async fn flush(&self) -> Result<()>;

    /// The bytes that are copied between two flushes, if this loop is to flush before its end. `gentle` says
    /// that a guest is active.
    fn flush_every(&self, gentle: bool) -> Option<u64> {
        Some(if gentle { GENTLE_FLUSH_EVERY } else { FLUSH_EVERY })
    }

    /// Returns false if the loop is to make no pauses for the guest's latency.
    fn may_pause(&self) -> bool {
        true
    }

    /// Takes an error that something beside the copies has met, and that is to be decided about as theirs.
    fn take_failure(&self) -> Option<Error> {
        None
    }

    /// The largest hole that is copied in one step, in bytes.
    fn largest_hole(&self) -> u64 {
        1 << 30
    }

    /// The most bytes of copies in flight, or one unit if that is more. `None` if the copier chooses.
    fn most_in_flight(&self) -> Option<u64> {
        None
    }

    /// The limit of an active guest's median latency, as a multiple of that beside the smallest copies.
    fn limit(&self) -> f64 {
        GENTLE
    }

    /// Reports the progress, when everything below `frontier` was gone through.
    fn report(&self, job: &Job, frontier: u64) {
        job.advance(frontier);
    }
}

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
struct Failed {
    /// The range that could not be copied; empty if it is not known.
    range: Range<u64>,
    error: Error,
}

/// The copy loop of one job.
pub(crate) struct Copier<W> {
    disk: Rc<Disk>,
    work: W,
    job: Rc<Job>,
    plan: Plan,
    budget: Option<Budget>,
    window: Window,
    slots: Rc<Semaphore>,
    /// Bytes that may be in flight, with their number if none are, if the work limits them.
    room: Option<(Rc<Semaphore>, u64)>,
    /// Allows one flush at a time, beside the copies.
    flushing: Rc<Semaphore>,
    since_flush: Cell<u64>,
    frontier: Frontier,
    failed: RefCell<Option<Failed>>,
}

impl<W: Work + 'static> Copier<W> {
    /// Creates the loop. With `max_latency`, it slows itself down so that 99 of 100 reads and writes of
    /// the disk take no longer.
    pub(crate) fn new(
        disk: &Rc<Disk>,
        job: &Rc<Job>,
        work: W,
        plan: Plan,
        max_latency: Option<Duration>,
    ) -> Rc<Self> {
        let most = work.most_in_flight().map(|most| most.max(1).next_multiple_of(work.unit()));
        let window = Window::new(work.limit());
        Rc::new(Copier {
            disk: disk.clone(),
            work,
            job: job.clone(),
            plan,
            budget: max_latency.map(|limit| Budget::new(disk, limit)),
            window,
            slots: Semaphore::new(SLOTS),
            room: most.map(|most| (Semaphore::new(most), most)),
            flushing: Semaphore::new(1),
            since_flush: Cell::new(0),
            frontier: Frontier::default(),
            failed: RefCell::default(),
        })
    }

    /// Copies until nothing is left, and makes it durable. Nothing is in flight when this returns.
    ///
    /// # Errors
    /// `Cancelled` if the job was; and what copying failed with, if the job's policy is to report that,
    /// or to leave it out.
    pub(crate) async fn run(self: &Rc<Self>) -> Result<()> {
        // If something is found at the end, everything is gone through again: what counts is the map of
        // the whole disk, not the frontier.
        loop {
            if let Some(error) = self.pass().await? {
                return Err(error);
            }
            self.job.rest().await?;
            if self.work.next(0..self.work.size(), 1).await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Copies until nothing is left but ranges whose error was ignored; returns the first such error.
    async fn pass(self: &Rc<Self>) -> Result<Option<Error>> {
        let (mut ignored, mut from) = (None, 0);
        loop {
            let Failed { range, error } = match self.copy_from(from).await {
                Ok(()) => match self.work.flush().await {
                    Ok(()) => return Ok(ignored),
                    Err(error) => Failed { range: from..from, error },
                },
                Err(failed) => failed,
            };
            if error.kind() == ErrorKind::Cancelled || self.job.is_cancelled() {
                return Err(error);
            }
            from = self.frontier.at.get();
            let operation = if error.is_of_source() { Operation::Read } else { Operation::Write };
            match self.job.decide(operation, &error) {
                ErrorAction::Stop => self.job.rest().await?,
                // Only a known range can be left out.
                ErrorAction::Ignore if !range.is_empty() => {
                    if range.start <= from {
                        from = from.max(range.end);
                    }
                    ignored.get_or_insert(error);
                }
                ErrorAction::Ignore | ErrorAction::Report => return Err(error),
            }
        }
    }

    /// Copies the ranges that the plan has first, then along the disk from `from` on. Nothing is in
    /// flight when this returns.
    ///
    /// # Errors
    /// The failed copy with the lowest offset; `Cancelled` if the job was cancelled.
    async fn copy_from(self: &Rc<Self>, from: u64) -> std::result::Result<(), Failed> {
        self.plan.go_back(from);
        self.frontier.at.set(from);
        self.frontier.ahead.take();
        let result = self.start_copies().await;
        // Waits after an error, too, so that nothing is half done when the caller continues.
        let _idle = (self.slots.acquire(SLOTS).await, self.flushing.acquire(1).await);
        if let Err(error) = result {
            let at = self.plan.at();
            self.note(at..at, error);
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    async fn start_copies(self: &Rc<Self>) -> Result<()> {
        while self.failed.borrow().is_none() {
            if let Some(error) = self.work.take_failure() {
                return Err(error);
            }
            if self.job.must_rest() {
                let _idle = self.slots.acquire(SLOTS).await;
                self.job.rest().await?;
                continue;
            }
            let slot = self.turn().await;
            let before = self.plan.at();
            let most = self.window.chunk() + self.work.unit();
            let Some(next) = self.plan.next(&self.work, most).await? else {
                self.advance(before..self.work.size());
                break;
            };
            if next.sequential {
                self.advance(before..next.range.start);
            }
            let (chunk, data) = self.cut(&next).await?;
            let cost = if data { chunk.end - chunk.start } else { 0 };
            // Only now its size is known.
            let more = self.slots.acquire(self.window.slots(chunk.end - chunk.start) - 1).await;
            let room = self.room(cost).await;
            self.job.admit(cost).await;
            if self.job.must_rest() {
                continue;
            }
            self.plan.take(&next, chunk.end);
            self.flush_now_and_then(cost);
            let permits = (slot, more, room);
            executor::spawn(self.clone().copy_chunk(chunk, next.sequential, data, permits));
        }
        Ok(())
    }

    /// Waits until one more copy may be in flight.
    async fn turn(&self) -> Permit {
        let budget = self.budget.as_ref().filter(|_| self.work.may_pause());
        if let Some(pause) = budget.map(Budget::pause).filter(|pause| !pause.is_zero()) {
            self.window.retreat();
            executor::sleep(pause).await;
        }
        let (reads, writes) = (&self.disk.stats.reads, &self.disk.stats.writes);
        let requests = reads.latency.len() + writes.latency.len();
        let latencies = || reads.latency.with(&writes.latency);
        self.window.set_gentle(self.disk.is_busy(RECENT), executor::now(), requests, latencies);
        self.slots.acquire(1).await
    }

    /// Waits until `bytes` more may be in flight.
    async fn room(&self, bytes: u64) -> Option<Permit> {
        match &self.room {
            Some((room, most)) => Some(room.acquire(bytes.min(*most)).await),
            None => None,
        }
    }

    /// Returns the part of a range that is copied at once, and true if there is data for it.
    async fn cut(&self, next: &Next) -> Result<(Range<u64>, bool)> {
        let Range { start, end } = next.range.clone();
        let unit = self.work.unit();
        if self.work.look(start, end - start).await?.1 {
            let limit = self.room.as_ref().map_or(u64::MAX, |(_, most)| *most);
            let most = self.job.step(self.window.chunk().min(limit));
            return Ok((start..(start - start % unit + most.next_multiple_of(unit)).min(end), true));
        }
        // A hole costs no data, so it is taken in large steps.
        let most = self.work.largest_hole();
        let hole = self.work.look(start, most.min(self.work.size() - start)).await?.0;
        let range = self.work.next(start..start + hole.max(end - start), most).await?;
        let end = range.map_or(end, |range| range.end.max(end)).min((start + most).next_multiple_of(unit));
        Ok((start..end, false))
    }

    /// Copies a chunk, in a task of its own: it never waits for the loop, which may be paused for long.
    async fn copy_chunk(
        self: Rc<Self>,
        chunk: Range<u64>,
        sequential: bool,
        data: bool,
        permits: (Permit, Permit, Option<Permit>),
    ) {
        let ticket = self.disk.begin_copy().await;
        let copied = self.work.copy(chunk.clone()).await;
        drop(ticket);
        match copied {
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
                // Whole units are copied, even if the chunk ends inside one.
                let end = chunk.end.next_multiple_of(self.work.unit()).min(self.work.size());
                let failed = (at - at % LARGEST_READ + LARGEST_READ).min(end);
                self.note(at..failed.max(at), error);
            }
        }
        drop(permits);
    }

    fn advance(&self, range: Range<u64>) {
        self.work.report(&self.job, self.frontier.finish(range));
    }

    /// Starts a flush if one is due. Copies continue meanwhile.
    fn flush_now_and_then(self: &Rc<Self>, bytes: u64) {
        self.since_flush.set(self.since_flush.get() + bytes);
        let due = self.work.flush_every(self.window.is_gentle());
        if due.is_none_or(|due| self.since_flush.get() < due) {
            return;
        }
        let Some(one) = self.flushing.try_acquire(1) else { return };
        self.since_flush.set(0);
        let this = self.clone();
        executor::spawn(async move {
            if let Err(error) = this.work.flush().await {
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
