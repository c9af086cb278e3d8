//! `block_stream`: populate a disk's leaf from its backing chain, then drop the backing file.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::disk::{Disk, DiskEvent};
use crate::job::Job;
use crate::node::Node;
use crate::populate::populate;
use crate::{Error, ErrorKind, Result};

mod budget;
mod copy;
mod order;
mod trace;
pub(crate) mod watch;
mod window;

use budget::Budget;
use copy::Copy;
pub use order::Order;
use order::Plan;
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

impl Disk {
    fn check_streamable(&self) -> Result<()> {
        if self.read_only() {
            return Err(Error::new(ErrorKind::Unsupported, format!("Device '{}' is read-only", self.name())));
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
        self.check_streamable()?;
        let _claim = self.claim("a stream")?;
        let leaf = self.leaf();
        let size = leaf.size();
        if leaf.backing().is_none() {
            return Ok(self.progress(size));
        }
        let unit = leaf.cluster_size();
        let found = leaf.next_absent(self.cursor.get()..size, 1).await?;
        let end = match found {
            None => size,
            Some(absent) => {
                let start = absent.start - absent.start % unit;
                let end = (start + unit).min(size);
                // A task of its own: dropped by whoever asked, the copy still comes to its end.
                let copied = leaf.clone();
                let copy = executor::spawn(async move { populate(&copied, start..end).await });
                let done = copy.await.unwrap_or_else(|| Err(Error::new(ErrorKind::Cancelled, "stopped")))?;
                self.stats.populated(done);
                end
            }
        };
        self.cursor.set(end);
        if end == size && leaf.next_absent(0..size, 1).await?.is_none() {
            self.complete(&leaf).await?;
        }
        Ok(self.progress(end))
    }

    /// Starts to stream everything in the background. At the end the backing file is dropped and
    /// [`DiskEvent::StreamCompleted`] sent.
    ///
    /// # Errors
    /// As [`Disk::stream_one`].
    pub fn start_stream(self: &Rc<Self>) -> Result<()> {
        self.start(Tuned::default())
    }

    /// As [`Disk::start_stream`], in the way that `wish` says.
    ///
    /// # Errors
    /// Also what reading a trace says.
    pub async fn start_tuned_stream(self: &Rc<Self>, wish: Tuning) -> Result<()> {
        self.check_streamable()?;
        let trace = match &wish.order {
            Order::Trace(name) => trace::load(&*self.opener, name).await?,
            _ => Vec::new(),
        };
        self.start(Tuned { wish, trace })
    }

    fn start(self: &Rc<Self>, tuned: Tuned) -> Result<()> {
        self.check_streamable()?;
        let claim = self.claim("a stream")?;
        let job = Rc::new(Job::new(self));
        *self.job.borrow_mut() = Some(job.clone());
        let (hot, record) = (matches!(tuned.wish.order, Order::HotFirst), tuned.wish.record.is_some());
        *self.watch.borrow_mut() = (hot || record).then(|| Rc::new(Watch::new(record)));
        let disk = self.clone();
        executor::spawn(async move {
            let leaf = disk.leaf();
            let result = disk.run_watched(&leaf, &job, tuned).await;
            disk.job.take();
            disk.cursor.set(0);
            drop(claim);
            let (offset, error) = match result {
                Ok(()) => (leaf.size(), None),
                Err(e) => (job.offset(), Some(e)),
            };
            if !matches!(&error, Some(e) if e.kind() == ErrorKind::Cancelled) {
                disk.emit(DiskEvent::StreamCompleted {
                    device: disk.name().to_owned(),
                    len: leaf.size(),
                    offset,
                    error: error.map(|e| e.to_string()),
                });
            }
            job.end();
        });
        Ok(())
    }

    /// Stops the background stream; answers when the copies in flight are done. The image stays valid
    /// and keeps its backing file, unless the end had come first.
    ///
    /// # Errors
    /// `NotActive` where there is none, `InUse` where somebody else waits for its stop.
    pub async fn stop_stream(self: &Rc<Self>) -> Result<()> {
        let job = self.active_job()?;
        if job.stop_asked.replace(true) {
            let text = format!("The stream on device '{}' is being stopped already", self.name());
            return Err(Error::new(ErrorKind::InUse, text));
        }
        job.cancel();
        job.ended().await;
        Ok(())
    }

    /// Limits the background stream to `speed` bytes a second; 0 takes the limit away.
    ///
    /// # Errors
    /// `NotActive` where there is none.
    pub fn set_stream_speed(&self, speed: u64) -> Result<()> {
        self.active_job()?.set_speed(speed);
        Ok(())
    }

    fn active_job(&self) -> Result<Rc<Job>> {
        self.job.borrow().clone().ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })
    }

    /// The active background stream.
    pub fn query_stream(&self) -> Option<Progress> {
        let job = self.job.borrow().clone()?;
        Some(self.progress(job.offset()))
    }

    /// Runs a stream with an eye on what is read meanwhile.
    async fn run_watched(self: &Rc<Self>, leaf: &Rc<Node>, job: &Rc<Job>, tuned: Tuned) -> Result<()> {
        let Tuned { wish, trace } = tuned;
        let watch = self.watch.borrow().clone();
        let hot = watch.clone().filter(|_| matches!(wish.order, Order::HotFirst));
        let plan = Plan::new(leaf.size(), trace, hot);
        let budget = wish.max_latency.map(|limit| Budget::new(self.clone(), limit));
        let copy = Copy::new(self, leaf, job, plan, budget);
        let result = self.run_stream(leaf, job, &copy).await;
        self.watch.take();
        if let Some((name, record)) = wish.record.zip(watch.and_then(|watch| watch.record())) {
            let saved = trace::save(&*self.opener, &name, &record).await;
            return result.and(saved);
        }
        result
    }

    async fn run_stream(self: &Rc<Self>, leaf: &Rc<Node>, job: &Rc<Job>, copy: &Rc<Copy>) -> Result<()> {
        if leaf.backing().is_none() {
            return Ok(());
        }
        // Once more from the start when something absent is found at the end: the last word has the
        // map of the whole leaf, not the frontier.
        loop {
            copy.run(0).await.map_err(|failed| failed.error)?;
            leaf.flush().await?;
            job.rest().await?;
            if leaf.next_absent(0..leaf.size(), 1).await?.is_none() {
                break;
            }
        }
        self.complete(leaf).await
    }

    /// Drops the backing file, durably: nothing may be absent.
    async fn complete(self: &Rc<Self>, leaf: &Rc<Node>) -> Result<()> {
        // Data and tables first, then the header that does without the backing file.
        self.flush_old().await?;
        leaf.flush().await?;
        leaf.format().drop_backing().await?;
        leaf.set_backing(None);
        Ok(())
    }
}
