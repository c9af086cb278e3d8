//! `block_stream`: populate a disk's leaf from its backing chain, then drop the backing file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::{Event, Semaphore};

use crate::disk::{Disk, DiskEvent};
use crate::node::Node;
use crate::populate::{Populated, populate};
use crate::stats::Stats;
use crate::{Error, ErrorKind, Result};

/// The largest populate of the background stream, in bytes.
const CHUNK: u64 = 1 << 20;
/// Populates in flight.
const DEPTH: u64 = 4;
/// Bytes between two commits of the leaf: bounds what a crash makes the stream do again.
const COMMIT_EVERY: u64 = 64 << 20;
/// How often a stream that is held to a speed looks around.
const PACE: Duration = Duration::from_millis(20);
/// The largest hole that is made zero in one step.
const HOLE: u64 = 1 << 30;

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

/// A stream in the background.
pub struct Stream {
    frontier: Cell<u64>,
    /// Bytes a second; 0: as fast as it goes.
    speed: Cell<u64>,
    /// When the next copy may begin, at that speed.
    next: Cell<Duration>,
    stopping: Cell<bool>,
    stop_asked: Cell<bool>,
    ended: Cell<bool>,
    changed: Event,
    done: RefCell<Populated>,
}

impl Stream {
    /// Takes the turn of a copy of `bytes`: when it may begin.
    fn admit(&self, bytes: u64) -> Duration {
        let begin = self.next.get().max(executor::now());
        if let Some(micros) = (bytes * 1_000_000).checked_div(self.speed.get()) {
            self.next.set(begin + Duration::from_micros(micros));
        }
        begin
    }

    fn waits_until(&self, begin: Duration) -> bool {
        self.speed.get() > 0 && !self.stopping.get() && executor::now() < begin
    }
}

/// What is below the frontier, and what was finished ahead of it.
struct Frontier<'a> {
    stream: &'a Stream,
    ahead: RefCell<BTreeMap<u64, u64>>,
}

