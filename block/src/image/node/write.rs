//! Changes of an image: writes in place and into new clusters, zeros, discards.

use std::ops::Range;

use super::Node;
use crate::format::Content;
use crate::storage::ranges::RangeGuard;
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result, pieces};

/// The largest piece of an allocating write, in bytes: bounds the time that others wait for its locks.
const LARGEST_WRITE: u64 = 4 << 20;
/// The largest number of unneeded bytes that is read to save a second read.
const LARGEST_GAP: u64 = 32 << 10;

impl Node {
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
        let turns = Turns::default();
        pieces::zeros(offset..offset + len, async |at, zeros| {
            turns.step().await;
            let run = self.format.map(at, zeros.len() as u64).await?;
            let is_zero = match run.content {
                Content::Zero => true,
                Content::Absent => self.backing().is_none(),
                Content::Data(_) | Content::Compressed(..) => false,
            };
            if !is_zero {
                self.write(at, zeros.slice(0..run.len as usize)).await?;
            }
            Ok(run.len)
        })
        .await
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
}
