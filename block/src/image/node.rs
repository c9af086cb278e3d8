//! One image of a chain: its format over its storage, and its backing file.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use executor::sync::Semaphore;
use futures_util::StreamExt;

use super::Waits;
pub use super::lookup::Run;
use crate::buf::Pool;
use crate::format::{Compressed, Content, Format, Kind, Reading};
use crate::storage::changes::Changes;
use crate::storage::in_use::Use;
use crate::storage::ranges::{RangeGuard, RangeLocks};
use crate::storage::{Lock, Storage};
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

/// Maximum number of parts of one request in flight at once.
const PARTS: usize = 16;
/// Maximum number of parts of a read, per image, that are held at once: a fragmented disk may have any
/// number.
const WINDOW: usize = 256;
/// The largest block size of a device, in bytes. Reads that are multiples of it need no bounce buffer.
const LARGEST_BLOCK: u64 = 4096;
/// The largest piece of an allocating write, in bytes: bounds the time that others wait for its locks.
const LARGEST_WRITE: u64 = 4 << 20;
/// Limit on the memory in which an image's allocating writes hold the old data around them, in bytes. A
/// single cluster may exceed it: one without subclusters is filled as a whole, and may have 64 MiB.
const FILLING: u64 = 32 << 20;
/// The largest number of unneeded bytes that is read to save a second read.
const LARGEST_GAP: u64 = 32 << 10;

/// A boxed future that stays on this thread.
pub(crate) type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A part of a read that is in the image's own file.
enum Part {
    Plain(u64, Buf),
    Compressed(Compressed, u64, Buf),
}

/// A part of a read that is left to the backing file.
struct Below {
    node: Rc<Node>,
    offset: u64,
    buf: Buf,
}

/// An image of a chain.
pub struct Node {
    /// See [`Node::node_name`].
    node_name: RefCell<String>,
    format: Format,
    backing: RefCell<Option<Rc<Node>>>,
    /// Locks on clusters that are being allocated, populated or zeroed. Requests in place take none.
    locks: Rc<RangeLocks>,
    /// Memory for the old data around allocating writes, in bytes.
    filling: Rc<Semaphore>,
    /// Requests that waited for a job's lock while this was the leaf.
    pub(crate) waits: Waits,
    pub(crate) pool: Pool,
    writable: Cell<bool>,
    /// `None` if the image is only inspected, and after the disk was closed. Declared before `storage`,
    /// so that it is dropped first.
    using: RefCell<Option<Use>>,
    storage: Rc<dyn Storage>,
}

