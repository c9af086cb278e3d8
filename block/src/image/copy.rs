//! The primitive of copying: makes absent clusters of an image present.
//!
//! `block_stream` of a single cluster and the stream job call [`populate`]; copy-on-read stores what it
//! has read with [`store`].

use std::ops::Range;
use std::rc::Rc;

use futures_util::future::join_all;

use crate::format::Content;
use crate::image::node::Node;
use crate::storage::Transfer;
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result, pieces};

/// The largest copy through memory, in bytes.
const LARGEST_COPY: u64 = 1 << 20;
/// Runs of data and holes shorter than this, in bytes, are copied together with their neighbours.
const SMALL: u64 = 64 << 10;
/// The number of runs behind a small one that are looked up to find the end of what is copied together.
const NEIGHBOURS: usize = 4;
/// The smallest run of zeros, in bytes, that becomes a hole in a copy to an image that allocates nothing.
const ZEROS: u64 = 4096;
/// The largest read of a copy, in bytes, and so the range that a failed read leaves out. As in QEMU's stream.
pub(crate) const LARGEST_READ: u64 = 512 << 10;

/// The result of a populate, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Populated {
    /// Copied as data.
    pub copied: u64,
    /// Made zero without data.
    pub zero: u64,
    /// Shared between files by their file system.
    pub offloaded: u64,
    /// Present already.
    pub skipped: u64,
}

impl std::ops::AddAssign for Populated {
    fn add_assign(&mut self, other: Self) {
        self.copied += other.copied;
        self.zero += other.zero;
        self.offloaded += other.offloaded;
        self.skipped += other.skipped;
    }
}

/// A populate that failed.
pub(crate) struct Stopped {
    /// The work completed before the error.
    pub done: Populated,
    /// The offset on the disk at which the failed part begins: everything before it is present.
    pub at: u64,
    pub error: Error,
}

/// Copies the absent ranges in the clusters of `range` from the backing chain into `leaf`. Always
/// examines whole clusters, so that none is taken for zero because a part of it is.
///
/// The clusters are locked against all changes: what the guest wrote before the lock stays, and what it
/// writes later waits and then overwrites the copy. Reads continue, since they only need the immutable
/// backing chain.
pub(crate) async fn populate(leaf: &Node, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
    let before = leaf.format().given_back();
    let stopped = match populate_once(leaf, range.clone()).await {
        Err(stopped) if stopped.error.kind() == ErrorKind::NoSpace => stopped,
        other => return other,
    };
    if !leaf.format().reclaim(before).await {
        return Err(stopped);
    }
    let mut done = stopped.done;
    match populate_once(leaf, stopped.at..range.end).await {
        Ok(more) => {
            done += more;
            Ok(done)
        }
        Err(again) => {
            done += again.done;
            Err(Stopped { done, ..again })
        }
    }
}

async fn populate_once(leaf: &Node, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
    let mut done = Populated::default();
    let Some(backing) = leaf.backing() else { return Ok(done) };
    let cluster = leaf.cluster_size();
    let mut at = range.start - range.start % cluster;
    let end = range.end.next_multiple_of(cluster).min(leaf.size());
    let _lock = leaf.lock_for_job(at..end).await;
    match steps(leaf, &backing, &mut at, end, &mut done).await {
        Ok(()) => Ok(done),
        Err(error) => Err(Stopped { done, at, error }),
    }
}

/// Copies what `source` and its chain hold in `range` to `target`, whatever that holds. Zeros become
/// holes there if the target can have them. The caller must keep other writes to the range away.
pub(crate) async fn copy_over(
    source: &Node,
    target: &Node,
    range: Range<u64>,
) -> std::result::Result<Populated, Stopped> {
    let mut done = Populated::default();
    let mut at = range.start;
    match steps_over(source, target, &mut at, range.end, &mut done).await {
        Ok(()) => Ok(done),
        Err(error) => Err(Stopped { done, at, error }),
    }
}

