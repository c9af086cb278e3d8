//! One image of a chain: its format over its storage, and the image behind it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use executor::sync::Semaphore;
use futures_util::StreamExt;

use crate::buf::Pool;
use crate::format::{Format, Kind, Reading, What, qcow2};
use crate::in_use::Use;
use crate::ranges::{RangeGuard, RangeLocks};
use crate::stats::Waits;
use crate::storage::{Lock, Storage};
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

/// Parts of one request in flight at once.
const PARTS: usize = 16;
/// Parts of one read, of one image, that are known at once: a disk in small pieces has any number.
const WINDOW: usize = 256;
/// The largest block of a device in bytes: what a read without bounce buffers is a multiple of.
const LARGEST_BLOCK: u64 = 4096;
/// The most that one allocating write takes at once, in bytes: bounds what others wait for.
const LARGEST_WRITE: u64 = 4 << 20;
/// The most memory that an image's allocating writes hold at once for what lies around them, in bytes; one
/// cluster may be larger. A cluster without subclusters is filled whole, and may have 64 MiB.
const FILLING: u64 = 32 << 20;
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

/// A part of a read, where it lies in an image's own file.
enum Part {
    Plain(u64, Buf),
    Packed(qcow2::compressed::Packed, u64, Buf),
}

/// A part of a read that an image behind is asked for.
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
    /// Locks on clusters that are being allocated, populated, zeroed. A request in place holds none.
    locks: Rc<RangeLocks>,
    /// Bytes of memory for what lies around allocating writes.
    filling: Rc<Semaphore>,
    /// Requests that waited for a job's lock while this was the leaf.
    pub(crate) waits: Waits,
    pub(crate) pool: Pool,
    writable: Cell<bool>,
    /// `None` for whoever only looks at the image, and once the disk is closed. Ends before the storage does.
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

    /// Makes a leaf a backing file: nothing is written any more, and the lock says so. It holds and denies
    /// less than that of a leaf, so nobody can refuse it.
    pub(crate) fn demote(&self) {
        self.writable.set(false);
        if let Some(using) = &*self.using.borrow() {
            using.end_writing();
        }
        if let Err(e) = self.storage.lock(Lock::Backing) {
            executor::limited!(warn, "{}: keeps the lock of an image that is written: {e}", self.name());
        }
    }

    /// Hands the use of the image over, to another node over the same file.
    pub(crate) fn take_use(&self) -> Option<Use> {
        self.using.take()
    }

    /// The disk is closed: others may use the image.
    pub(crate) fn end_use(&self) {
        self.using.take();
    }

    /// Takes what [`Node::take_use`] has taken.
    pub(crate) fn give_use(&self, using: Option<Use>) {
        self.using.replace(using);
    }

    /// The number of images from here on.
    pub(crate) fn depth(&self) -> usize {
        1 + std::iter::successors(self.backing(), |node| node.backing()).count()
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

    /// Finds the parts of a read, [`WINDOW`] of them at most: what lies in this image, and what the image
    /// behind is to be asked for. What reads as zeros is zero then. Returns how many bytes were looked up.
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
            let part = buf.slice(at as usize..(at + run.len) as usize);
            match (run.what, self.backing()) {
                (What::Data(host), _) => own.push(Part::Plain(host, part)),
                (What::Packed(packed, within), _) => own.push(Part::Packed(packed, within, part)),
                (What::Absent, Some(node)) => below.push(Below { node, offset: offset + at, buf: part }),
                (What::Zero | What::Absent, _) => part.zero(),
            }
            at += run.len;
            turns.step().await;
        }
        Ok(len)
    }

    fn read_part(&self, part: Part) -> LocalFuture<'_, Result<()>> {
        match part {
            Part::Plain(host, buf) => self.storage_read(host, buf),
            Part::Packed(packed, within, buf) => Box::pin(self.format.read_packed(packed, within, buf)),
        }
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
        self.or_reclaim(async || self.try_write(offset, &buf).await).await
    }

    /// Does a change, once more where there was no space and clusters were free that had not come back when
    /// it began.
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
        // The old content around the new makes one write of whole units. It may be much larger than the new.
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
        let turns = Turns::default();
        let mut at = 0;
        while at < len {
            turns.step().await;
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

    /// Makes every write that was answered before this call durable, in this image.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.format.flush(&*self.storage).await
    }

    /// What the chain from here on holds at `offset`, found without reading data. `len` bounds the
    /// answer.
    pub async fn map(&self, offset: u64, mut len: u64) -> Result<Run> {
        let mut behind: Option<Rc<Node>> = None;
        let turns = Turns::default();
        let mut depth = 0;
        loop {
            let node = behind.as_deref().unwrap_or(self);
            if offset >= node.size() {
                return Ok(Run { len, data: false, depth, allocated: true });
            }
            let run = node.format.map(offset, len.min(node.size() - offset)).await?;
            let (data, allocated) = match (run.what, node.backing()) {
                (What::Data(host), _) if node.kind() == Kind::Raw => {
                    let extent = node.storage.map(host, run.len).await?;
                    return Ok(Run { len: extent.len, data: extent.data, depth, allocated: true });
                }
                (What::Data(_) | What::Packed(..), _) => (true, true),
                (What::Absent, Some(backing)) => {
                    (len, depth, behind) = (run.len, depth + 1, Some(backing));
                    turns.step().await;
                    continue;
                }
                (what, _) => (false, what == What::Zero),
            };
            return Ok(Run { len: run.len, data, depth, allocated });
        }
    }

    /// Where the data at `offset` lies: the image of the chain that has it, the offset in its storage, and
    /// for how many bytes, `len` at most. `None` where no image has it as plain bytes.
    pub(crate) async fn locate(self: &Rc<Self>, offset: u64, mut len: u64) -> Result<Option<Located>> {
        let mut node = self.clone();
        let turns = Turns::default();
        loop {
            if offset >= node.size() {
                return Ok(None);
            }
            let run = node.format.map(offset, len.min(node.size() - offset)).await?;
            match (run.what, node.backing()) {
                (What::Data(host), _) => {
                    let len = run.len.min(node.storage.len().saturating_sub(host));
                    return Ok(Some(Located { node, host, len }).filter(|found| found.len > 0));
                }
                (What::Absent, Some(backing)) => (len, node) = (run.len, backing),
                _ => return Ok(None),
            }
            turns.step().await;
        }
    }

    /// The first absent range of this image in `range`, no longer than `most`.
    pub(crate) async fn next_absent(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let end = range.end.min(self.size());
        let turns = Turns::default();
        let mut at = range.start;
        let mut found: Option<Range<u64>> = None;
        while at < end {
            turns.step().await;
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

impl Drop for Node {
    fn drop(&mut self) {
        // One after the other: each dropped by the one above, a long chain would take the whole stack.
        let mut next = self.backing.take();
        while let Some(node) = next {
            next = Rc::into_inner(node).and_then(|node| node.backing.take());
        }
    }
}

/// Reads from an image behind the one that was asked, and from those behind it: deeper ones take no deeper
/// stack.
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

/// Awaits the parts of a request, some at once. All of them, even when one fails: the buffer is the caller's
/// again with the answer.
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
