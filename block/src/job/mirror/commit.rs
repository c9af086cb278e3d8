//! The commit: moves what images of a chain hold into a base behind them, which takes their place.
//!
//! | | active: from the leaf on | inner: from an image behind the leaf |
//! |---|---|---|
//! | copied | what the images above the base hold | the same |
//! | a guest's writes meanwhile | go to the leaf, and are copied too | do not concern it |
//! | the end | the disk moves to the base, when asked to | the image above, the overlay, records the base |
//!
//! An active commit is a mirror whose target is the base. What is copied is what the chain reads there, so
//! that the chain reads the same at any time, and after a power cut: what a copy has changed in the base is
//! hidden by an image above. So a commit can be cancelled, too, and started again.
//!
//! Durability of an inner commit, step by step: the base is flushed; the overlay records the base; then the
//! images between are not needed any more, and their end is reported.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;

use super::replica::Replica;
use super::witness::Witness;
use super::{Copies, Destination, Mirror, MirrorTuning, mark_above, until_done};
use crate::disk::job::{Job, JobKind, JobOptions, Strategy};
use crate::disk::switch::DEADLINE;
use crate::disk::{Claim, Claimant, Disk, READ_ONLY};
use crate::format::Backing;
use crate::image::chain;
use crate::image::copy::{Populated, Stopped};
use crate::image::node::Node;
use crate::job::copier::order::Plan;
use crate::job::copier::{Copier, Work};
use crate::{Error, ErrorKind, Result};

use super::commit_options::Part;
pub use super::commit_options::{CommitOptions, Named};

impl Disk {
    /// Starts a commit. One of the leaf becomes ready, and then [`Job::complete`] moves the disk to the base;
    /// one of an image behind the leaf ends by itself. The images are claimed before this returns; the future
    /// that it returns starts the job, also if it is dropped.
    ///
    /// # Errors
    /// `InUse` if a job or a command has one of the images; `NotFound` or `Invalid` if they are not in the
    /// chain, or not in this order; `Unsupported` for a read-only disk; errors of opening the base and the
    /// overlay for writing.
    pub fn start_commit(
        self: &Rc<Self>,
        commit: CommitOptions,
        options: JobOptions,
    ) -> impl Future<Output = Result<()>> + use<> {
        let claimed = self.claim_commit(&commit);
        let this = self.clone();
        // Runs to its end even if the caller goes away: an image whose opening for writing stops half
        // way would have two owners.
        executor::to_the_end(async move {
            let (part, claim) = claimed?;
            match part.overlay.clone() {
                None => this.commit_leaf(part, claim, commit.witness, options).await,
                Some(overlay) => this.commit_inner(part, overlay, claim, commit.backing_file, options).await,
            }
        })
    }

    fn claim_commit(self: &Rc<Self>, commit: &CommitOptions) -> Result<(Part, Claim)> {
        let part = self.find_commit(commit)?;
        if self.read_only() {
            return Err(Error::new(ErrorKind::Unsupported, READ_ONLY));
        }
        let claim = self.claim(Claimant::Job(JobKind::Commit), part.needs.clone(), self.name())?;
        Ok((part, claim))
    }

    async fn commit_leaf(
        self: &Rc<Self>,
        part: Part,
        claim: Claim,
        witness: Option<String>,
        options: JobOptions,
    ) -> Result<()> {
        let base = self.open_inner(&part.base).await?;
        let leaf = self.leaf();
        let created = match &witness {
            Some(name) => Witness::create(self, name, &options.id, &base).await.map(Some),
            None => Ok(None),
        };
        let witness = match created {
            Ok(witness) => witness,
            Err(e) => {
                self.close_inner(&base).await;
                return Err(e);
            }
        };
        let replica = Replica::new(leaf, base.clone(), None, Copies::default());
        // A request that is in flight now is not seen by the filter.
        let Some(closed) = self.drain(DEADLINE).await else {
            self.close_inner(&base).await;
            if let Some(witness) = witness {
                witness.remove().await;
            }
            let text = format!("{}: requests in flight did not end within {DEADLINE:?}", self.name());
            return Err(Error::new(ErrorKind::TimedOut, text));
        };
        let installed = RefCell::new(Some(self.install(replica.clone())));
        drop(closed);
        let (disk, into, tuning) = (self.clone(), Destination::Base(part.above), MirrorTuning::default());
        let strategy = Mirror { disk, into, replica, installed, witness, tuning };
        self.start_job(options, JobKind::Commit, claim, strategy);
        Ok(())
    }

