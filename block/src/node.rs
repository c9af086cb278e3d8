//! One image of a chain: its format over its storage, and the image behind it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;

use crate::buf::Pool;
use crate::format::{Format, Kind, What};
use crate::ranges::{RangeGuard, RangeLocks};
use crate::stats::Waits;
use crate::storage::{Lock, Storage};
use crate::{Buf, Error, ErrorKind, Result};

/// Parts of one request in flight at once.
const PARTS: usize = 16;
/// The largest block of a device in bytes: what a read without bounce buffers is a multiple of.
const LARGEST_BLOCK: u64 = 4096;
/// The most that one allocating write takes at once, in bytes: bounds what others wait for.
const LARGEST_WRITE: u64 = 4 << 20;
/// The most that is read for nothing to spare a second read, in bytes.
const LARGEST_GAP: u64 = 32 << 10;

/// A future of this thread.
pub(crate) type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a chain holds for a range of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// `false`: reads as zeros, and no image of the chain has data for it.
    pub data: bool,
    /// How many images above the one that answers: 0 is the leaf.
    pub depth: usize,
    /// Whether any image of the chain says something of it, zeros included. Raw images always do, and
    /// a backing file does for what lies behind its own end.
    pub allocated: bool,
}

/// A place in the storage of an image.
pub(crate) struct Located {
    pub node: Rc<Node>,
    pub host: u64,
    pub len: u64,
}

/// An image of a chain.
pub struct Node {
    /// See [`Node::node_name`].
    node_name: RefCell<String>,
    format: Format,
    storage: Rc<dyn Storage>,
    backing: RefCell<Option<Rc<Node>>>,
    /// Locks on clusters that are being allocated, populated, zeroed. A request in place holds none.
    locks: Rc<RangeLocks>,
    /// Requests that waited for a job's lock while this was the leaf.
    pub(crate) waits: Waits,
    pub(crate) pool: Pool,
    writable: Cell<bool>,
}