impl Frontier<'_> {
    fn finish(&self, range: Range<u64>) {
        let mut ahead = self.ahead.borrow_mut();
        ahead.insert(range.start, range.end);
        while let Some(entry) = ahead.first_entry() {
            if *entry.key() > self.stream.frontier.get() {
                break;
            }
            let end = entry.remove();
            self.stream.frontier.set(self.stream.frontier.get().max(end));
        }
    }
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
        self.check_streamable()?;
        let claim = self.claim("a stream")?;
        let stream = Rc::new(Stream {
            frontier: Cell::new(0),
            speed: Cell::new(0),
            next: Cell::new(Duration::ZERO),
            stopping: Cell::new(false),
            stop_asked: Cell::new(false),
            ended: Cell::new(false),
            changed: Event::new(),
            done: RefCell::default(),
        });
        *self.stream.borrow_mut() = Some(stream.clone());
        let disk = self.clone();
        executor::spawn(async move {
            let leaf = disk.leaf();
            let result = disk.run_stream(&leaf, &stream).await;
            disk.stream.take();
            disk.cursor.set(0);
            drop(claim);
            let (offset, error) = match result {
                Ok(()) => (leaf.size(), None),
                Err(e) => (stream.frontier.get(), Some(e)),
            };
            if !matches!(&error, Some(e) if e.kind() == ErrorKind::Cancelled) {
                disk.emit(DiskEvent::StreamCompleted {
                    device: disk.name().to_owned(),
                    len: leaf.size(),
                    offset,
                    error: error.map(|e| e.to_string()),
                });
            }
            stream.ended.set(true);
            stream.changed.notify();
        });
        Ok(())
    }

    /// Stops the background stream; answers when the copies in flight are done. The image stays valid
    /// and keeps its backing file, unless the end had come first.
    ///
    /// # Errors
    /// `NotActive` where there is none, `InUse` where somebody else waits for its stop.
    pub async fn stop_stream(self: &Rc<Self>) -> Result<()> {
        let stream = self.stream.borrow().clone().ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })?;
        if stream.stop_asked.replace(true) {
            let text = format!("The stream on device '{}' is being stopped already", self.name());
            return Err(Error::new(ErrorKind::InUse, text));
        }
        stream.stopping.set(true);
        while !stream.ended.get() {
            stream.changed.wait().await;
        }
        Ok(())
    }

    /// Limits the background stream to `speed` bytes a second; 0 takes the limit away.
    ///
    /// # Errors
    /// `NotActive` where there is none.
    pub fn set_stream_speed(&self, speed: u64) -> Result<()> {
        let stream = self.stream.borrow().clone().ok_or_else(|| {
            Error::new(ErrorKind::NotActive, format!("No active stream on device '{}'", self.name()))
        })?;
        stream.speed.set(speed);
        Ok(())
    }

    /// The active background stream.
    pub fn query_stream(&self) -> Option<Progress> {
        let stream = self.stream.borrow().clone()?;
        Some(self.progress(stream.frontier.get()))
    }

    async fn run_stream(self: &Rc<Self>, leaf: &Rc<Node>, stream: &Rc<Stream>) -> Result<()> {
        if leaf.backing().is_none() {
            return Ok(());
        }
        // Once more from the start when something absent is found at the end: the last word has the
        // map of the whole leaf, not the frontier.
        loop {
            copy_all(leaf, stream, &self.stats).await?;
            leaf.flush().await?;
            if stream.stopping.get() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped"));
            }
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

/// Populates all that is absent, several chunks at once.
async fn copy_all(leaf: &Rc<Node>, stream: &Rc<Stream>, stats: &Stats) -> Result<()> {
    let Some(backing) = leaf.backing() else { return Ok(()) };
    let size = leaf.size();
    let frontier = Rc::new(Frontier { stream, ahead: RefCell::default() });
    let slots = Semaphore::new(DEPTH);
    let failed: Rc<RefCell<Option<Error>>> = Rc::default();
    let mut running = futures_util::stream::FuturesUnordered::new();
    let mut at = 0;
    let mut since_commit = 0;
    let result: Result<()> = async {
        while at < size && !stream.stopping.get() && failed.borrow().is_none() {
            let Some(absent) = leaf.next_absent(at..size, HOLE).await? else {
                frontier.finish(at..size);
                break;
            };
            if absent.start > at {
                frontier.finish(at..absent.start);
            }
            // A hole costs no data, so it is taken in large steps.
            let below = backing.map(absent.start, absent.end - absent.start).await?;
            let unit = leaf.cluster_size();
            let most = if below.data { CHUNK } else { below.len.max(CHUNK) };
            let end = (absent.start - absent.start % unit + most.next_multiple_of(unit)).min(absent.end);
            let chunk = absent.start..end;
            let begin = stream.admit(if below.data { end - chunk.start } else { 0 });
            while stream.waits_until(begin) {
                // The copies in flight end first; then short sleeps, for a stop and for a new speed.
                if futures_util::StreamExt::next(&mut running).await.is_none() {
                    executor::sleep(PACE).await;
                }
            }
            let slot = loop {
                if let Some(slot) = slots.try_acquire(1) {
                    break slot;
                }
                futures_util::StreamExt::next(&mut running).await;
            };
            at = end;
            since_commit += end - chunk.start;
            let (frontier, failed, stats) = (frontier.clone(), failed.clone(), stats);
            running.push(async move {
                match populate(leaf, chunk.clone()).await {
                    Ok(done) => {
                        *stream.done.borrow_mut() += done;
                        stats.populated(done);
                        frontier.finish(chunk);
                    }
                    Err(e) => {
                        failed.borrow_mut().get_or_insert(e);
                    }
                }
                drop(slot);
            });
            if since_commit >= COMMIT_EVERY {
                since_commit = 0;
                leaf.flush().await?;
            }
        }
        Ok(())
    }
    .await;
    // Waited for after an error too: a copy that is dropped half way would give its clusters and its
    // lock to others while its write is still on the way.
    while futures_util::StreamExt::next(&mut running).await.is_some() {}
    result.and(failed.take().map_or(Ok(()), Err))
}
