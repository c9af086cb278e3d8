//! The mirror: a copy of a disk that follows it, until the disk moves to it or leaves it behind.
//!
//! `Replica` is the copy and its state table; this file is the job: a pass over what is to be copied,
//! then READY, then what the guest writes, and at the end the pivot.
//!
//! Durability, step by step:
//!
//! 1. When nothing is left to copy, the target is flushed, and from then on a guest's flush makes both
//!    sides durable: READY.
//! 2. Asked to complete, the job has writes go to both sides, so that no more comes to be copied than is
//!    in flight; when that is copied, the target is flushed once more, with the gate open.
//! 3. The gate is closed, the disk is drained, and if nothing was copied since that flush, the leaf is
//!    swapped. Nothing is flushed in between. What was answered and not flushed belongs to the new
//!    leaf's next flush.
//! 4. With a witness, the guest's changes wait until that says who the owner is (`witness`).
//! 5. When the end is reported, the old leaf is closed, and can be deleted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use super::copier::Copier;
use super::copier::order::Plan;
use super::granules::check_granularity;
use crate::disk::filter::Installed;
use crate::disk::job::{Follower, Job, JobKind, JobOptions, Operation, Strategy};
use crate::disk::switch::DEADLINE;
use crate::disk::{Claimant, Disk, Needs, READ_ONLY};
use crate::image::chain;
use crate::image::node::Node;
use crate::image::{self, Create};
use crate::storage::Opener;
use crate::turns::Turns;
use crate::{Error, ErrorAction, ErrorKind, Kind, Result};

mod active;
mod adapt;
mod behind;
pub mod commit;
mod commit_options;
pub mod control;
mod replica;
mod target;
mod witness;

use replica::Replica;
use target::Opening;
use witness::Witness;

/// The number of tries to end when requests in flight do not end, or something came to be copied meanwhile.
const TRIES: usize = 3;

/// The part of a disk that a mirror copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sync {
    /// Everything that the disk holds, of all images of its chain.
    #[default]
    Full,
    /// Only what the leaf holds; the target gets the leaf's backing file as its own.
    Top,
    /// Only what is written from now on; the target gets the leaf as its backing file.
    None,
}

/// The way of the guest's writes while a mirror works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyMode {
    /// They go to the source, and are copied later.
    #[default]
    Background,
    /// They go to both sides before they are answered, so that the mirror always catches up.
    WriteBlocking,
}

/// The target of a mirror.
#[derive(Clone, Debug)]
pub struct MirrorTarget {
    /// Its file name, or the URI of an export.
    pub name: String,
    /// Its format.
    pub format: Kind,
    /// True if the image exists, false if it is to be created.
    pub existing: bool,
    /// Its node name; one that is generated if `None`.
    pub node_name: Option<String>,
}

/// The settings of a mirror's copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copies {
    /// The size of a granule in bytes, a power of two from 512 on. `None` for 64 KiB, or the clusters of the
    /// target if they are larger.
    pub granularity: Option<u64>,
    /// The most bytes of copies in flight, or one granule if that is more. `None` if the copier chooses.
    pub buffer: Option<u64>,
}

/// The settings of a mirror that watches what its copies and writes take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MirrorTuning {
    /// While writes go to both sides, the bytes that may be on their way to the target after the guest has
    /// its result; 0 for none. At most [`MOST_WINDOW`].
    pub window: u64,
    /// True if the mode is chosen by a controller ([`control`]), which begins in the background.
    pub adaptive: bool,
    /// For an adaptive mirror, the time within which it should be ready, without that of pauses.
    pub deadline: Option<Duration>,
    /// The limit within which 99 of 100 of the disk's requests should end: the copier slows down for that; an
    /// adaptive mirror that writes to both sides enlarges the window, and as a last resort goes back to the
    /// background.
    pub max_latency: Option<Duration>,
}

/// The largest window of a mirror, in bytes: they are in memory.
pub const MOST_WINDOW: u64 = 1 << 30;

/// The options of a mirror.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// The target.
    pub target: MirrorTarget,
    /// The part that is copied.
    pub sync: Sync,
    /// The way of the guest's writes.
    pub mode: CopyMode,
    /// The settings of its copies.
    pub copies: Copies,
    /// Name of the file that says durably which image owns the disk; see [`Disk::start_mirror`].
    pub witness: Option<String>,
    /// The settings beside that.
    pub tuning: MirrorTuning,
}

