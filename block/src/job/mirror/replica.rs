//! A copy of a disk that follows it.
//!
//! The states of a granule of the disk, and what is done in each:
//!
//! | state | a guest's write, in the background | a guest's write, active | the copier |
//! |---|---|---|---|
//! | to do | source; sets the bit | locks; source | copies it |
//! | being copied | source; sets the bit | waits for the lock, then as *done* | - |
//! | done | source; sets the bit | locks; both sides | - |
//!
//! - *Source*: the write goes to the source alone. *Both sides*: one copy of the data is written to both at
//!   once; if the target fails, the bit is set, and the guest's write succeeds. With a window, the target is
//!   written later ([`super::behind`]), and the guest waits for the source alone.
//! - *Sets the bit*: when the write has ended.
//! - *Locks*: the bytes of the write, until it has ended.
//! - *Copies it*: locks the granule, clears the bit, reads the source, writes the target. An error sets the
//!   bit again.
//!
//! Why that is right:
//!
//! - The bit is set after the end of a write, also of one that failed: a copy that read before or during
//!   it leaves the bit set afterwards. What counts is read only when no request is inside the gate.
//! - The guest may change its buffer while it is written, so both sides are written from one copy of it.
//! - Writes that overlap have no order, but source and target must agree: the lock puts them in one.
//! - While a target that was lost is opened again ([`super::target`]), a write goes to the source and sets
//!   the bit, in any mode: what it finds open, it writes to until its end.
//! - A write of the background that is in flight when the mode becomes active sets its bit at its end,
//!   so that nothing has to be drained for that.

use std::cell::Cell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join;

use super::Copies;
use super::active::Pacer;
use super::adapt::Late;
use super::behind::Behind;
use super::target::{Inside, Opening, Target};
use crate::disk::filter::{Below, Filter};
use crate::disk::job::{Follower, Following, Job};
use crate::image::copy::{Populated, Stopped, copy_over};
use crate::image::node::Node;
use crate::job::copier::Work;
use crate::job::granules::{Granules, LARGEST_HOLE};
use crate::{Buf, Error, Result};

/// The most bytes, and the longest time, between two flushes of the target: what a loss of it costs.
const FLUSH_EVERY: u64 = 32 << 20;
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Replica {
    pub(super) this: Weak<Replica>,
    /// The granules of the source. To be copied are those that the target lacks, or has an old version of.
    pub(super) granules: Granules,
    pub(super) target: Target,
    active: Cell<bool>,
    /// A client has chosen that writes go to both sides.
    pub(super) chosen: Cell<bool>,
    /// The most bytes of copies in flight.
    buffer: Option<u64>,
    /// The guest's writes on their way to the target.
    pub(super) behind: Rc<Behind>,
    /// The window of a mirror whose mode a client has chosen, in bytes.
    pub(super) window: Cell<u64>,
    /// Keeps the copier's share of the target.
    pub(super) pacer: Pacer,
    pub(super) late: Late,
    /// A controller decides about the mode.
    pub(super) adapts: Cell<bool>,
    /// The copier makes no pauses for the guest's latency.
    pub(super) hurries: Cell<bool>,
    /// The target is not needed any more: nothing begins to write it.
    given_up: Cell<bool>,
    /// From here on, a guest's flush makes both sides durable.
    both_flush: Cell<bool>,
    /// Something was copied that no flush of the target has covered. A guest's flush of before does not
    /// know of it.
    copied: Cell<bool>,
    /// The target is flushed beside the copies: not before the job has begun, nor in its end.
    flushes: Cell<bool>,
    /// A flush in the background runs, or waits for its time.
    flush_runs: Cell<bool>,
    flush_waits: Cell<bool>,
    /// Bytes that were copied or written to the target.
    pub(super) written: Cell<u64>,
    /// Bytes of them that were copied, and those that were data.
    pub(super) cleaned: Cell<u64>,
    pub(super) data: Cell<u64>,
    /// The number of times that the target was lost and opened again.
    losses: Cell<u64>,
}

