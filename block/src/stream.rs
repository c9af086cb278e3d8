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

/// How far a stream is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The disk's name.
    pub device: String,
    /// Its size in bytes.
    pub len: u64,
    /// Everything below is in the leaf. Never goes back.
    pub offset: u64,
}

/// How a stream goes about its work.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// What is copied first.
    pub order: Order,
    /// Of the disk's reads and writes, 99 of 100 shall take no longer: the stream slows down for that.
    pub max_latency: Option<Duration>,
    /// The file in which what is read while the stream goes on is recorded, for [`Order::Trace`].
    pub record: Option<String>,
}

/// [`Tuning`], made ready.
#[derive(Default)]
struct Tuned {
    wish: Tuning,
    trace: Vec<Range<u64>>,
}

/// Where a stream ends, going down the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// Above the image with this file name, which becomes the backing file.
    File(String),
    /// Above the image with this node name, which becomes the backing file.
    Node(String),
    /// With the image with this node name, whose backing file becomes the backing file.
    Bottom(String),
}

/// What is streamed.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// The node name of the image that is populated; the leaf unless given.
    pub image: Option<String>,
    /// Where the stream ends; with the whole chain unless given.
    pub base: Option<Base>,
    /// How the base is recorded as the backing file; by its own name unless given.
    pub backing_file: Option<String>,
    /// How.
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

    /// Populates the first absent cluster at or after the cursor. The answer's offset is that
    /// cluster's end; with nothing left it is the disk's size. The backing file is dropped when
    /// nothing is absent any more.
    ///
    /// # Errors
    /// `InUse` where a stream or a switch is active, `Unsupported` for a read-only disk, and what
    /// copying says.
    pub async fn stream_one(self: &Rc<Self>) -> Result<Progress> {
        let this = self.clone();
        // To its end, whoever asked: the claim is held while anything is in flight.
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

    /// Populates the first absent cluster at or after `offset`. Returns its end; with nothing left, the size.
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

    /// Populates the first absent cluster at or after `offset`, and leaves the cursor where it is. Answers
    /// as [`Disk::stream_one`], and how many bytes are absent then.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub async fn stream_at(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        let this = self.clone();
        executor::to_the_end(async move { this.stream_at_now(offset).await }).await
    }

    async fn stream_at_now(self: &Rc<Self>, offset: u64) -> Result<(Progress, u64)> {
        self.check_streamable()?;
        // Held to the end: what is counted, and completed, is the image that was populated.
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
    /// [`crate::DiskEvent::StreamCompleted`] sent. The job's name is the disk's.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub fn start_stream(self: &Rc<Self>) -> Result<()> {
        self.start_whole_stream(self.block_stream())
    }

    /// As [`Disk::start_stream`], in the way that `tuning` says.
    ///
    /// # Errors
    /// Also what reading a trace says.
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

    /// Starts to stream everything into the leaf as a job, before this returns.
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

    /// Starts to stream `extent` as a job. At its end the chain above the base is dropped.
    ///
    /// # Errors
    /// `InUse` where a job or another command has the disk; `Invalid` where the extent is none; what
    /// opening an image for writing says where that is not the leaf.
    pub async fn start_stream_job(self: &Rc<Self>, extent: Extent, wish: Wish) -> Result<()> {
        let this = self.clone();
        // To its end, whoever asked: an image that is opened for writing half way has two owners.
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
                        // Nobody could open the image again with a name that is none.
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

    /// Whether an extent is one, and no other job is in its way.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` where it is none; `InUse`. All with QEMU's texts, and in its order.
    pub fn check_stream(&self, extent: &Extent) -> Result<()> {
        self.find_extent(extent)?;
        self.check_no_job(extent.image.as_deref().unwrap_or(self.name()))
    }

    /// The image that is populated, and the one that becomes its backing file.
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

    /// An image of the chain by its node name.
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

    /// `top` is the name by which `image` was asked for.
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

    /// Stops the background stream; answers when the copies in flight are done. The image stays valid
    /// and keeps its backing file, unless the end had come first.
    ///
    /// # Errors
    /// `NotActive` where there is none, `InUse` where somebody else waits for its stop.
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

    /// Limits the background stream to `speed` bytes a second; 0 takes the limit away.
    ///
    /// # Errors
    /// `NotActive` where there is none.
    pub fn set_stream_speed(&self, speed: u64) -> Result<()> {
        self.stream_job()?.set_speed(speed)
    }

    fn stream_job(&self) -> Result<Rc<Job>> {
        self.active_job().ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })
    }

    /// The active background stream.
    pub fn query_stream(&self) -> Option<Progress> {
        Some(self.progress(self.active_job()?.offset()))
    }

    /// Drops the backing file, or puts the base in its place, durably: nothing above may be absent.
    async fn complete(&self, image: &Rc<Node>, base: Option<(Rc<Node>, Backing)>) -> Result<()> {
        // Data and tables first, then the header that does without the backing file.
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

/// The strategy: copy, again after errors where the policy says so, then drop what was copied.
struct Stream {
    disk: Rc<Disk>,
    scope: Rc<Scope>,
    tuned: RefCell<Tuned>,
    record: Option<Backing>,
    /// The image is not the leaf: it was opened for writing for this.
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
        // Once more from the start when something absent is found at the end: the last word has the
        // map of the whole image, not the frontier.
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

    /// Copies until nothing is left but what was ignored; the error of that.
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
                // Nothing is left out that is not known.
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
            executor::limited!(warn, "{}: an earlier image: {e}", self.disk.name());
        }
    }
}
