//! Streams: populate an image from its backing chain, then drop the backing file, or all of the chain
//! above a base.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;

use super::copier::Copier;
pub use super::copier::order::Order;
use super::copier::order::{Hot, Plan};
use crate::disk::filter::Installed;
use crate::disk::job::{Job, JobKind, JobOptions, Strategy};
use crate::disk::{Claim, Claimant, Disk, DiskEvent, READ_ONLY};
use crate::format::Backing;
use crate::image::chain;
use crate::image::node::Node;
use crate::{Error, ErrorKind, Result};

mod options;
mod scope;
mod single;
mod trace;
mod watch;

use options::Part;
pub use options::{Base, StreamOptions, Tuning};
use scope::Scope;
use watch::Watch;

/// The progress of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The disk's name.
    pub device: String,
    /// Its size in bytes.
    pub len: u64,
    /// Offset in bytes below which everything is in the leaf. Never goes back.
    pub offset: u64,
}

impl Disk {
    fn check_streamable(&self) -> Result<()> {
        if self.read_only() {
            return Err(Error::new(ErrorKind::Unsupported, READ_ONLY));
        }
        Ok(())
    }

    fn progress(&self, offset: u64) -> Progress {
        Progress { device: self.name().to_owned(), len: self.size(), offset }
    }

    /// Starts a job that streams what `stream` says. At its end the chain above the base is dropped. The
    /// images are claimed before this returns; the future that it returns starts the job, also if it is
    /// dropped.
    ///
    /// # Errors
    /// `InUse` if a job or a command has one of the images; `NotFound` or `Invalid` if they are not in
    /// the chain; `Unsupported` for a read-only disk; errors of opening an image other than the leaf for
    /// writing, and of reading a trace.
    pub fn start_stream(
        self: &Rc<Self>,
        stream: StreamOptions,
        options: JobOptions,
    ) -> impl Future<Output = Result<()>> + use<> {
        let claimed = self.claim_stream(&stream);
        let this = self.clone();
        // Runs to its end even if the caller goes away: an image whose opening for writing stops half
        // way would have two owners.
        executor::to_the_end(async move {
            let (part, claim) = claimed?;
            this.start_claimed(part, claim, stream, options).await
        })
    }

    fn claim_stream(self: &Rc<Self>, stream: &StreamOptions) -> Result<(Part, Claim)> {
        let part = stream.find(self)?;
        if Rc::ptr_eq(&part.image, &self.leaf()) {
            self.check_streamable()?;
        }
        let name = stream.image.as_deref().unwrap_or(self.name());
        let claim = self.claim(Claimant::Job(JobKind::Stream), part.needs.clone(), name)?;
        Ok((part, claim))
    }

    async fn start_claimed(
        self: &Rc<Self>,
        part: Part,
        claim: Claim,
        stream: StreamOptions,
        options: JobOptions,
    ) -> Result<()> {
        let Part { image, base, between, .. } = part;
        let record = record(&image, base.as_ref(), stream.backing_file)?;
        if let Some(record) = &record {
            image.format().check_backing(record).await?;
        }
        let tuning = stream.tuning;
        let trace = match &tuning.order {
            Order::Trace(name) => trace::load(&*self.opener, name).await?,
            _ => Vec::new(),
        };
        let is_inner = !Rc::ptr_eq(&image, &self.leaf());
        let image = if is_inner { self.open_inner(&image).await? } else { image };
        let is_hot = matches!(tuning.order, Order::HotFirst);
        let watch = (is_hot || tuning.record.is_some()).then(|| Rc::new(Watch::new(tuning.record.is_some())));
        let installed = watch.clone().map(|watch| self.install(watch));
        let strategy = Stream {
            disk: self.clone(),
            scope: Scope { image, between: base.is_some().then_some(between) },
            tuning,
            trace: RefCell::new(trace),
            watch,
            installed: RefCell::new(installed),
            record,
            is_inner,
        };
        self.start_job(options, JobKind::Stream, claim, strategy);
        Ok(())
    }
}

