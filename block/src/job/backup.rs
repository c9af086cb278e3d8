//! The backup: a copy of a disk as it was at one moment, made while the guest goes on.
//!
//! `Before` is a filter on the disk: before a guest's write changes what was not copied yet, the old content
//! is copied. The copier copies the rest. The states of a granule of the disk:
//!
//! | state | a guest's write | the copier |
//! |---|---|---|
//! | to do | locks the granule, copies it, clears the bit; then writes | the same, without the write |
//! | being copied (locked) | waits for the lock, then as *done* | - |
//! | done | writes | - |
//!
//! A bit is cleared when the copy has ended, so that a write passes only what is copied. A copy that fails
//! for a guest's write fails no guest: the write goes on, the moment is lost, and the backup ends with that
//! error, whatever its policy.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;

use super::copier::order::Plan;
use super::copier::{Copier, Work};
use super::granules::{Granules, LARGEST_HOLE};
use super::mirror::{MirrorTarget, Sync};
use crate::disk::filter::{Below, Filter, Installed};
use crate::disk::job::{Job, JobKind, JobOptions, Strategy};
use crate::disk::step::Planned;
use crate::disk::switch::DEADLINE;
use crate::disk::{Claim, Claimant, Disk, Needs};
use crate::image::chain;
use crate::image::copy::{Populated, Stopped, copy_over};
use crate::image::node::Node;
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

/// The longest range whose allocation is looked up before the job may rest, in bytes; a power of two.
const LOOK: u64 = 64 << 20;

/// The options of a backup.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The target.
    pub target: MirrorTarget,
    /// The part that is copied; with [`Sync::None`], what the guest changes, until the job is cancelled.
    pub sync: Sync,
}

impl Disk {
    /// Starts a backup of the disk as it is when this returns.
    ///
    /// # Errors
    /// As [`Disk::prepare_backup`]; `TimedOut` if requests in flight do not end.
    pub async fn start_backup(self: &Rc<Self>, backup: BackupOptions, options: JobOptions) -> Result<()> {
        let this = self.clone();
        // Runs to its end even if the caller goes away: nothing is left half open.
        executor::to_the_end(async move {
            this.prepare_backup(backup, options).await?.close(DEADLINE).await?.commit().await;
            Ok(())
        })
        .await
    }

    /// Makes everything ready for a backup. It begins when what is returned is committed, and copies the disk
    /// as it is then.
    ///
    /// # Errors
    /// `InUse` if another job or command has the disk; `Unsupported` for a raw image that is to have a
    /// backing file; errors of creating and opening the target; `Invalid` if its size is not the disk's.
    pub async fn prepare_backup(
        self: &Rc<Self>,
        backup: BackupOptions,
        options: JobOptions,
    ) -> Result<Planned> {
        let claim = self.claim(Claimant::Job(JobKind::Backup), Needs::Disk, self.name())?;
        self.end_old().await?;
        let leaf = self.leaf();
        let mut sync = backup.sync;
        if sync == Sync::Top && leaf.backing().is_none() {
            // The leaf holds everything, also where nothing is allocated.
            sync = Sync::Full;
        }
        let target = self.open_backup(&backup.target, sync, &leaf).await?;
        let before = Before::new(leaf, target);
        let this = self.clone();
        let begin = move || this.begin_backup(before, sync, options, claim);
        Ok(Planned::start(self, begin))
    }

    /// Begins a backup. The disk must be drained.
    fn begin_backup(self: &Rc<Self>, before: Rc<Before>, sync: Sync, options: JobOptions, claim: Claim) {
        before.granules.mark(&(0..self.size()));
        let installed = RefCell::new(Some(self.install(before.clone())));
        let strategy = Backup { disk: self.clone(), sync, before, installed };
        self.start_job(options, JobKind::Backup, claim, strategy);
    }