    async fn commit_inner(
        self: &Rc<Self>,
        part: Part,
        overlay: Rc<Node>,
        claim: Claim,
        backing_file: Option<String>,
        options: JobOptions,
    ) -> Result<()> {
        let name = match backing_file {
            Some(name) => {
                // With an invalid name the overlay could not be opened again.
                chain::resolve(overlay.name(), &name)?;
                name
            }
            None => chain::name_for(overlay.name(), part.base.name())?,
        };
        let record = Backing { name, format: Some(part.base.kind().name().to_owned()) };
        overlay.format().check_backing(&record).await?;
        let is_leaf = Rc::ptr_eq(&overlay, &self.leaf());
        let overlay = if is_leaf { overlay } else { self.open_inner(&overlay).await? };
        let base = match self.open_inner(&part.base).await {
            Ok(base) => base,
            Err(e) => {
                if !is_leaf {
                    self.close_inner(&overlay).await;
                }
                return Err(e);
            }
        };
        let replica = Replica::new(part.top, base.clone(), None, Copies::default());
        // The copier flushes the base.
        replica.end_flushes();
        let (disk, above) = (self.clone(), part.above);
        let strategy = Inner { disk, overlay, is_leaf, base, above, record, replica };
        self.start_job(options, JobKind::Commit, claim, strategy);
        Ok(())
    }
}

/// Grows a base that is smaller than what is to be committed into it, to `size` bytes.
pub(super) async fn make_room(base: &Rc<Node>, size: u64, job: &Job) -> Result<()> {
    if base.size() >= size {
        return Ok(());
    }
    until_done(job, async || base.grow(size).await).await
}

/// The strategy of a commit of an image behind the leaf.
struct Inner {
    disk: Rc<Disk>,
    /// The image above the top.
    overlay: Rc<Node>,
    /// True if the overlay is the leaf, and was not opened for this commit.
    is_leaf: bool,
    base: Rc<Node>,
    /// Number of images above the base that are committed.
    above: usize,
    /// The record of the base in the overlay.
    record: Backing,
    /// The base as a copy of the top.
    replica: Rc<Replica>,
}

/// The images that an inner commit copies. Its progress is that along the top, as in QEMU.
struct Layers(Rc<Replica>);

#[async_trait(?Send)]
impl Work for Layers {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn unit(&self) -> u64 {
        self.0.unit()
    }

    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        Work::next(&self.0, range, most).await
    }

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, bool)> {
        self.0.look(offset, len).await
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        self.0.copy(range).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush_target().await
    }

    fn largest_hole(&self) -> u64 {
        self.0.largest_hole()
    }
}

impl Inner {
    /// Makes what lies behind the end of the top read as zeros in the base, as far as the overlay reads it.
    async fn clear_behind(&self, top: u64, job: &Job) -> Result<()> {
        const PIECE: u64 = 64 << 20;
        let end = self.base.size().min(self.overlay.size());
        let mut at = top;
        while at < end {
            job.rest().await?;
            let len = (end - at).min(PIECE);
            until_done(job, async || self.base.write_zeroes(at, len, true).await).await?;
            at += len;
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Strategy for Inner {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let top = self.replica.source();
        let size = top.size();
        job.set_len(size);
        make_room(&self.base, size, job).await?;
        self.clear_behind(size, job).await?;
        mark_above(&self.replica, top, self.above, job).await?;
        let plan = Plan::new(size, Vec::new(), None);
        Copier::new(&self.disk, job, Layers(self.replica.clone()), plan, None).run().await
    }

    async fn finish(&self, _: &Rc<Job>) -> Result<()> {
        self.base.flush().await?;
        self.overlay.format().set_backing(self.record.clone()).await?;
        self.overlay.set_backing(Some(self.base.clone()));
        Ok(())
    }

    async fn clean(&self) {
        self.disk.close_inner(&self.base).await;
        if !self.is_leaf {
            self.disk.close_inner(&self.overlay).await;
        }
    }
}