/// Returns the record of the base in `image`, under `name` if that is given.
fn record(image: &Node, base: Option<&Rc<Node>>, name: Option<String>) -> Result<Option<Backing>> {
    let name = match (base, name) {
        (None, Some(_)) => {
            let text = "backing file specified, but streaming the entire chain";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        (None, None) => return Ok(None),
        (Some(_), Some(name)) => {
            // With an invalid name the image could not be opened again.
            chain::resolve(image.name(), &name)?;
            name
        }
        (Some(base), None) => chain::name_for(image.name(), base.name())?,
    };
    Ok(base.map(|base| Backing { name, format: Some(base.kind().name().to_owned()) }))
}

/// Drops the backing file of `image`, or replaces it by the base, durably. Nothing above the base may be
/// absent any more.
async fn drop_chain(disk: &Disk, image: &Rc<Node>, base: Option<(&Scope, Backing)>) -> Result<()> {
    // Data and tables first, then the header without the backing file.
    disk.flush_old().await?;
    image.flush().await?;
    match base {
        Some((scope, record)) => {
            image.format().set_backing(record).await?;
            // Found only now: another job may have opened the base again.
            image.set_backing(scope.base());
        }
        None => {
            image.format().drop_backing().await?;
            image.set_backing(None);
        }
    }
    Ok(())
}

/// The strategy: copies, then drops the images that were copied.
struct Stream {
    disk: Rc<Disk>,
    scope: Scope,
    tuning: Tuning,
    trace: RefCell<Vec<Range<u64>>>,
    /// Observes the guest's reads, for the order or for a record.
    watch: Option<Rc<Watch>>,
    installed: RefCell<Option<Installed>>,
    /// The record of the base in the image.
    record: Option<Backing>,
    /// True if the image is not the leaf, and was opened for writing for this stream.
    is_inner: bool,
}

#[async_trait(?Send)]
impl Strategy for Stream {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let mut result = Ok(());
        // As in QEMU, a job with nothing to do has a length of 0.
        if !self.scope.is_empty() {
            let size = self.scope.image.size();
            job.set_len(size);
            let hot = self.watch.clone().filter(|_| matches!(self.tuning.order, Order::HotFirst));
            let hot = hot.map(|watch| Box::new(move || watch.take_hot()) as Hot);
            let plan = Plan::new(size, self.trace.take(), hot);
            let work = self.scope.clone();
            result = Copier::new(&self.disk, job, work, plan, self.tuning.max_latency).run().await;
        }
        self.installed.take();
        let record = self.watch.as_ref().and_then(|watch| watch.record());
        if let Some((name, record)) = self.tuning.record.as_ref().zip(record) {
            let saved = trace::save(&*self.disk.opener, name, record).await;
            result = result.and(saved);
        }
        result
    }

    async fn finish(&self, _: &Rc<Job>) -> Result<()> {
        let image = &self.scope.image;
        if image.backing().is_none() {
            return Ok(());
        }
        let base = self.record.clone().map(|record| (&self.scope, record));
        drop_chain(&self.disk, image, base).await
    }

    async fn clean(&self) {
        self.disk.cursor.set(0);
        self.installed.take();
        if self.is_inner {
            self.disk.close_inner(&self.scope.image).await;
        } else if let Err(e) = self.disk.end_old().await {
            executor::limited!(warn, "{}: cannot finish a former leaf: {e}", self.disk.name());
        }
    }

    fn ended(&self, job: &Job) {
        let (size, error) = (self.disk.size(), job.error());
        self.disk.emit(DiskEvent::StreamCompleted {
            device: self.disk.name().to_owned(),
            len: size,
            offset: if error.is_none() { size } else { job.offset() },
            error: error.map(|error| error.to_string()),
        });
    }
}