impl Node {
    pub(crate) fn new(
        format: Format,
        storage: Rc<dyn Storage>,
        backing: Option<Rc<Node>>,
        writable: bool,
    ) -> Rc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Rc::new(Node {
            node_name: RefCell::new(format!("#block{number:03}")),
            format,
            storage,
            backing: RefCell::new(backing),
            locks: RangeLocks::new(),
            waits: Waits::default(),
            pool: Pool::default(),
            writable: Cell::new(writable),
        })
    }

    /// The name of the image: a path.
    pub fn name(&self) -> &str {
        self.storage.name()
    }

    /// The name by which the monitor knows the image: no two of a process have the same. One that
    /// nobody chose begins with '#', which no chosen one may.
    pub fn node_name(&self) -> String {
        self.node_name.borrow().clone()
    }

    /// Gives the image another node name, which is not checked.
    pub fn set_node_name(&self, name: &str) {
        name.clone_into(&mut self.node_name.borrow_mut());
    }

    /// The image's format.
    pub fn kind(&self) -> Kind {
        self.format.kind()
    }

    /// Size of the disk in bytes as this image says it.
    pub fn size(&self) -> u64 {
        self.format.size()
    }

    /// The allocation unit in bytes; 1 for formats that allocate nothing.
    pub fn cluster_size(&self) -> u64 {
        self.format.cluster_size()
    }

    /// The image behind this one.
    pub fn backing(&self) -> Option<Rc<Node>> {
        self.backing.borrow().clone()
    }

    /// Whether the image was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    pub(crate) fn storage(&self) -> &Rc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn format(&self) -> &Format {
        &self.format
    }

    pub(crate) fn set_backing(&self, backing: Option<Rc<Node>>) {
        *self.backing.borrow_mut() = backing;
    }

    /// Makes a leaf a backing file: nothing is written any more, and the lock says so.
    pub(crate) fn demote(&self) -> Result<()> {
        self.writable.set(false);
        self.storage.lock(Lock::Backing)
    }

    /// The clusters that a range touches.
    fn clusters(&self, range: Range<u64>) -> Range<u64> {
        let cluster = self.cluster_size();
        range.start - range.start % cluster..range.end.next_multiple_of(cluster)
    }

    /// Locks the clusters of a range for a request. A wait for a job is counted.
    pub(crate) async fn lock(&self, range: Range<u64>) -> RangeGuard {
        let range = self.clusters(range);
        if !self.locks.is_with_job(&range) {
            return self.locks.lock(range).await;
        }
        let start = executor::now();
        let guard = self.locks.lock(range).await;
        self.waits.record(executor::now().saturating_sub(start));
        guard
    }

    /// Locks the clusters of a range for a job.
    pub(crate) async fn lock_for_job(&self, range: Range<u64>) -> RangeGuard {
        self.locks.lock_for_job(self.clusters(range)).await
    }

    /// Reads from the chain into the whole of `buf`. What lies past the image's end reads as zeros.
    pub(crate) fn read(&self, offset: u64, buf: Buf) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let _reading = self.format.reading();
            let end = offset + buf.len() as u64;
            let inside = end.min(self.size()).saturating_sub(offset);
            if inside < buf.len() as u64 {
                buf.slice(inside as usize..buf.len()).zero();
            }
            let mut parts = Vec::new();
            let mut at = 0;
            while at < inside {
                let run = self.format.map(offset + at, inside - at).await?;
                let part = buf.slice(at as usize..(at + run.len) as usize);
                match (run.what, self.backing()) {
                    (What::Data(host), _) => parts.push(self.storage_read(host, part)),
                    (What::Packed(packed, within), _) => {
                        parts.push(Box::pin(self.format.read_packed(packed, within, part)))
                    }
                    (What::Absent, Some(backing)) => parts.push(Box::pin(async move {
                        backing.read(offset + at, part).await.map_err(Error::of_source)
                    })),
                    (What::Zero | What::Absent, _) => part.zero(),
                }
                at += run.len;
            }
            if parts.len() == 1
                && let Some(only) = parts.pop()
            {
                return only.await;
            }
            // All of them, even when one fails: the buffer is the caller's again with the answer.
            let mut results = futures_util::stream::iter(parts).buffer_unordered(PARTS);
            let mut outcome = Ok(());
            while let Some(result) = results.next().await {
                outcome = outcome.and(result);
            }
            outcome
        })
    }

    /// Reads from the image's own file. Tables may point out of it, where nothing is and zeros are read:
    /// the file is not asked for more than the rest of the cluster, or block, that it ends in.
    fn storage_read(&self, host: u64, part: Buf) -> LocalFuture<'_, Result<()>> {
        let unit = self.cluster_size().max(LARGEST_BLOCK);
        let file = self.storage.len();
        let inside = file.checked_next_multiple_of(unit).unwrap_or(file).saturating_sub(host);
        if inside >= part.len() as u64 {
            return self.storage.read(host, part);
        }
        let inside = inside as usize;
        part.slice(inside..part.len()).zero();
        if inside == 0 { Box::pin(async { Ok(()) }) } else { self.storage.read(host, part.slice(0..inside)) }
    }

    /// Writes the whole of `buf`, which lies inside of the disk.
    pub(crate) async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let _reading = self.format.reading();
        let mut at = 0;
        while at < buf.len() {
            let pos = offset + at as u64;
            let left = (buf.len() - at) as u64;
            let run = self.format.map(pos, left).await?;
            let n = match run.what {
                What::Data(host) if run.granule == 1 => {
                    let part = buf.slice(at..at + run.len as usize);
                    self.storage.write(host, part).await?;
                    run.len
                }
                _ => {
                    let len = run.len.min(LARGEST_WRITE);
                    let _lock = self.lock(pos..pos + len).await;
                    // Whoever held the lock may have changed what is there.
                    let run = self.format.map(pos, len).await?;
                    if run.granule == 1 {
                        continue;
                    }
                    self.write_new(pos, buf.slice(at..at + run.len as usize), run.granule).await?
                }
            };
            at += n as usize;
        }
        Ok(())
    }

    /// Writes to where nothing can be written in place, in steps of reserve, write, commit. The caller
    /// holds the lock on the clusters. Answers how much of `buf` was written, at least 1 byte.
    pub(crate) async fn write_new(&self, offset: u64, buf: Buf, granule: u64) -> Result<u64> {
        let end = offset + buf.len() as u64;
        let start = offset - offset % granule;
        let reservation = self.format.reserve(start, end.next_multiple_of(granule) - start).await?;
        let stop = end.min(reservation.offset + reservation.len);
        // The old content around the new makes one write of whole units.
        let end = reservation.offset + reservation.len;
        let (head, tail) = self.around(start..offset, stop..end).await?;
        let body = buf.slice(0..(stop - offset) as usize);
        let whole = match (head.is_empty(), tail.is_empty()) {
            (true, true) => body,
            _ => Buf::concat(vec![head, body, tail]),
        };
        self.storage.write(reservation.host, whole).await?;
        self.format.commit(reservation).await?;
        Ok(stop - offset)
    }

    /// What lies in two ranges around a write. Where that write is small, one read of all three takes
    /// less than two.
    async fn around(&self, head: Range<u64>, tail: Range<u64>) -> Result<(Buf, Buf)> {
        let len = |range: &Range<u64>| (range.end - range.start) as usize;
        let between = tail.start - head.end;
        if !head.is_empty() && !tail.is_empty() && between <= LARGEST_GAP {
            let all = Buf::new((tail.end - head.start) as usize);
            self.read(head.start, all.clone()).await?;
            return Ok((all.slice(0..len(&head)), all.slice(all.len() - len(&tail)..all.len())));
        }
        let fill = async |range: Range<u64>| {
            let part = Buf::new(len(&range));
            if !range.is_empty() {
                self.read(range.start, part.clone()).await?;
            }
            Ok::<_, Error>(part)
        };
        let (head, tail) = futures_util::future::join(fill(head), fill(tail)).await;
        Ok((head?, tail?))
    }

    /// Makes a range read as zeros: by zero clusters where they can be, else by writing. Without `unmap`
    /// formats that can keep its space.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let Some((lock, inner)) = self.lock_whole(offset..offset + len, self.format.zero_unit()).await else {
            return self.write_zero_bytes(offset, len).await;
        };
        let zeroed = self.format.zero(inner.start, inner.end - inner.start, unmap).await;
        drop(lock);
        match zeroed {
            Err(e) if e.kind() == ErrorKind::Unsupported => return self.write_zero_bytes(offset, len).await,
            other => other?,
        }
        self.write_zero_bytes(offset, inner.start - offset).await?;
        self.write_zero_bytes(inner.end, offset + len - inner.end).await
    }

    /// Locks the whole units of a range; `None` where there are none. One in which the disk ends is whole
    /// where the range goes to that end, which may have moved by the time that the lock is there.
    async fn lock_whole(&self, range: Range<u64>, unit: u64) -> Option<(RangeGuard, Range<u64>)> {
        let start = range.start.next_multiple_of(unit);
        let end = |size| if range.end >= size { range.end } else { range.end - range.end % unit };
        let lock = match start..end(self.size()) {
            none if none.is_empty() => return None,
            whole => self.lock(whole).await,
        };
        let whole = start..end(self.size());
        (!whole.is_empty()).then_some((lock, whole))
    }

    /// Writes zeros to where they are not yet.
    pub(crate) async fn write_zero_bytes(&self, offset: u64, len: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeros = Buf::new(len.min(PIECE) as usize);
        let mut at = 0;
        while at < len {
            let run = self.format.map(offset + at, (len - at).min(PIECE)).await?;
            let is_zero = match run.what {
                What::Zero => true,
                What::Absent => self.backing().is_none(),
                What::Data(_) | What::Packed(..) => false,
            };
            if !is_zero {
                self.write(offset + at, zeros.slice(0..run.len as usize)).await?;
            }
            at += run.len;
        }
        Ok(())
    }

    /// Says that a range's content is not needed any more. Afterwards it reads as zeros, or as before if the
    /// image cannot hold zeros without data; never as the backing file again. No zeros are written for it.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let whole = self.lock_whole(offset..offset + len, self.cluster_size()).await;
        let Some((_lock, whole)) = whole else { return Ok(()) };
        match self.format.discard(whole.start, whole.end - whole.start).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// Makes every write that was answered before this call durable, in this image.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.format.flush(&*self.storage).await
    }

    /// What the chain from here on holds at `offset`, found without reading data. `len` bounds the
    /// answer.
    pub fn map(&self, offset: u64, len: u64) -> LocalFuture<'_, Result<Run>> {
        Box::pin(async move {
            if offset >= self.size() {
                return Ok(Run { len, data: false, depth: 0, allocated: true });
            }
            let len = len.min(self.size() - offset);
            let run = self.format.map(offset, len).await?;
            match (run.what, self.backing()) {
                (What::Data(host), _) if self.kind() == Kind::Raw => {
                    let extent = self.storage.map(host, run.len).await?;
                    Ok(Run { len: extent.len, data: extent.data, depth: 0, allocated: true })
                }
                (What::Data(_) | What::Packed(..), _) => {
                    Ok(Run { len: run.len, data: true, depth: 0, allocated: true })
                }
                (What::Absent, Some(backing)) => {
                    let below = backing.map(offset, run.len).await?;
                    Ok(Run { depth: below.depth + 1, ..below })
                }
                (what, _) => Ok(Run { len: run.len, data: false, depth: 0, allocated: what == What::Zero }),
            }
        })
    }

    /// Where the data at `offset` lies: the image of the chain that has it, the offset in its storage, and
    /// for how many bytes, `len` at most. `None` where no image has it as plain bytes.
    pub(crate) fn locate(self: &Rc<Self>, offset: u64, len: u64) -> LocalFuture<'_, Result<Option<Located>>> {
        Box::pin(async move {
            if offset >= self.size() {
                return Ok(None);
            }
            let run = self.format.map(offset, len.min(self.size() - offset)).await?;
            match (run.what, self.backing()) {
                (What::Data(host), _) => {
                    let len = run.len.min(self.storage.len().saturating_sub(host));
                    Ok(Some(Located { node: self.clone(), host, len }).filter(|found| found.len > 0))
                }
                (What::Absent, Some(backing)) => backing.locate(offset, run.len).await,
                _ => Ok(None),
            }
        })
    }

    /// The first absent range of this image in `range`, no longer than `most`.
    pub(crate) async fn next_absent(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.size());
        let mut at = range.start;
        let mut found: Option<Range<u64>> = None;
        while at < end {
            let run = self.format.map(at, end - at).await?;
            match (&mut found, run.what == What::Absent) {
                (None, true) => found = Some(at..at + run.len),
                (Some(found), true) => found.end = at + run.len,
                (Some(_), false) => break,
                (None, false) => {}
            }
            at += run.len;
            if let Some(found) = &mut found
                && found.end - found.start >= most
            {
                found.end = found.start + most;
                break;
            }
        }
        Ok(found)
    }

    /// Flushes and trims. Nothing may be in flight.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.writable.get() { self.format.close(&*self.storage).await } else { Ok(()) }
    }
}