async fn steps_over(
    source: &Node,
    target: &Node,
    at: &mut u64,
    end: u64,
    done: &mut Populated,
) -> Result<()> {
    let turns = Turns::default();
    while *at < end {
        turns.step().await;
        let start = *at;
        let run = source.map(start, end - start).await.map_err(Error::of_source)?;
        // Small pieces are copied together with their neighbours.
        let is_small = run.len < SMALL.min(end - start);
        if !run.data && !is_small {
            zero_over(target, start..start + run.len, done).await?;
            *at += run.len;
            continue;
        }
        let len = if is_small { together(source, start, run.len, end - start).await? } else { run.len };
        let stop = (start + len).min(start + LARGEST_COPY);
        let mut buf = source.pool.get((stop - start) as usize);
        source.read(start, buf.clone()).await.map_err(Error::of_source)?;
        for (piece, is_zero) in pieces(&mut buf, start, start..stop, target.cluster_size().max(ZEROS)) {
            let end = piece.end;
            if is_zero {
                zero_over(target, piece, done).await?;
            } else {
                let part = buf.slice((piece.start - start) as usize..(piece.end - start) as usize);
                target.write(piece.start, part).await?;
                done.copied += piece.end - piece.start;
            }
            *at = end;
        }
        source.pool.put(buf);
    }
    Ok(())
}

/// Returns how many bytes from `at` on, at most `most`, are copied together: a small run of `first` bytes and
/// its neighbours, up to a long hole. Looks at a few of them only, since looking up many takes longer than
/// reading them.
async fn together(source: &Node, at: u64, first: u64, most: u64) -> Result<u64> {
    let mut len = first;
    for _ in 0..NEIGHBOURS {
        if len >= most {
            break;
        }
        let next = source.map(at + len, most - len).await.map_err(Error::of_source)?;
        if !next.data && next.len >= SMALL {
            return Ok(len);
        }
        len += next.len;
    }
    Ok(most)
}

/// Makes a range of `target` read as zeros, if it does not yet.
async fn zero_over(target: &Node, range: Range<u64>, done: &mut Populated) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let run = target.map(at, range.end - at).await?;
        // What it reads from its backing file may just be on the way into the image, with a neighbour that is
        // written.
        let reads_through = target.backing().is_some() && !(run.depth == 0 && run.allocated);
        if run.data || reads_through {
            target.write_zeroes(at, run.len, true).await?;
        }
        at += run.len;
    }
    done.zero += range.end - range.start;
    Ok(())
}

/// Populates from `at` to `end`, which must be locked, and advances `at`.
async fn steps(leaf: &Node, backing: &Rc<Node>, at: &mut u64, end: u64, done: &mut Populated) -> Result<()> {
    let turns = Turns::default();
    while *at < end {
        turns.step().await;
        let start = *at;
        let run = leaf.format().map(start, end - start).await?;
        if run.content != Content::Absent {
            done.skipped += run.len;
            *at += run.len;
            continue;
        }
        // The backing chain's run at the start of this one decides how far this step goes. Small pieces
        // are copied together with their neighbours: looking up, allocating and writing each of them
        // takes longer than copying all at once.
        let below = backing.map(start, run.len).await.map_err(Error::of_source)?;
        let (len, data) = match below.len < SMALL.min(run.len) {
            true => (together(backing, start, below.len, run.len.min(LARGEST_COPY)).await?, true),
            false => (below.len.min(run.len), below.data),
        };
        let unit = run.granule.max(leaf.format().zero_unit());
        let stop = start + len;
        let aligned = if stop >= leaf.size() { stop } else { stop - stop % unit };
        if !data && aligned > start && start.is_multiple_of(unit) {
            zero(leaf, start, aligned - start, done).await?;
            *at = aligned;
        } else {
            let stop = stop.next_multiple_of(unit).min(start + run.len).min(end);
            if offload(leaf, backing, at, aligned.min(stop), done).await? {
                continue;
            }
            let stop = stop.min((start + LARGEST_COPY).next_multiple_of(unit));
            copy(leaf, backing, at, stop, run.granule, done).await?;
        }
    }
    Ok(())
}