impl Replica {
    /// Creates a replica of `source`, of which nothing is to be copied yet. Both have the same size.
    /// `opening` opens the target again if it is lost.
    pub(super) fn new(
        source: Rc<Node>,
        target: Rc<Node>,
        opening: Option<Opening>,
        copies: Copies,
    ) -> Rc<Self> {
        let granules = Granules::new(source, target.cluster_size(), copies.granularity);
        let target = Target::new(target, opening, granules.none());
        Rc::new_cyclic(|this| Replica {
            this: this.clone(),
            granules,
            target,
            active: Cell::new(false),
            chosen: Cell::new(false),
            buffer: copies.buffer,
            behind: Behind::new(),
            window: Cell::new(0),
            pacer: Pacer::new(),
            late: Late::default(),
            adapts: Cell::new(false),
            hurries: Cell::new(false),
            given_up: Cell::new(false),
            both_flush: Cell::new(false),
            copied: Cell::new(false),
            flushes: Cell::new(true),
            flush_runs: Cell::new(false),
            flush_waits: Cell::new(false),
            written: Cell::new(0),
            cleaned: Cell::new(0),
            data: Cell::new(0),
            losses: Cell::new(0),
        })
    }

    pub(super) fn source(&self) -> &Rc<Node> {
        self.granules.source()
    }

    /// The target's image. It is another one after a loss.
    pub(super) fn target(&self) -> Rc<Node> {
        self.target.node()
    }

    /// Has a range copied, again if it was copied before.
    pub(super) fn mark(&self, range: &Range<u64>) {
        self.granules.mark(range);
    }

    /// Bytes that are still to be copied.
    pub(super) fn remaining(&self) -> u64 {
        self.granules.remaining()
    }

    /// Bytes that the target was written with so far.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// The number of times that the target was lost and opened again, so that some of it had to be copied
    /// again.
    pub(super) fn losses(&self) -> u64 {
        self.losses.get()
    }

    /// Returns true if writes go to both sides.
    pub(super) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Writes go to both sides from now on, or to the source alone.
    pub(super) fn set_active(&self, active: bool) {
        self.active.set(active);
    }

    /// Has every flush of the guest make both sides durable from now on.
    pub(super) fn flush_both_from_now(&self) {
        self.both_flush.set(true);
    }

    /// Makes durable what the guest has written before, and what was copied, as far as the target has it.
    pub(super) async fn flush_all(&self) -> Result<()> {
        self.behind.all_settled().await;
        self.flush_target().await
    }

    /// Makes durable what the target was written with. If it was lost, it is opened again, and what was not
    /// flushed is to be copied again.
    pub(super) async fn flush_target(&self) -> Result<()> {
        self.copied.set(false);
        match self.target.flush().await {
            Ok(None) => Ok(()),
            Ok(Some(lost)) => {
                executor::limited!(
                    warn,
                    "{}: was lost and opened again: {} bytes are copied again",
                    self.target().name(),
                    lost.count() * self.granules.granule()
                );
                self.copied.set(true);
                self.losses.set(self.losses.get() + 1);
                self.granules.mark_all(&lost);
                Ok(())
            }
            Err(error) => {
                self.copied.set(true);
                Err(error)
            }
        }
    }

    /// Ends the flushes in the background, except for one that runs.
    pub(super) fn end_flushes(&self) {
        self.flushes.set(false);
    }

    /// Records that a write of the target has ended, well or not, and has it flushed in time.
    pub(super) fn wrote(&self, range: &Range<u64>) {
        self.target.wrote(range);
        if !self.flushes.get() {
            return;
        }
        let this = self.this.clone();
        if self.target.since_flush() >= FLUSH_EVERY {
            if !self.flush_runs.replace(true) {
                executor::spawn(async move {
                    if let Some(this) = this.upgrade() {
                        this.flush_behind().await;
                        this.flush_runs.set(false);
                    }
                });
            }
        } else if !self.flush_waits.replace(true) {
            executor::spawn(async move {
                executor::sleep(FLUSH_AFTER).await;
                // The job may have ended, and then nothing keeps its target.
                if let Some(this) = this.upgrade() {
                    this.flush_waits.set(false);
                    if this.target.since_flush() > 0 {
                        this.flush_behind().await;
                    }
                }
            });
        }
    }

