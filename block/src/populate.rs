//! The one primitive of copying: make a range of absent clusters of an image present.
//!
//! Copy-on-read, `block_stream` of a single cluster and the stream job are all this function.

use std::ops::Range;
use std::rc::Rc;

use crate::format::What;
use crate::node::Node;
use crate::storage::Transfer;
use crate::{Buf, Error, ErrorKind, Result};

/// The most that is copied through memory at once, in bytes.
const LARGEST_COPY: u64 = 1 << 20;

/// What a populate did, in bytes.
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

/// Copies what is absent in the clusters of `range` from the backing chain into `leaf`. All of a cluster is
/// looked at: none is zero for what a part of it is.
///
/// The clusters are locked against everything that changes them; what was written by the guest before
/// the lock stays, and what it writes later waits and then wins. Reads go on: what they need lies in
/// the immutable backing.
pub(crate) async fn populate(leaf: &Node, range: Range<u64>) -> Result<Populated> {
    let mut done = Populated::default();
    let Some(backing) = leaf.backing() else { return Ok(done) };
    let cluster = leaf.cluster_size();
    let mut at = range.start - range.start % cluster;
    let end = range.end.next_multiple_of(cluster).min(leaf.size());
    let _lock = leaf.lock_for_job(at..end).await;
    while at < end {
        let run = leaf.format().map(at, end - at).await?;
        if run.what != What::Absent {
            done.skipped += run.len;
            at += run.len;
            continue;
        }
        // What the chain behind says about the start of this run decides how far this step goes.
        let below = backing.map(at, run.len).await.map_err(Error::of_source)?;
        let unit = run.granule.max(leaf.format().zero_unit());
        let stop = at + below.len.min(run.len);
        let aligned = if stop >= leaf.size() { stop } else { stop - stop % unit };
        if !below.data && aligned > at && at.is_multiple_of(unit) {
            zero(leaf, at, aligned - at, &mut done).await?;
            at = aligned;
        } else {
            let stop = stop.next_multiple_of(unit).min(at + run.len).min(end);
            if let Some(n) = offload(leaf, &backing, at..aligned.min(stop), &mut done).await? {
                at += n;
                continue;
            }
            let stop = stop.min((at + LARGEST_COPY).next_multiple_of(unit));
            copy(leaf, &backing, at..stop, run.granule, &mut done).await?;
            at = stop;
        }
    }
    Ok(done)
}

/// Moves whole clusters between host files without a way through our memory: shared where their file
/// system can, else copied by a worker. Answers how much of the start of `range` was moved; `None` where
/// that is not possible here.
async fn offload(
    leaf: &Node,
    backing: &Rc<Node>,
    range: Range<u64>,
    done: &mut Populated,
) -> Result<Option<u64>> {
    let unit = leaf.cluster_size();
    let Some(source) = backing.locate(range.start, range.end.saturating_sub(range.start)).await? else {
        return Ok(None);
    };
    let _reading = source.node.format().reading();
    let len = source.len.min(range.end - range.start);
    let len = len - len % unit;
    let storage = leaf.storage();
    if len == 0 || !range.start.is_multiple_of(unit) || !storage.can_copy_from(&**source.node.storage()) {
        return Ok(None);
    }
    let mut left = leaf.format().reserve(range.start, len).await?;
    let (host, len) = (left.host, left.len);
    let transfer = storage.copy_from(&**source.node.storage(), source.host, host, len, unit).await?;
    let zeros = match transfer {
        // The space goes back; the usual way takes its own.
        None => return Ok(None),
        Some(Transfer::Shared) => {
            done.offloaded += len;
            Vec::new()
        }
        Some(Transfer::Written { zero }) => {
            done.copied += len - zero.iter().map(|zero| zero.end - zero.start).sum::<u64>();
            zero
        }
    };
    for hole in zeros {
        let (start, end) = (range.start + hole.start, range.start + hole.end);
        let data = left.split_front(start - left.offset);
        if data.len > 0 {
            leaf.format().commit(data).await?;
        }
        drop(left.split_front(end - start));
        zero(leaf, start, end - start, done).await?;
    }
    if left.len > 0 {
        leaf.format().commit(left).await?;
    }
    Ok(Some(len))
}

async fn zero(leaf: &Node, offset: u64, len: u64, done: &mut Populated) -> Result<()> {
    match leaf.format().zero(offset, len, true).await {
        // A format without zero clusters, or a part of a cluster that is shared.
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            const PIECE: u64 = 1 << 20;
            let zeros = Buf::new(len.min(PIECE) as usize);
            write(leaf, offset, len, &zeros, done).await
        }
        Ok(()) => {
            done.zero += len;
            Ok(())
        }
        Err(e) => Err(e),
    }
}

async fn write(leaf: &Node, offset: u64, len: u64, zeros: &Buf, done: &mut Populated) -> Result<()> {
    let mut at = 0;
    while at < len {
        let n = (len - at).min(zeros.len() as u64);
        at += write_absent(leaf, offset + at, zeros.slice(0..n as usize)).await?;
    }
    done.copied += len;
    Ok(())
}

async fn write_absent(leaf: &Node, offset: u64, buf: Buf) -> Result<u64> {
    let run = leaf.format().map(offset, buf.len() as u64).await?;
    if run.what != What::Absent {
        // A neighbouring subcluster's copy filled it in together with its own.
        return Ok(run.len);
    }
    leaf.write_new(offset, buf.slice(0..run.len as usize), run.granule).await
}

async fn copy(
    leaf: &Node,
    backing: &Node,
    range: Range<u64>,
    granule: u64,
    done: &mut Populated,
) -> Result<()> {
    let mut buf = leaf.pool.get((range.end - range.start) as usize);
    backing.read(range.start, buf.clone()).await.map_err(Error::of_source)?;
    store(leaf, range.clone(), &mut buf, range.start, granule, done).await?;
    leaf.pool.put(buf);
    Ok(())
}

/// Writes an absent range, whose clusters the caller has locked, from `buf`, which begins at offset
/// `base` of the disk. Units that are all zero are not written.
pub(crate) async fn store(
    leaf: &Node,
    range: Range<u64>,
    buf: &mut Buf,
    base: u64,
    granule: u64,
    done: &mut Populated,
) -> Result<()> {
    let unit = leaf.cluster_size().max(granule);
    let mut pieces: Vec<(Range<u64>, bool)> = Vec::new();
    if let Some(bytes) = buf.bytes_mut() {
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
    } else {
        pieces.push((range, false));
    }
    for (piece, is_zero) in pieces {
        let size = piece.end - piece.start;
        if is_zero && piece.start.is_multiple_of(leaf.format().zero_unit()) {
            zero(leaf, piece.start, size, done).await?;
            continue;
        }
        let mut at = piece.start;
        while at < piece.end {
            let part = buf.slice((at - base) as usize..(piece.end - base) as usize);
            at += write_absent(leaf, at, part).await?;
        }
        done.copied += size;
    }
    Ok(())
}