/// Copies whole clusters from `at` on between host files without passing the disk's thread: the file
/// system shares them if it can, else a worker copies them. Returns false if that is not possible here.
async fn offload(
    leaf: &Node,
    backing: &Rc<Node>,
    at: &mut u64,
    end: u64,
    done: &mut Populated,
) -> Result<bool> {
    let unit = leaf.cluster_size();
    let range = *at..end.max(*at);
    let source = backing.locate(range.start, range.end - range.start).await.map_err(Error::of_source)?;
    let Some(source) = source else { return Ok(false) };
    let _reading = source.node.format().reading();
    let len = source.len.min(range.end - range.start);
    let len = len - len % unit;
    let storage = leaf.storage();
    if len == 0 || !range.start.is_multiple_of(unit) || !storage.can_copy_from(&**source.node.storage()) {
        return Ok(false);
    }
    let mut left = leaf.format().reserve(range.start, len).await?;
    let (host, len) = (left.host, left.len);
    let transfer = match storage.copy_from(&**source.node.storage(), source.host, host, len, unit).await? {
        Some(transfer) => transfer,
        // Copies into the reserved space, which would otherwise be freed.
        None => copy_to(leaf, backing, range.start..range.start + len, host).await?,
    };
    let (zeros, failed) = match &transfer {
        Transfer::Shared => (Vec::new(), None),
        Transfer::Written { zero } => (zero.clone(), None),
        // The space reserved for the rest is freed.
        Transfer::Stopped { len, zero, error } => {
            left = left.split_front(len - len % unit);
            (zero.clone(), Some(error.clone()))
        }
    };
    let shared = matches!(transfer, Transfer::Shared);
    let count = |done: &mut Populated, len| if shared { done.offloaded += len } else { done.copied += len };
    let moved = range.start..range.start + left.len;
    for hole in zeros {
        let (start, end) = (range.start + hole.start, (range.start + hole.end).min(moved.end));
        if start >= end {
            break;
        }
        if leaf.format().keeps_space() {
            let (start, end) = (host + start - range.start, host + end - range.start);
            storage.punch(start, end - start).await?;
            if end > storage.len() {
                // The file must contain the whole range.
                const LAST: u64 = 512;
                storage.write(end - LAST, Buf::new(LAST as usize)).await?;
            }
            continue;
        }
        let data = left.split_front(start - left.offset);
        if data.len > 0 {
            count(done, data.len);
            leaf.format().commit(data).await?;
            *at = start;
        }
        drop(left.split_front(end - start));
        zero(leaf, start, end - start, done).await?;
        *at = end;
    }
    if left.len > 0 {
        count(done, left.len);
        leaf.format().commit(left).await?;
    }
    *at = moved.end;
    failed.map_or(Ok(true), Err)
}

/// Copies whole clusters from the backing chain to `host` in the leaf's storage, like
/// [`crate::storage::Storage::copy_from`].
async fn copy_to(leaf: &Node, backing: &Node, range: Range<u64>, host: u64) -> Result<Transfer> {
    let unit = leaf.cluster_size();
    let mut zeros: Vec<Range<u64>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let stop = (at + LARGEST_READ.next_multiple_of(unit)).min(range.end);
        let mut buf = leaf.pool.get((stop - at) as usize);
        if let Err(error) = backing.read(at, buf.clone()).await {
            let len = at - range.start;
            return Ok(Transfer::Stopped { len, zero: zeros, error: error.of_source() });
        }
        for (piece, is_zero) in pieces(&mut buf, at, at..stop, unit) {
            let start = piece.start - range.start;
            if !is_zero {
                let part = buf.slice((piece.start - at) as usize..(piece.end - at) as usize);
                leaf.storage().write(host + start, part).await?;
                continue;
            }
            let end = piece.end - range.start;
            match zeros.last_mut().filter(|last| last.end == start) {
                Some(last) => last.end = end,
                None => zeros.push(start..end),
            }
        }
        leaf.pool.put(buf);
        at = stop;
    }
    Ok(Transfer::Written { zero: zeros })
}

