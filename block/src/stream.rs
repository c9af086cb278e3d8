//! Streams: populate an image from its backing chain, then drop the backing file, or all of the chain
//! above a base.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use crate::chain;
use crate::disk::{Claim, Disk, READ_ONLY};
use crate::format::Backing;
use crate::job::{Action, Job, JobKind, Manner, Operation, Strategy, Wish};
use crate::node::Node;
use crate::populate::populate;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result};

mod budget;
mod copy;
mod inner;
mod order;
mod scope;
mod trace;
pub(crate) mod watch;
mod window;

use budget::Budget;
use copy::Copy;
pub use order::Order;
use order::Plan;
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

/// Settings of a stream.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// The order of its copies.
    pub order: Order,
    /// The latency that 99 of 100 reads and writes of the disk should not exceed: the stream slows down
    /// for that.
    pub max_latency: Option<Duration>,
    /// Name of the file to record the guest's reads in while the stream runs, for [`Order::Trace`].
    pub record: Option<String>,
}

/// [`Tuning`] with its trace loaded.
#[derive(Default)]
struct Tuned {
    wish: Tuning,
    trace: Vec<Range<u64>>,
}

/// The end of a stream, going down the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// Above the image with this file name, which becomes the backing file.
    File(String),
    /// Above the image with this node name, which becomes the backing file.
    Node(String),
    /// Below the image with this node name, the last one that is streamed; its backing file becomes the
    /// backing file.
    Bottom(String),
}

