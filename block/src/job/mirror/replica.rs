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

use super::Copies;
use super::active::Pacer;
use super::adapt::Late;
use super::behind::Behind;
use super::target::{Inside, Opening, Target};
use crate::disk::job::{Follower, Following};
use crate::image::node::Node;
use crate::job::granules::Granules;
use crate::{Error, Result};

mod filter;
mod work;

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