impl Node {
    pub(crate) fn new(
        format: Format,
        storage: Rc<dyn Storage>,
        backing: Option<Rc<Node>>,
        using: Option<Use>,
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
            filling: Semaphore::new(FILLING),
            waits: Waits::default(),
            pool: Pool::default(),
            writable: Cell::new(writable),
            using: RefCell::new(using),
        })
    }

    /// Returns the name of the image: a path, or the URI of an NBD export.
    pub fn name(&self) -> &str {
        self.storage.name()
    }

    /// Returns the name by which the monitor knows the image. It is unique in the process. A generated
    /// name begins with '#', which a chosen name must not.
    pub fn node_name(&self) -> String {
        self.node_name.borrow().clone()
    }

    /// Sets the node name, which is not checked.
    pub fn set_node_name(&self, name: &str) {
        name.clone_into(&mut self.node_name.borrow_mut());
    }

    /// Returns the image's format.
    pub fn kind(&self) -> Kind {
        self.format.kind()
    }

    /// Returns the size of this image's disk in bytes.
    pub fn size(&self) -> u64 {
        self.format.size()
    }

    /// Returns the allocation unit in bytes; 1 for formats without allocation.
    pub fn cluster_size(&self) -> u64 {
        self.format.cluster_size()
    }

    /// Returns the backing file.
    pub fn backing(&self) -> Option<Rc<Node>> {
        self.backing.borrow().clone()
    }

    /// Returns true if the image is open for writing.
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

    /// Turns a leaf into a backing file: it is not written any more, and gets the lock of a backing
    /// file. That lock holds and denies less than a leaf's, so no other process can refuse it.
    pub(crate) fn demote(&self) {
        self.writable.set(false);
        if let Some(using) = &*self.using.borrow() {
            using.end_writing();
        }
        if let Err(e) = self.storage.lock(Lock::Backing) {
            executor::limited!(warn, "{}: cannot change to the lock of a backing file: {e}", self.name());
        }
    }

    /// Takes the use of the image, to hand it to another node over the same file.
    pub(crate) fn take_use(&self) -> Option<Use> {
        self.using.take()
    }

    /// Ends the use of the image when the disk is closed: others may use it.
    pub(crate) fn end_use(&self) {
        self.using.take();
    }

    /// Sets the use that [`Node::take_use`] returned.
    pub(crate) fn give_use(&self, using: Option<Use>) {
        self.using.replace(using);
    }

    /// Returns the number of images in the chain from this one on.
    pub(crate) fn depth(&self) -> usize {
        1 + std::iter::successors(self.backing(), |node| node.backing()).count()
    }

    /// Returns the range, widened to whole clusters.
    fn clusters(&self, range: Range<u64>) -> Range<u64> {
        let cluster = self.cluster_size();
        range.start - range.start % cluster..range.end.next_multiple_of(cluster)
    }

    /// Locks the clusters of a range for a request. Counts a wait for a job.
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

    /// Returns the length of the first part of a range, at most `len`, and true if a job is working on all of
    /// it, false if no job is on any of it.
    pub(crate) fn first_with_job(&self, at: u64, len: u64) -> (u64, bool) {
        self.locks.first_with_job(at, len)
    }

    /// Has `watcher` note each range whose mapping may change, except for writes in place; `None` ends that.
    pub(crate) fn watch(&self, watcher: Option<Rc<Changes>>) {
        self.locks.watch(watcher);
    }

    /// Fills `buf` from the chain. A range past the image's end reads as zeros.
    pub(crate) fn read(&self, offset: u64, buf: Buf) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let _reading = self.format.reading();
            let mut at = 0;
            loop {
                let (mut own, mut below) = (Vec::new(), Vec::new());
                let rest = if at == 0 { buf.clone() } else { buf.slice(at..buf.len()) };
                at += self.look_up(offset + at as u64, rest, &mut own, &mut below).await? as usize;
                if own.len() == 1
                    && below.is_empty()
                    && at == buf.len()
                    && let Some(only) = own.pop()
                {
                    return self.read_part(only).await;
                }
                let own = own.into_iter().map(|part| self.read_part(part));
                let below = below.into_iter().map(|part| -> LocalFuture<'_, Result<()>> {
                    Box::pin(async move { read_below(part).await.map_err(Error::of_source) })
                });
                all_of(own.chain(below)).await?;
                if at == buf.len() {
                    return Ok(());
                }
            }
        })
    }

    /// Finds the parts of a read, at most [`WINDOW`] of them: those in this image go to `own`, those of
    /// the backing file to `below`. Zeroes the parts that read as zeros. Returns the number of bytes
    /// that were looked up.
    async fn look_up(
        &self,
        offset: u64,
        buf: Buf,
        own: &mut Vec<Part>,
        below: &mut Vec<Below>,
    ) -> Result<u64> {
        let len = buf.len() as u64;
        let inside = (offset + len).min(self.size()).saturating_sub(offset);
        if inside < len {
            buf.slice(inside as usize..buf.len()).zero();
        }
        let most = own.len() + below.len() + WINDOW;
        let turns = Turns::default();
        let mut at = 0;
        while at < inside {
            if own.len() + below.len() == most {
                return Ok(at);
            }
            let run = self.format.map(offset + at, inside - at).await?;
            tracing::trace!(image = self.name(), at = offset + at, len = run.len, content = ?run.content, "mapped");
            let part = buf.slice(at as usize..(at + run.len) as usize);
            match (run.content, self.backing()) {
                (Content::Data(host), _) => own.push(Part::Plain(host, part)),
                (Content::Compressed(packed, within), _) => own.push(Part::Compressed(packed, within, part)),
                (Content::Absent, Some(node)) => below.push(Below { node, offset: offset + at, buf: part }),
                (Content::Zero | Content::Absent, _) => part.zero(),
            }
            at += run.len;
            turns.step().await;
        }
        Ok(len)
    }

    fn read_part(&self, part: Part) -> LocalFuture<'_, Result<()>> {
        match part {
            Part::Plain(host, buf) => self.storage_read(host, buf),
            Part::Compressed(packed, within, buf) => {
                Box::pin(self.format.read_compressed(packed, within, buf))
            }
        }
    }

    /// Reads from the image's own file. Tables may point past its end, where zeros are read: no more is
    /// requested from the file than the rest of the cluster, or block, in which it ends.
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

    /// Writes all of `buf`, which must fit inside the disk.
    pub(crate) async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.or_reclaim(async || self.try_write(offset, &buf).await).await
    }

    /// Makes a change. If there is no space, makes it once more, provided that freed clusters have come
    /// back since it began.
    async fn or_reclaim(&self, change: impl AsyncFn() -> Result<()>) -> Result<()> {
        let before = self.format.given_back();
        match change().await {
            Err(e) if e.kind() == ErrorKind::NoSpace && self.format.reclaim(before).await => change().await,
            other => other,
        }
    }

    async fn try_write(&self, offset: u64, buf: &Buf) -> Result<()> {
        let _reading = self.format.reading();
        let mut at = 0;
        while at < buf.len() {
            let pos = offset + at as u64;
            let left = (buf.len() - at) as u64;
            let run = self.format.map(pos, left).await?;
            let in_place = run.granule == 1;
            tracing::trace!(image = self.name(), at = pos, len = run.len, in_place, "mapped");
            let n = match run.content {
                Content::Data(host) if in_place => {
                    let part = buf.slice(at..at + run.len as usize);
                    self.storage.write(host, part).await?;
                    run.len
                }
                _ => {
                    let len = run.len.min(LARGEST_WRITE);
                    let _lock = self.lock(pos..pos + len).await;
                    // The previous holder of the lock may have changed the mapping.
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

    /// Writes to a range that cannot be written in place: reserves, writes and commits clusters. The caller
    /// must hold the lock on them. Returns the number of bytes of `buf` that were written, at least 1.
    pub(crate) async fn write_new(&self, offset: u64, buf: Buf, granule: u64) -> Result<u64> {
        let end = offset + buf.len() as u64;
        let start = offset - offset % granule;
        let reservation = self.format.reserve(start, end.next_multiple_of(granule) - start).await?;
        tracing::trace!(image = self.name(), host = reservation.host, len = reservation.len, "reserved");
        let stop = end.min(reservation.offset + reservation.len);
        // The old content around the new completes whole units, which are written at once. It may be
        // much larger than the new.
        let end = reservation.offset + reservation.len;
        let more = offset - start + (end - stop);
        let _room = if more > 0 { Some(self.filling.acquire(more).await) } else { None };
        let (head, tail) = self.around(start..offset, stop..end).await?;
        let body = buf.slice(0..(stop - offset) as usize);
        let whole = match (head.is_empty(), tail.is_empty()) {
            (true, true) => body,
            _ => Buf::concat(vec![head, body, tail]),
        };
        self.storage.write(reservation.host, whole).await?;
        self.format.commit(reservation).await?;
        tracing::trace!(image = self.name(), "committed to the tables");
        Ok(stop - offset)
    }

    /// Reads the two ranges around a write. If that write is small, one read of all three is faster than two.
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

    /// Makes a range read as zeros: with zero clusters if possible, else by writing zeros. Without
    /// `unmap`, formats that can do so keep the range's space.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.or_reclaim(async || self.try_write_zeroes(offset, len, unmap).await).await
    }

    async fn try_write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
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

    /// Locks the whole units of a range; `None` if there are none. The unit in which the disk ends counts
    /// as whole if the range reaches that end, which may have moved by the time the lock is granted.
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

    /// Writes zeros wherever the range is not known to be zero.
    pub(crate) async fn write_zero_bytes(&self, offset: u64, len: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeros = Buf::new(len.min(PIECE) as usize);
        let turns = Turns::default();
        let mut at = 0;
        while at < len {
            turns.step().await;
            let run = self.format.map(offset + at, (len - at).min(PIECE)).await?;
            let is_zero = match run.content {
                Content::Zero => true,
                Content::Absent => self.backing().is_none(),
                Content::Data(_) | Content::Compressed(..) => false,
            };
            if !is_zero {
                self.write(offset + at, zeros.slice(0..run.len as usize)).await?;
            }
            at += run.len;
        }
        Ok(())
    }

    /// Discards a range, whose content is not needed any more. Afterwards it reads as zeros, or as
    /// before if the image cannot hold zeros without data; never as the backing file again. No zeros are
    /// written for it.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.or_reclaim(async || self.try_discard(offset, len).await).await
    }

    async fn try_discard(&self, offset: u64, len: u64) -> Result<()> {
        let whole = self.lock_whole(offset..offset + len, self.cluster_size()).await;
        let Some((_lock, whole)) = whole else { return Ok(()) };
        match self.format.discard(whole.start, whole.end - whole.start).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// Makes every write to this image that completed before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.format.flush().await
    }

    /// Flushes the image and trims its file. Nothing may be in flight.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.writable.get() { self.format.close().await } else { Ok(()) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A recursive drop of a long chain would overflow the stack.
        let mut next = self.backing.take();
        while let Some(node) = next {
            next = Rc::into_inner(node).and_then(|node| node.backing.take());
        }
    }
}