/// The part of a chain that is streamed, and how.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// The node name of the image that is populated; the leaf if `None`.
    pub image: Option<String>,
    /// The end of the stream; the whole chain if `None`.
    pub base: Option<Base>,
    /// The name by which the base is recorded as the backing file; its own name if `None`.
    pub backing_file: Option<String>,
    /// The settings of the stream.
    pub tuning: Tuning,
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

    /// Populates the first absent cluster at or after the cursor. The offset of the result is that
    /// cluster's end, or the disk's size if nothing is left. The backing file is dropped when nothing is
    /// absent any more.
    ///
    /// # Errors
    /// `InUse` if a stream or a switch is active, `Unsupported` for a read-only disk, and errors of copying.
    pub async fn stream_one(self: &Rc<Self>) -> Result<Progress> {
        let this = self.clone();
        // Runs to its end even if the caller goes away: the claim is held while anything is in flight.
        executor::to_the_end(async move { this.stream_one_now().await }).await
    }

    async fn stream_one_now(self: &Rc<Self>) -> Result<Progress> {
        self.check_streamable()?;
        let _claim = self.claim("a stream")?;
        let leaf = self.leaf();
        let size = leaf.size();
        let end = self.stream_cluster(&leaf, self.cursor.get()).await?;
        self.cursor.set(end);
        if end == size && leaf.backing().is_some() && leaf.next_absent(0..size, 1).await?.is_none() {
            self.complete(&leaf, None).await?;
        }
        Ok(self.progress(end))
    }

    /// Populates the first absent cluster at or after `offset`. Returns its end, or the size if nothing
    /// is left.
    async fn stream_cluster(&self, leaf: &Rc<Node>, offset: u64) -> Result<u64> {
        let size = leaf.size();
        if leaf.backing().is_none() {
            return Ok(size);
        }
        let Some(absent) = leaf.next_absent(offset..size, 1).await? else { return Ok(size) };
        let unit = leaf.cluster_size();
        let start = absent.start - absent.start % unit;
        let end = (start + unit).min(size);
        let populated = populate(leaf, start..end).await.map_err(|stopped| stopped.error)?;
        self.stats.populated(populated);
        Ok(end)
    }

    /// Populates the first absent cluster at or after `offset`, and leaves the cursor where it is.
    /// Returns the same as [`Disk::stream_one`], and the number of bytes that are still absent.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub async fn stream_at(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        let this = self.clone();
        executor::to_the_end(async move { this.stream_at_now(offset).await }).await
    }

    async fn stream_at_now(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        self.check_streamable()?;
        // Held to the end, so that the image that is counted and completed is the one that was populated.
        let _claim = self.claim("a stream")?;
        let leaf = self.leaf();
        let end = self.stream_cluster(&leaf, offset.min(leaf.size())).await?;
        let (mut at, mut absent) = (0, 0);
        if leaf.backing().is_some() {
            let turns = Turns::default();
            while let Some(range) = leaf.next_absent(at..leaf.size(), u64::MAX).await? {
                turns.step().await;
                absent += range.end - range.start;
                at = range.end;
            }
            if absent == 0 {
                self.complete(&leaf, None).await?;
            }
        }
        Ok((self.progress(end), absent))
    }

    /// Starts to stream everything in the background. At the end the backing file is dropped and
    /// [`crate::DiskEvent::StreamCompleted`] is sent. The job's name is the disk's.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub fn start_stream(self: &Rc<Self>) -> Result<()> {
        self.start_whole_stream(self.block_stream())
    }

    /// Like [`Disk::start_stream`], with these settings.
    ///
    /// # Errors
    /// As [`Disk::stream_one`], and errors of reading the trace.
    pub async fn start_tuned_stream(self: &Rc<Self>, tuning: Tuning) -> Result<()> {
        self.check_streamable()?;
        let claim = self.claim("a stream")?;
        let tuned = self.tune(tuning).await?;
        self.start(claim, Stream::new(self, Scope::whole(self.leaf()), tuned), self.block_stream());
        Ok(())
    }

    fn block_stream(&self) -> Wish {
        Wish { manner: Manner::BlockStream, ..Wish::new(self.name()) }
    }

    /// Starts a job that streams everything into the leaf. It has started when this returns.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub fn start_whole_stream(self: &Rc<Self>, wish: Wish) -> Result<()> {
        self.check_streamable()?;
        let claim = self.claim("a stream")?;
        self.start(claim, Stream::new(self, Scope::whole(self.leaf()), Tuned::default()), wish);
        Ok(())
    }

    fn start(self: &Rc<Self>, claim: Claim, stream: Stream, wish: Wish) {
        let (hot, record) = {
            let tuning = &stream.tuned.borrow().wish;
            (matches!(tuning.order, Order::HotFirst), tuning.record.is_some())
        };
        *self.watch.borrow_mut() = (hot || record).then(|| Rc::new(Watch::new(record)));
        self.start_job(wish, JobKind::Stream, claim, stream);
    }

    async fn tune(&self, wish: Tuning) -> Result<Tuned> {
        let trace = match &wish.order {
            Order::Trace(name) => trace::load(&*self.opener, name).await?,
            _ => Vec::new(),
        };
        Ok(Tuned { wish, trace })
    }

    /// Starts a job that streams `extent`. At its end the chain above the base is dropped.
    ///
    /// # Errors
    /// `InUse` if a job or another command has claimed the disk; `NotFound` or `Invalid` if the extent
    /// is not in the chain; errors of opening an image other than the leaf for writing.
    pub async fn start_stream_job(self: &Rc<Self>, extent: Extent, wish: Wish) -> Result<()> {
        let this = self.clone();
        // Runs to its end even if the caller goes away: an image whose opening for writing stops half
        // way would have two owners.
        executor::to_the_end(async move { this.start_stream_job_now(extent, wish).await }).await
    }

    async fn start_stream_job_now(self: &Rc<Self>, extent: Extent, wish: Wish) -> Result<()> {
        self.check_stream(&extent)?;
        let claim = self.claim("a stream")?;
        let (image, base) = self.find_extent(&extent)?;
        let record = match (&base, extent.backing_file) {
            (None, Some(_)) => {
                let text = "backing file specified, but streaming the entire chain";
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            (None, None) => None,
            (Some(base), name) => {
                let name = match name {
                    Some(name) => {
                        // With an invalid name the image could not be opened again.
                        chain::resolve(image.name(), &name)?;
                        name
                    }
                    None => chain::name_for(image.name(), base.name())?,
                };
                Some(Backing { name, format: Some(base.kind().name().to_owned()) })
            }
        };
        if let Some(record) = &record {
            image.format().check_backing(record).await?;
        }
        let tuned = self.tune(extent.tuning).await?;
        let is_inner = !Rc::ptr_eq(&image, &self.leaf());
        let image = if is_inner {
            self.open_inner(&image).await?
        } else {
            self.check_streamable()?;
            image
        };
        let stream = Stream { record, is_inner, ..Stream::new(self, Scope::above(image, base), tuned) };
        self.start(claim, stream, wish);
        Ok(())
    }

    /// Checks that an extent is valid, and that no other job has claimed the disk.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` if it is not valid; `InUse` if a job has claimed the disk. All with
    /// QEMU's texts, and in its order.
    pub fn check_stream(&self, extent: &Extent) -> Result<()> {
        self.find_extent(extent)?;
        self.check_no_job(extent.image.as_deref().unwrap_or(self.name()))
    }

    /// Returns the image that is populated, and the one that becomes its backing file.
    fn find_extent(&self, extent: &Extent) -> Result<(Rc<Node>, Option<Rc<Node>>)> {
        let image = match &extent.image {
            Some(name) => self.find_node(name).ok_or_else(|| no_node(name))?,
            None => self.leaf(),
        };
        let name = extent.image.as_deref().unwrap_or(self.name());
        let base = match &extent.base {
            Some(base) => self.find_base(&image, name, base)?,
            None => None,
        };
        Ok((image, base))
    }

    /// Returns the image of the chain with this node name.
    pub fn find_node(&self, name: &str) -> Option<Rc<Node>> {
        let mut next = Some(self.leaf());
        while let Some(node) = next {
            if node.node_name() == name {
                return Some(node);
            }
            next = node.backing();
        }
        None
    }

    /// Returns the base of a stream into `image`. `top` is the name that the caller used for `image`.
    fn find_base(&self, image: &Rc<Node>, top: &str, base: &Base) -> Result<Option<Rc<Node>>> {
        let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
        let found = match base {
            Base::File(name) => {
                let mut above = image.clone();
                loop {
                    let Some(node) = above.backing() else {
                        return Err(invalid(format!("Can't find '{name}' in the backing chain")));
                    };
                    let recorded = above.format().backing().is_some_and(|backing| backing.name == *name);
                    if recorded || node.name() == name {
                        break Some(node);
                    }
                    above = node;
                }
            }
            Base::Node(name) => {
                let node = self.find_node(name).ok_or_else(|| no_node(name))?;
                if Rc::ptr_eq(&node, image) || !is_below(&node, image) {
                    return Err(invalid(format!("Node '{name}' is not a backing image of '{top}'")));
                }
                Some(node)
            }
            Base::Bottom(name) => {
                let node = self.find_node(name).ok_or_else(|| no_node(name))?;
                if !is_below(&node, image) {
                    return Err(invalid(format!("Node '{name}' is not in a chain starting from '{top}'")));
                }
                node.backing()
            }
        };
        Ok(found)
    }

    /// Stops the background stream, and waits until the copies in flight are done. The image stays valid
    /// and keeps its backing file, unless the stream completed first.
    ///
    /// # Errors
    /// `NotActive` if there is none, `InUse` if somebody else is already waiting for its stop.
    pub async fn stop_stream(self: &Rc<Self>) -> Result<()> {
        let job = self.stream_job()?;
        if job.stop_asked.replace(true) {
            let text = format!("The stream on device '{}' is being stopped already", self.name());
            return Err(Error::new(ErrorKind::InUse, text));
        }
        job.abort();
        job.ended().await;
        Ok(())
    }

    /// Limits the background stream to `speed` bytes per second; 0 removes the limit.
    ///
    /// # Errors
    /// `NotActive` if there is none.
    pub fn set_stream_speed(&self, speed: u64) -> Result<()> {
        self.stream_job()?.set_speed(speed)
    }

    fn stream_job(&self) -> Result<Rc<Job>> {
        self.active_job().ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })
    }

    /// Returns the progress of the active background stream.
    pub fn query_stream(&self) -> Option<Progress> {
        Some(self.progress(self.active_job()?.offset()))
    }

    /// Drops the backing file, or replaces it by the base, durably. Nothing above the base may be absent
    /// any more.
    async fn complete(&self, image: &Rc<Node>, base: Option<(Rc<Node>, Backing)>) -> Result<()> {
        // Data and tables first, then the header without the backing file.
        self.flush_old().await?;
        image.flush().await?;
        match base {
            Some((base, record)) => {
                image.format().set_backing(record).await?;
                image.set_backing(Some(base));
            }
            None => {
                image.format().drop_backing().await?;
                image.set_backing(None);
            }
        }
        Ok(())
    }
}