    async fn flush_behind(&self) {
        if self.flushes.get()
            && let Err(error) = self.flush_target().await
        {
            self.granules.note(error);
        }
    }

    /// Returns true if the target holds everything, and durably what a guest has flushed. Only with the
    /// disk drained.
    pub(super) fn is_complete(&self) -> bool {
        self.granules.is_done() && self.behind.is_empty() && !self.copied.get() && !self.target.is_lost()
    }

    /// Takes the error of the target that a guest's request met.
    pub(super) fn take_error(&self) -> Option<Error> {
        self.granules.take_error()
    }

    /// Waits until something is to be copied, or an error was met.
    pub(super) async fn changed(&self) {
        self.granules.changed().await;
    }

    /// Gives up the target: of the writes to it that are on their way, only those that run come to an end.
    pub(super) fn give_up(&self) {
        self.given_up.set(true);
        self.adapts.set(false);
        self.pacer.turn_off();
        self.behind.close();
    }

    /// Begins a guest's write of the target, unless it is being opened again or was given up.
    pub(super) fn try_enter(&self) -> Option<Inside<'_>> {
        if self.given_up.get() { None } else { self.target.try_enter() }
    }

    /// Waits until no request of a guest is in the filter, no write is on its way to the target, and no flush
    /// of it runs. None may come any more.
    pub(super) async fn idle(&self) {
        self.target.flushes_ended().await;
        self.granules.idle().await;
        self.behind.all_settled().await;
    }

    /// Does a part of a guest's request on the source alone: the target cannot be written now.
    pub(super) async fn source_alone(
        &self,
        range: Range<u64>,
        source: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let result = source.await;
        self.mark(&range);
        result
    }
}

impl Follower for Replica {
    fn write_both(&self, both: bool) {
        // The client decides from now on.
        self.adapts.set(false);
        self.hurries.set(false);
        self.chosen.set(both);
        self.behind.set_window(self.window.get());
        self.set_active(both);
    }

    fn is_synced(&self) -> bool {
        self.chosen.get() && self.active.get() && self.granules.is_settled() && self.behind.is_empty()
    }

    fn following(&self) -> Following {
        Following { active: self.is_active(), queued: self.behind.used() }
    }
}