    async fn open_backup(&self, target: &MirrorTarget, sync: Sync, leaf: &Rc<Node>) -> Result<Rc<Node>> {
        let MirrorTarget { name, format, existing, node_name } = target;
        let behind = match sync {
            Sync::Full => None,
            Sync::Top => leaf.backing(),
            Sync::None => Some(leaf.clone()),
        };
        if !existing {
            self.create_target(target, behind.as_ref(), leaf).await?;
        }
        let over = match &behind {
            Some(node) if format.has_backing() => {
                let backing = self.inspect(name, *format, true).await?.backing;
                match backing {
                    Some(backing) if chain::is_same(&*self.opener, name, &backing, node).await? => {
                        chain::open_over(&*self.opener, name, *format, node).await?
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let target = match over {
            Some(target) => target,
            None => chain::open(&*self.opener, name, *format, true).await?,
        };
        if target.size() != leaf.size() {
            return Err(Error::new(ErrorKind::Invalid, "Source and target image have different sizes"));
        }
        if let Some(name) = node_name {
            target.set_node_name(name);
        }
        target.storage().sync_name().await?;
        Ok(target)
    }
}

/// The filter that copies before the guest writes; see the module.
struct Before {
    /// The granules of the source. To be copied are those that were not copied yet. An error is that of a
    /// copy for a guest's write, and from then on nothing is copied.
    granules: Granules,
    target: Rc<Node>,
    /// Bytes that were copied.
    copied: Cell<u64>,
}

impl Before {
    fn new(source: Rc<Node>, target: Rc<Node>) -> Rc<Self> {
        let granules = Granules::new(source, target.cluster_size(), None);
        Rc::new(Before { granules, target, copied: Cell::new(0) })
    }

    /// Copies what is to be copied of a range of whole granules, whose lock is held.
    async fn copy_locked(&self, whole: Range<u64>) -> std::result::Result<Populated, Stopped> {
        let mut done = Populated::default();
        let mut at = whole.start;
        while let Some(part) = self.granules.next(&(at..whole.end), u64::MAX) {
            match copy_over(self.granules.source(), &self.target, part.clone()).await {
                Ok(copied) => done += copied,
                Err(stopped) => {
                    done += stopped.done;
                    return Err(Stopped { done, ..stopped });
                }
            }
            self.granules.unmark(&part);
            self.copied.set(self.copied.get() + (part.end - part.start));
            at = part.end;
        }
        Ok(done)
    }

    /// Copies the old content of a range that a guest is about to change.
    async fn copy_before(&self, range: Range<u64>) {
        let granules = &self.granules;
        let whole = granules.whole(&range);
        if granules.error().is_some() || granules.next(&whole, 1).is_none() {
            return;
        }
        let _lock = granules.locks.lock(whole.clone()).await;
        // Another write's copy may have failed meanwhile.
        if granules.error().is_some() {
            return;
        }
        if let Err(stopped) = self.copy_locked(whole).await {
            granules.note(stopped.error);
        }
    }
}

#[async_trait(?Send)]
impl Filter for Before {
    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let _inside = self.granules.enter();
        self.copy_before(offset..offset + buf.len() as u64).await;
        below.write(offset, buf).await
    }

    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let _inside = self.granules.enter();
        self.copy_before(offset..offset + len).await;
        below.write_zeroes(offset, len, unmap).await
    }

    async fn discard(&self, below: Below<'_>, offset: u64, len: u64) -> Result<()> {
        let _inside = self.granules.enter();
        self.copy_before(offset..offset + len).await;
        below.discard(offset, len).await
    }
}

#[async_trait(?Send)]
impl Work for Rc<Before> {
    fn size(&self) -> u64 {
        self.granules.size()
    }

    fn unit(&self) -> u64 {
        self.granules.granule()
    }

    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        match self.granules.error() {
            Some(_) => Ok(None),
            None => Ok(self.granules.next(&range, most)),
        }
    }

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        self.granules.look(offset, len).await
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        let whole = self.granules.whole(&range);
        let _lock = self.granules.locks.lock_for_job(whole.clone()).await;
        self.copy_locked(whole).await
    }

    async fn flush(&self) -> Result<()> {
        self.target.flush().await
    }

    fn largest_hole(&self) -> u64 {
        LARGEST_HOLE
    }

    fn report(&self, job: &Job, _: u64) {
        job.set_progress(self.copied.get(), self.granules.remaining());
    }
}

/// The strategy.
struct Backup {
    disk: Rc<Disk>,
    sync: Sync,
    before: Rc<Before>,
    installed: RefCell<Option<Installed>>,
}

impl Backup {
    /// Leaves out the granules that the leaf itself has nothing of.
    async fn leave_out(&self, job: &Job) -> Result<()> {
        let before = &self.before;
        let (leaf, granule) = (before.granules.source(), before.granules.granule());
        let (size, window) = (leaf.size(), LOOK.max(granule));
        let turns = Turns::default();
        let mut at = 0;
        while at < size {
            turns.step().await;
            job.rest().await?;
            // Windows end between granules, so that none is kept for being in two of them.
            let end = (at - at % window + window).min(size);
            let absent = leaf.next_absent(at..end, u64::MAX).await.map_err(Error::of_source)?;
            let Some(absent) = absent else {
                at = end;
                continue;
            };
            let last = if absent.end >= size { size } else { absent.end - absent.end % granule };
            let first = absent.start.next_multiple_of(granule);
            if first < last {
                before.granules.unmark(&(first..last));
            }
            at = absent.end;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.before.granules.error().map_or(Ok(()), Err)
    }
}

#[async_trait(?Send)]
impl Strategy for Backup {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let before = &self.before;
        before.report(job, 0);
        if self.sync == Sync::None {
            // Only what the guest changes is copied, until the job is cancelled.
            loop {
                before.report(job, 0);
                job.rest().await?;
                self.check()?;
                job.changed_or(before.granules.changed()).await;
            }
        }
        if self.sync == Sync::Top {
            self.leave_out(job).await?;
        }
        let plan = Plan::new(before.granules.size(), Vec::new(), None);
        let copied = Copier::new(&self.disk, job, before.clone(), plan, None).run().await;
        self.check().and(copied)
    }

    async fn finish(&self, _: &Rc<Job>) -> Result<()> {
        self.check()?;
        self.before.target.flush().await
    }

    async fn clean(&self) {
        self.installed.take();
        // Requests that began before may still copy, and nothing may when the target is closed. A target that
        // hangs keeps nobody here for ever.
        let target = &self.before.target;
        if executor::timeout(DEADLINE, self.before.granules.idle()).await.is_some()
            && let Err(e) = target.close().await
        {
            executor::limited!(warn, "{}: cannot finish {}: {e}", self.disk.name(), target.name());
        }
        if let Err(e) = self.disk.end_old().await {
            executor::limited!(warn, "{}: cannot finish a former leaf: {e}", self.disk.name());
        }
    }
}