fn no_node(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("Cannot find device='' nor node-name='{name}'"))
}

fn is_below(node: &Rc<Node>, image: &Rc<Node>) -> bool {
    let mut next = Some(image.clone());
    while let Some(at) = next {
        if Rc::ptr_eq(&at, node) {
            return true;
        }
        next = at.backing();
    }
    false
}

/// The strategy: copies, tries again after errors if the policy says so, then drops the images that were
/// copied.
struct Stream {
    disk: Rc<Disk>,
    scope: Rc<Scope>,
    tuned: RefCell<Tuned>,
    record: Option<Backing>,
    /// True if the image is not the leaf, and was opened for writing for this stream.
    is_inner: bool,
}

impl Stream {
    fn new(disk: &Rc<Disk>, scope: Scope, tuned: Tuned) -> Self {
        let (scope, tuned) = (Rc::new(scope), RefCell::new(tuned));
        Stream { disk: disk.clone(), scope, tuned, record: None, is_inner: false }
    }

    /// Copies until nothing is left.
    async fn copy_all(&self, job: &Rc<Job>, copy: &Rc<Copy>) -> Result<()> {
        let image = &self.scope.image;
        // Starts again if something is still absent at the end: the map of the whole image decides, not
        // the frontier.
        loop {
            if let Some(error) = self.copy(job, copy).await? {
                return Err(error);
            }
            job.rest().await?;
            if self.scope.next_absent(0..image.size(), 1).await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Copies until nothing is left but what was ignored. Returns the first error that was ignored.
    async fn copy(&self, job: &Rc<Job>, copy: &Rc<Copy>) -> Result<Option<Error>> {
        let (mut ignored, mut from) = (None, 0);
        loop {
            let copy::Failed { range, error } = match copy.run(from).await {
                Ok(()) => match self.scope.image.flush().await {
                    Ok(()) => return Ok(ignored),
                    Err(error) => copy::Failed { range: from..from, error },
                },
                Err(failed) => failed,
            };
            if error.kind() == ErrorKind::Cancelled || job.is_cancelled() {
                return Err(error);
            }
            from = copy.frontier();
            let operation = if error.is_of_source() { Operation::Read } else { Operation::Write };
            match job.decide(operation, &error) {
                Action::Stop => job.rest().await?,
                // Only a known range can be left out.
                Action::Ignore if !range.is_empty() => {
                    if range.start <= from {
                        from = from.max(range.end);
                    }
                    ignored.get_or_insert(error);
                }
                Action::Ignore | Action::Report => return Err(error),
            }
        }
    }
}

#[async_trait(?Send)]
impl Strategy for Stream {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let image = &self.scope.image;
        let Tuned { wish, trace } = self.tuned.take();
        let watch = self.disk.watch.borrow().clone();
        let mut result = Ok(());
        // As in QEMU, a job with nothing to do has a length of 0.
        if !self.scope.is_empty() {
            job.set_len(image.size());
            let hot = watch.clone().filter(|_| matches!(wish.order, Order::HotFirst));
            let plan = Plan::new(image.size(), trace, hot);
            let budget = wish.max_latency.map(|limit| Budget::new(self.disk.clone(), limit));
            let copy = Copy::new(&self.disk, &self.scope, job, plan, budget);
            result = self.copy_all(job, &copy).await;
        }
        self.disk.watch.take();
        if let Some((name, record)) = wish.record.zip(watch.and_then(|watch| watch.record())) {
            let saved = trace::save(&*self.disk.opener, &name, record).await;
            result = result.and(saved);
        }
        result
    }

    async fn finish(&self) -> Result<()> {
        let image = &self.scope.image;
        if image.backing().is_none() {
            return Ok(());
        }
        let base = self.scope.base.clone().zip(self.record.clone());
        self.disk.complete(image, base).await
    }

    async fn clean(&self) {
        self.disk.cursor.set(0);
        self.disk.watch.take();
        if self.is_inner {
            self.disk.close_inner(&self.scope.image).await;
        } else if let Err(e) = self.disk.end_old().await {
            executor::limited!(warn, "{}: cannot finish a former leaf: {e}", self.disk.name());
        }
    }
}