#[async_trait(?Send)]
impl Filter for Replica {
    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let _inside = self.granules.enter();
        let range = offset..offset + buf.len() as u64;
        let began = executor::now();
        if !self.active.get() {
            let result = below.write(offset, buf).await;
            #[cfg(test)]
            if crate::sim::planted::forgets() {
                return result;
            }
            self.mark(&range);
            self.late.ended(began);
            return result;
        }
        let (_lock, room) = self.lock_for_write(&range).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            let data = buf.slice((part.start - offset) as usize..(part.end - offset) as usize);
            at = part.end;
            // What is to be copied has its bit set, and the copier waits for the lock.
            match (is_todo, &room) {
                (true, _) => below.write(part.start, data).await?,
                (false, None) => self.write_to_both(&below, part.start, data).await?,
                (false, Some(room)) => self.write_behind(&below, part.start, data, room).await?,
            }
        }
        self.late.ended(began);
        Ok(())
    }

    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let _inside = self.granules.enter();
        let range = offset..offset + len;
        if !self.active.get() {
            let result = below.write_zeroes(offset, len, unmap).await;
            self.mark(&range);
            return result;
        }
        let _lock = self.lock_without_data(&range).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            let len = part.end - part.start;
            at = part.end;
            let source = below.write_zeroes(part.start, len, unmap);
            if is_todo {
                source.await?;
                continue;
            }
            self.behind.settled(&part).await;
            let Some(target) = self.try_enter() else {
                self.source_alone(part, source).await?;
                continue;
            };
            let (source, target) = join(source, target.node.write_zeroes(part.start, len, unmap)).await;
            self.both_ended(part, source, target)?;
        }
        Ok(())
    }

    async fn discard(&self, below: Below<'_>, offset: u64, len: u64) -> Result<()> {
        let _inside = self.granules.enter();
        // The source may read as before or as zeros afterwards, and the target must read the same: it is
        // copied.
        let range = offset..offset + len;
        if !self.active.get() {
            let result = below.discard(offset, len).await;
            self.mark(&range);
            return result;
        }
        let _lock = self.lock_without_data(&range).await;
        let result = below.discard(offset, len).await;
        let mut at = offset;
        while at < range.end {
            let (part, is_todo) = self.granules.first_part(at..range.end);
            at = part.end;
            if is_todo {
                continue;
            }
            self.behind.settled(&part).await;
            let Some(target) = self.try_enter() else {
                self.mark(&part);
                continue;
            };
            let copied = copy_over(self.granules.source(), &target.node, part.clone()).await;
            self.wrote(&part);
            if let Err(stopped) = copied {
                self.mark(&part);
                self.granules.note(stopped.error);
            }
        }
        result
    }

    async fn flush(&self, below: Below<'_>) -> Result<()> {
        let _inside = self.granules.enter();
        if !self.both_flush.get() {
            return below.flush().await;
        }
        let (source, target) = join(below.flush(), self.flush_all()).await;
        if let Err(error) = target {
            self.granules.note(error);
        }
        source
    }
}

#[async_trait(?Send)]
impl Work for Rc<Replica> {
    fn size(&self) -> u64 {
        self.granules.size()
    }

    fn unit(&self) -> u64 {
        self.granules.granule()
    }

    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        Ok(self.granules.next(&range, most))
    }

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        self.granules.look(offset, len).await
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        let whole = self.granules.whole(&range);
        // Else a target that is slow to flush would have much to lose.
        self.target.room(FLUSH_EVERY).await;
        let target = self.target.enter().await;
        let _lock = self.granules.locks.lock_for_job(whole.clone()).await;
        let _copying = self.granules.copying();
        self.granules.unmark(&whole);
        // Older writes to these granules, which are in the source, must not come after the copy.
        self.behind.settled(&whole).await;
        let _paced = self.pacer.copying();
        let copied = copy_over(self.granules.source(), &target.node, whole.clone()).await;
        self.copied.set(true);
        self.wrote(&whole);
        match &copied {
            Ok(done) => {
                let bytes = whole.end - whole.start;
                self.written.set(self.written.get() + bytes);
                self.cleaned.set(self.cleaned.get() + bytes);
                self.data.set(self.data.get() + done.copied + done.offloaded);
                self.pacer.copied(bytes);
            }
            Err(_) => self.mark(&whole),
        }
        copied
    }

    async fn flush(&self) -> Result<()> {
        // From then on it is done once, at the end.
        if self.both_flush.get() { Ok(()) } else { self.flush_target().await }
    }

    fn flush_every(&self, _gentle: bool) -> Option<u64> {
        // It flushes in the background by itself.
        None
    }

    fn may_pause(&self) -> bool {
        !self.hurries.get()
    }

    fn take_failure(&self) -> Option<Error> {
        self.take_error()
    }

    fn largest_hole(&self) -> u64 {
        LARGEST_HOLE
    }

    fn most_in_flight(&self) -> Option<u64> {
        self.buffer
    }

    fn report(&self, job: &Job, _: u64) {
        if job.is_completing() || job.is_leaving() {
            // Or a guest that writes all the time keeps the copier from an end.
            self.follow_to_the_end();
        }
        job.set_progress(self.written(), self.remaining());
    }
}