impl Disk {
    /// Starts a mirror. Once its state is `ready`, [`Job::complete`] moves the disk to the target, and
    /// [`Job::cancel`] leaves there a copy of the disk as it is then.
    ///
    /// With a witness, a file of that name is created, which must not exist. It names the source as the
    /// owner of the disk, and from the move on the target: no change and no flush of the guest is answered
    /// after the move before that is durable.
    ///
    /// # Errors
    /// `InUse` if a job or command has the disk in a way that excludes it; `Unsupported` for a read-only
    /// disk, and for a raw image that is to have a backing file; errors of creating and opening the target;
    /// `Invalid` if its size is not the disk's, and if the disk would have too many granules.
    pub async fn start_mirror(self: &Rc<Self>, mirror: MirrorOptions, options: JobOptions) -> Result<()> {
        // A target over images of the chain needs these, too.
        let needs = match mirror.sync {
            Sync::Full => Needs::Follower(self.leaf().node_name()),
            Sync::Top | Sync::None => Needs::Disk,
        };
        let claim = self.claim(Claimant::Job(JobKind::Mirror), needs, self.name())?;
        let this = self.clone();
        // Runs to its end even if the caller goes away: nothing is left half open.
        executor::to_the_end(async move {
            if this.read_only() {
                return Err(Error::new(ErrorKind::Unsupported, READ_ONLY));
            }
            if let Some(granularity) = mirror.copies.granularity {
                check_granularity(this.size(), granularity)?;
            }
            this.end_old().await?;
            let leaf = this.leaf();
            let mut mirror = mirror;
            if mirror.sync == Sync::Top && leaf.backing().is_none() {
                // The leaf holds everything, also where nothing is allocated.
                mirror.sync = Sync::Full;
            }
            let (target, opening) = this.open_mirror(&mirror, &leaf).await?;
            let witness = match &mirror.witness {
                Some(name) => Some(Witness::create(&this, name, &options.id, &target).await?),
                None => None,
            };
            let replica = Replica::new(leaf, target, Some(opening), mirror.copies);
            replica.tune(mirror.mode, &mirror.tuning);
            // A request that is in flight now is not seen by the filter.
            let Some(closed) = this.drain(DEADLINE).await else {
                if let Some(witness) = witness {
                    witness.remove().await;
                }
                let text = format!("{}: requests in flight did not end within {DEADLINE:?}", this.name());
                return Err(Error::new(ErrorKind::TimedOut, text));
            };
            let installed = RefCell::new(Some(this.install(replica.clone())));
            if mirror.sync == Sync::Full {
                replica.mark(&(0..this.size()));
            }
            drop(closed);
            let (disk, into, tuning) = (this.clone(), Destination::Image(mirror.sync), mirror.tuning);
            let strategy = Mirror { disk, into, replica, installed, witness, tuning };
            this.start_job(options, JobKind::Mirror, claim, strategy);
            Ok(())
        })
        .await
    }

    /// Creates the target of a copy of the disk, over `behind`, an image of its chain.
    ///
    /// # Errors
    /// `Unsupported` for a raw image that is to have a backing file; errors of creating it.
    pub(super) async fn create_target(
        &self,
        target: &MirrorTarget,
        behind: Option<&Rc<Node>>,
        leaf: &Node,
    ) -> Result<()> {
        refuse_over(target.format, behind)?;
        let backing = match behind {
            Some(node) => Some((self.opener.absolute(node.name())?, node.kind())),
            None => None,
        };
        let create = Create { size: Some(leaf.size()), backing, ..Create::default() };
        let images = behind.map(|node| node.depth());
        image::create_over(&*self.opener, &target.name, target.format, &create, images).await
    }

    /// Opens the target, and creates it first if that is asked for. Returns how to open it again, too.
    async fn open_mirror(&self, mirror: &MirrorOptions, leaf: &Rc<Node>) -> Result<(Rc<Node>, Opening)> {
        let MirrorTarget { name, format, existing, node_name } = &mirror.target;
        let behind = match mirror.sync {
            Sync::Full => None,
            Sync::Top => leaf.backing(),
            Sync::None => Some(leaf.clone()),
        };
        // Also for one that exists, since it would have to record its backing file.
        refuse_over(*format, behind.as_ref())?;
        if !existing {
            self.create_target(&mirror.target, behind.as_ref(), leaf).await?;
        }
        let (opener, size) = (self.opener.clone(), leaf.size());
        let (name, format) = (name.clone(), *format);
        let opening: Opening = Box::new(move || {
            let (opener, name, behind) = (opener.clone(), name.clone(), behind.clone());
            Box::pin(async move { open_target(&*opener, &name, format, behind.as_ref(), size).await })
        });
        let target = opening().await?;
        if let Some(name) = node_name {
            target.set_node_name(name);
        }
        target.storage().sync_name().await?;
        Ok((target, opening))
    }
}