/// Reads from a backing file and those behind it. A deep chain does not take a deep stack.
async fn read_below(part: Below) -> Result<()> {
    let (mut found, mut readings): (_, Vec<Option<Reading>>) = (Vec::new(), Vec::new());
    let mut left = vec![part];
    let turns = Turns::default();
    let read = |(node, part): (Rc<Node>, Part)| -> LocalFuture<'static, Result<()>> {
        Box::pin(async move { node.read_part(part).await })
    };
    while let Some(Below { node, offset, buf }) = left.pop() {
        readings.push(node.format.reading());
        let mut own = Vec::new();
        let known = node.look_up(offset, buf.clone(), &mut own, &mut left).await?;
        found.extend(own.into_iter().map(|part| (node.clone(), part)));
        if known < buf.len() as u64 {
            left.push(Below { node, offset: offset + known, buf: buf.slice(known as usize..buf.len()) });
        }
        if found.len() >= WINDOW {
            all_of(found.drain(..).map(read)).await?;
            readings.clear();
        }
        turns.step().await;
    }
    all_of(found.into_iter().map(read)).await
}

/// Awaits all parts of a request, some at once, even if one fails: the caller may reuse the buffer
/// afterwards. Returns the first error.
async fn all_of<'a>(mut parts: impl Iterator<Item = LocalFuture<'a, Result<()>>>) -> Result<()> {
    let (first, second) = (parts.next(), parts.next());
    let first = match (first, &second) {
        (Some(only), None) => return only.await,
        (first, _) => first,
    };
    let parts = first.into_iter().chain(second).chain(parts);
    let mut results = futures_util::stream::iter(parts).buffer_unordered(PARTS);
    let mut outcome = Ok(());
    while let Some(result) = results.next().await {
        outcome = outcome.and(result);
    }
    outcome
}