/// Splits `range` into pieces in which either all units are zero or none is, and returns true with those
/// that are zero. `buf` begins at offset `base` of the disk.
fn pieces(buf: &mut Buf, base: u64, range: Range<u64>, unit: u64) -> Vec<(Range<u64>, bool)> {
    let mut pieces: Vec<(Range<u64>, bool)> = Vec::new();
    let Some(bytes) = buf.bytes_mut() else { return vec![(range, false)] };
    let mut at = range.start;
    while at < range.end {
        let stop = (at - at % unit + unit).min(range.end);
        let is_zero = crate::buf::is_zero(&bytes[(at - base) as usize..(stop - base) as usize]);
        match pieces.last_mut() {
            Some((piece, zero)) if *zero == is_zero => piece.end = stop,
            _ => pieces.push((at..stop, is_zero)),
        }
        at = stop;
    }
    pieces
}

async fn zero(leaf: &Node, offset: u64, len: u64, done: &mut Populated) -> Result<()> {
    // Without `unmap`: the image keeps space that it was created with.
    match leaf.format().zero(offset, len, false).await {
        // The format has no zero clusters, or a part of a shared cluster was to be zeroed.
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            pieces::zeros(offset..offset + len, async |at, zeros| write_absent(leaf, at, zeros).await)
                .await?;
            done.copied += len;
            Ok(())
        }
        Ok(()) => {
            done.zero += len;
            Ok(())
        }
        Err(e) => Err(e),
    }
}

async fn write_absent(leaf: &Node, offset: u64, buf: Buf) -> Result<u64> {
    let run = leaf.format().map(offset, buf.len() as u64).await?;
    if run.content != Content::Absent {
        // The copy of a neighbouring subcluster has filled this one, too.
        return Ok(run.len);
    }
    leaf.write_new(offset, buf.slice(0..run.len as usize), run.granule).await
}

/// Copies from `at` to `end` through memory. If a part cannot be read, what was read before it is stored.
async fn copy(
    leaf: &Node,
    backing: &Node,
    at: &mut u64,
    end: u64,
    granule: u64,
    done: &mut Populated,
) -> Result<()> {
    let start = *at;
    let mut buf = leaf.pool.get((end - start) as usize);
    let unit = LARGEST_READ.next_multiple_of(leaf.cluster_size().max(granule));
    let read = if end - start <= unit - start % unit {
        backing.read(start, buf.clone()).await.map(|()| end).map_err(|e| (start, e))
    } else {
        let starts = std::iter::successors(Some(start), |at| Some(at - at % unit + unit));
        let parts = starts.take_while(|at| *at < end).map(|from| {
            let to = (from - from % unit + unit).min(end);
            let part = buf.slice((from - start) as usize..(to - start) as usize);
            async move { backing.read(from, part).await.map_err(|e| (from, e)) }
        });
        // Awaits all of them, even if one fails: the buffer is reused.
        join_all(parts).await.into_iter().collect::<std::result::Result<Vec<()>, _>>().map(|_| end)
    };
    let whole = match &read {
        Ok(end) => start..*end,
        Err((failed, _)) => start..*failed,
    };
    if !whole.is_empty() {
        store(leaf, whole, &mut buf, start, granule, at, done).await?;
    }
    leaf.pool.put(buf);
    read.map(drop).map_err(|(_, error)| error.of_source())
}

/// Writes an absent range, whose clusters the caller must have locked, from `buf`, which begins at offset
/// `base` of the disk. Units that are all zero become zero clusters if possible. Advances `done_to`.
pub(crate) async fn store(
    leaf: &Node,
    range: Range<u64>,
    buf: &mut Buf,
    base: u64,
    granule: u64,
    done_to: &mut u64,
    done: &mut Populated,
) -> Result<()> {
    let unit = leaf.cluster_size().max(granule);
    for (piece, is_zero) in pieces(buf, base, range, unit) {
        let size = piece.end - piece.start;
        if is_zero && piece.start.is_multiple_of(leaf.format().zero_unit()) {
            zero(leaf, piece.start, size, done).await?;
            *done_to = piece.end;
            continue;
        }
        let mut at = piece.start;
        while at < piece.end {
            let part = buf.slice((at - base) as usize..(piece.end - base) as usize);
            at += write_absent(leaf, at, part).await?;
            *done_to = at;
        }
        done.copied += size;
    }
    Ok(())
}