/// Fails with QEMU's text if an image of a format without backing files is to have a backing file.
fn refuse_over(format: Kind, behind: Option<&Rc<Node>>) -> Result<()> {
    if behind.is_some() && !format.has_backing() {
        let text = format!("Backing file not supported for file format '{format}'");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

/// Opens a target of this size, over the image that is behind it.
async fn open_target(
    opener: &dyn Opener,
    name: &str,
    format: Kind,
    behind: Option<&Rc<Node>>,
    size: u64,
) -> Result<Rc<Node>> {
    let target = match behind {
        None => chain::open(opener, name, format, true).await?,
        Some(node) => chain::open_over(opener, name, format, node).await?.ok_or_else(|| {
            let text = format!("{name}: its backing file is not {}", node.name());
            Error::new(ErrorKind::Invalid, text)
        })?,
    };
    if target.size() != size {
        let text = format!("{name}: has {} bytes, but the disk has {size}", target.size());
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    Ok(target)
}

/// The image that a disk is copied into.
enum Destination {
    /// A target, with this part of the disk.
    Image(Sync),
    /// An image of the disk's own chain, so many images behind the leaf: an active commit.
    Base(usize),
}

/// The strategy.
struct Mirror {
    disk: Rc<Disk>,
    into: Destination,
    replica: Rc<Replica>,
    installed: RefCell<Option<Installed>>,
    witness: Option<Rc<Witness>>,
    tuning: MirrorTuning,
}

impl Mirror {
    /// Copies until nothing is left.
    async fn catch_up(&self, job: &Rc<Job>) -> Result<()> {
        let plan = Plan::new(self.replica.target().size(), Vec::new(), None);
        let copier = Copier::new(&self.disk, job, self.replica.clone(), plan, self.tuning.max_latency);
        copier.run().await
    }

    /// Makes durable what was copied.
    async fn flush(&self, job: &Job) -> Result<()> {
        until_done(job, async || self.replica.flush_all().await).await
    }

    /// Decides about an error of the target that a guest's request met: what it concerns is copied again.
    async fn settle_error(&self, job: &Job) -> Result<()> {
        let Some(error) = self.replica.take_error() else { return Ok(()) };
        match job.decide(Operation::Write, &error) {
            ErrorAction::Stop => job.rest().await,
            ErrorAction::Ignore | ErrorAction::Report => Err(error),
        }
    }

    fn report(&self, job: &Job) {
        job.set_progress(self.replica.written(), self.replica.remaining());
    }
}

/// Does `what` until it succeeds, as long as the job's policy is to pause after an error and try again.
async fn until_done(job: &Job, what: impl AsyncFn() -> Result<()>) -> Result<()> {
    while let Err(error) = what().await {
        match job.decide(Operation::Write, &error) {
            ErrorAction::Stop => job.rest().await?,
            ErrorAction::Ignore | ErrorAction::Report => return Err(error),
        }
    }
    Ok(())
}

/// Has the granules copied that one of the first `images` of the chain of `top` defines.
async fn mark_above(replica: &Replica, top: &Rc<Node>, images: usize, job: &Job) -> Result<()> {
    let turns = Turns::default();
    let mut at = 0;
    while at < top.size() {
        turns.step().await;
        job.rest().await?;
        let run = top.map(at, top.size() - at).await.map_err(Error::of_source)?;
        if run.depth < images && run.allocated {
            replica.mark(&(at..at + run.len));
        }
        at += run.len;
    }
    Ok(())
}

#[async_trait(?Send)]
impl Strategy for Mirror {
    fn follower(&self) -> Option<Rc<dyn Follower>> {
        match self.into {
            Destination::Image(_) => Some(self.replica.clone()),
            Destination::Base(_) => None,
        }
    }

    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        self.report(job);
        match self.into {
            Destination::Image(Sync::Full | Sync::None) => {}
            Destination::Image(Sync::Top) => mark_above(&self.replica, &self.disk.leaf(), 1, job).await?,
            Destination::Base(depth) => {
                let (leaf, base) = (self.disk.leaf(), self.replica.target());
                commit::make_room(&base, leaf.size(), job).await?;
                mark_above(&self.replica, &leaf, depth, job).await?;
            }
        }
        self.replica.adapt(job, &self.tuning);
        loop {
            let losses = self.replica.losses();
            self.catch_up(job).await?;
            self.replica.flush_both_from_now();
            self.flush(job).await?;
            // What a loss took is copied again first, but in the background there is always something new.
            if self.replica.losses() == losses && (!self.replica.is_active() || self.replica.remaining() == 0)
            {
                break;
            }
        }
        self.report(job);
        job.ready();
        loop {
            job.rest().await?;
            self.settle_error(job).await?;
            let ends = job.is_completing() || job.is_leaving();
            if ends {
                // From here on only what is in flight comes to be copied.
                self.replica.follow_to_the_end();
            }
            if self.replica.remaining() > 0 {
                self.catch_up(job).await?;
                self.report(job);
                continue;
            }
            if ends {
                return Ok(());
            }
            job.changed_or(self.replica.changed()).await;
        }
    }

    async fn finish(&self, job: &Rc<Job>) -> Result<()> {
        // Only those below flush the target from here on, none of them while the gate is closed.
        self.replica.end_flushes();
        // As long as it waits to be made final, it follows the disk.
        for _ in 0..TRIES {
            // What an earlier error concerns is copied again, and a flush that failed fails again.
            self.replica.take_error();
            self.catch_up(job).await?;
            // With the gate open. From here on a guest's flush covers all that it has written.
            self.flush(job).await?;
            let Some(closed) = self.disk.drain(DEADLINE).await else { continue };
            self.settle_error(job).await?;
            // What is left was in flight before, when writes began to go to both sides.
            if self.replica.is_complete() {
                let (old, before) = (self.disk.leaf(), self.disk.size());
                let mut waits = None;
                if job.is_completing() {
                    waits =
                        self.witness.as_ref().map(|witness| (witness, self.disk.install(witness.clone())));
                    let target = self.replica.target();
                    match self.into {
                        // The old leaf is behind the new one, and may hold what was not flushed yet.
                        Destination::Image(Sync::None) => drop(self.disk.swap(target)),
                        Destination::Image(_) | Destination::Base(_) => self.disk.swap_to_copy(target),
                    }
                }
                self.installed.take();
                drop(closed);
                if let Some((witness, installed)) = waits {
                    witness.moved(&self.disk, job, old, installed).await?;
                }
                if self.disk.size() != before {
                    // As in QEMU, a base that is larger makes the disk larger.
                    self.disk.announce_capacity();
                }
                // The target of a move is flushed by the guest.
                return if job.is_completing() { Ok(()) } else { self.replica.target().flush().await };
            }
        }
        let text = format!(
            "{}: requests in flight did not end within {DEADLINE:?}, or came to be copied again",
            self.disk.name()
        );
        Err(Error::new(ErrorKind::TimedOut, text))
    }

    async fn clean(&self) {
        self.replica.end_flushes();
        self.installed.take();
        self.replica.give_up();
        let target = self.replica.target();
        let is_leaf = Rc::ptr_eq(&target, &self.disk.leaf());
        // Requests that began before may still write to both sides, and nothing may when the target is
        // closed. A target that hangs keeps nobody here for ever.
        let idle = executor::timeout(DEADLINE, self.replica.idle()).await.is_some();
        match self.into {
            Destination::Base(_) if !is_leaf && idle => self.disk.close_inner(&target).await,
            Destination::Base(_) if !is_leaf => {
                // The base stays in the chain, and may be committed into again when it hangs no more.
                let (disk, replica) = (self.disk.clone(), self.replica.clone());
                executor::spawn(async move {
                    replica.idle().await;
                    disk.close_inner(&target).await;
                });
            }
            Destination::Image(_) if !is_leaf && idle => {
                if let Err(e) = target.close().await {
                    executor::limited!(warn, "{}: cannot finish {}: {e}", self.disk.name(), target.name());
                }
            }
            _ => {}
        }
        if let Err(e) = self.disk.end_old().await {
            executor::limited!(warn, "{}: cannot finish a former leaf: {e}", self.disk.name());
        }
    }
}
