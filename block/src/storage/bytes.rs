//! Access by bytes to storage that takes only whole blocks, and the length of such a file.
//!
//! O_DIRECT, and some NBD servers, take only offsets and lengths that are multiples of a block. Everything
//! else goes through bounce buffers, in pieces of bounded size: the blocks that a write begins or ends in
//! are read first, and written back with the new bytes in them. So two neighbouring writes may change one
//! block, and whoever changes bytes holds a lock on them until they are changed.
//!
//! The block that a file ends in reaches past that end. Writing it makes the file longer than anybody
//! asked for; the excess is zeros, and shorter than a block. **Only [`Bytes::trim`] and
//! [`Bytes::truncate`] cut a file.** Whoever is at work past the end holds a lock there, and a cut holds
//! the locks of everything from the new end on. So it never removes bytes that others put there and that
//! are not part of the known length until those have finished. `trim` gives up if anybody is at work
//! there; the next sync tries again.
//!
//! Files, NBD exports and the simulator all use this module.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use executor::sync::Semaphore;

use crate::pieces::{self, all_of};
use crate::storage::ranges::{RangeGuard, RangeLocks};
use crate::{Buf, Result};

/// The largest bounce buffer in bytes, unless one block is larger: a power of two.
const PIECE: u64 = 512 << 10;
/// Bounce buffers of one request in flight at once.
const PIECES: usize = 4;
/// The most memory that the bounce buffers of one storage take together, in bytes; further requests wait.
const BOUNCED: u64 = 16 << 20;
/// The range that an operation locks while it may move the end of a file without changing existing bytes.
const END: Range<u64> = u64::MAX - 1..u64::MAX;

/// Storage that takes only whole blocks: offsets, lengths and, if required, memory addresses are multiples
/// of its unit.
pub(crate) trait Blocks {
    /// Reads the whole of `buf`; bytes past the end read as zeros.
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()>;

    /// Writes the whole of `buf`.
    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()>;

    /// Makes a range read as zeros without writing them. With `unmap` its space is given back, otherwise
    /// it is kept or allocated. Returns false if the storage cannot do this; the range then holds old
    /// content or zeros.
    async fn clear_blocks(&self, offset: u64, len: u64, unmap: bool) -> Result<bool>;

    /// Sets the length.
    async fn set_end(&self, len: u64) -> Result<()>;
}

/// The bytes of one open [`Blocks`].
pub(crate) struct Bytes {
    /// The block size in bytes, a power of two. With 1, nothing has to be aligned, and reads and writes
    /// take no locks.
    unit: u64,
    /// True if memory must be aligned too.
    memory: bool,
    /// True if the length cannot change, as with a device or an export.
    fixed: bool,
    /// The length that was asked for, in bytes.
    len: Cell<u64>,
    /// The length in bytes that the file may really have: writes and failures may have left more than
    /// `len`.
    reached: Cell<u64>,
    /// True if somebody else may change the file by now, so that this opening no longer knows its end.
    resigned: Cell<bool>,
    locks: Rc<RangeLocks>,
    bounced: Rc<Semaphore>,
}

impl Bytes {
    /// Storage of `len` bytes.
    pub(crate) fn new(unit: u64, memory: bool, fixed: bool, len: u64) -> Self {
        Bytes {
            unit,
            memory,
            fixed,
            len: Cell::new(len),
            reached: Cell::new(len),
            resigned: Cell::new(false),
            locks: RangeLocks::new(),
            bounced: Semaphore::new(BOUNCED),
        }
    }

    /// The length in bytes, without an excess that only the kernel knows.
    pub(crate) fn len(&self) -> u64 {
        self.len.get()
    }

    /// The unit in bytes of which offsets, lengths and memory must be multiples to need no bounce buffer.
    pub(crate) fn unit(&self) -> u64 {
        self.unit
    }

    /// Sets the length that the storage was found to have.
    pub(crate) fn measured(&self, len: u64) {
        self.len.set(len);
        self.reached.set(len);
    }

    /// Notes that the file has at least this length by now: a caller with a lock there asked for it.
    pub(crate) fn grown(&self, end: u64) {
        if !self.fixed {
            self.len.set(self.len.get().max(end));
            self.reach(end);
        }
    }

    /// Notes that the file may have this length.
    pub(crate) fn reach(&self, end: u64) {
        // With a unit of 1 nobody takes locks, so nobody may cut.
        if self.unit > 1 {
            self.reached.set(self.reached.get().max(end));
        }
    }

    /// Sets whether this opening (`owner`), or nobody through it any more, may cut the file.
    pub(crate) fn set_owner(&self, owner: bool) {
        self.resigned.set(!owner);
        self.reached.set(self.len.get());
    }

    fn is_aligned(&self, offset: u64, buf: &Buf) -> bool {
        self.unit == 1
            || (offset | buf.len() as u64).is_multiple_of(self.unit)
                && (!self.memory || buf.is_aligned(self.unit as usize))
    }

    /// Locks a range while its bytes are changed by other means: no write changes its blocks meanwhile.
    pub(crate) async fn hold(&self, offset: u64, len: u64) -> Option<RangeGuard> {
        if self.unit == 1 { None } else { Some(self.locks.lock(offset..offset + len).await) }
    }

    /// Prevents cuts of the file while space past its end is allocated.
    pub(crate) async fn hold_end(&self) -> RangeGuard {
        self.locks.lock(END).await
    }

    /// Splits the blocks of a range into pieces. Returns each piece with the part of it that belongs to
    /// the range.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Range<u64>)> + use<> {
        let blocks = self.blocks(&range);
        let step = PIECE.max(self.unit);
        blocks.clone().step_by(step as usize).map(move |at| {
            let piece = at..blocks.end.min(at + step);
            let part = piece.start.max(range.start)..piece.end.min(range.end);
            (piece, part)
        })
    }

    /// The range widened to whole blocks; empty if the range is empty.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start - range.start % self.unit;
        if range.is_empty() { start..start } else { start..range.end.next_multiple_of(self.unit) }
    }

    /// Reads the whole of `buf`; bytes past the end read as zeros.
    pub(crate) async fn read(&self, storage: &impl Blocks, offset: u64, buf: &Buf) -> Result<()> {
        if self.is_aligned(offset, buf) {
            return storage.read_blocks(offset, buf).await;
        }
        let pieces = self.pieces(offset..offset + buf.len() as u64);
        all_of(
            pieces.map(async |(piece, part)| {
                let _bounced = self.bounced.acquire(len(&piece) as u64).await;
                let bounce = Buf::new(len(&piece));
                storage.read_blocks(piece.start, &bounce).await?;
                buf.slice(within(&part, offset)).copy_from_buf(&bounce.slice(within(&part, piece.start)));
                Ok(())
            }),
            PIECES,
        )
        .await
    }

    /// Writes the whole of `buf`, and makes the storage longer if needed and possible.
    pub(crate) async fn write(&self, storage: &impl Blocks, offset: u64, buf: &Buf) -> Result<()> {
        let range = offset..offset + buf.len() as u64;
        if self.unit == 1 {
            storage.write_blocks(offset, buf).await?;
            self.grown(range.end);
            return Ok(());
        }
        let blocks = self.blocks(&range);
        let _lock = self.locks.lock(blocks.clone()).await;
        // The file may become this long even if the write fails.
        self.reach(blocks.end);
        if self.is_aligned(offset, buf) {
            storage.write_blocks(offset, buf).await?;
        } else {
            all_of(
                self.pieces(range.clone()).map(async |(piece, part)| {
                    let _bounced = self.bounced.acquire(len(&piece) as u64).await;
                    let bounce = Buf::new(len(&piece));
                    self.read_around(storage, &piece, &part, &bounce).await?;
                    bounce.slice(within(&part, piece.start)).copy_from_buf(&buf.slice(within(&part, offset)));
                    storage.write_blocks(piece.start, &bounce).await
                }),
                PIECES,
            )
            .await?;
        }
        self.grown(range.end);
        Ok(())
    }

    /// Reads the blocks of `piece` that `part` does not cover completely: its first and its last one.
    async fn read_around(
        &self,
        storage: &impl Blocks,
        piece: &Range<u64>,
        part: &Range<u64>,
        bounce: &Buf,
    ) -> Result<()> {
        let last = piece.end - self.unit;
        let starts_inside = part.start > piece.start;
        if starts_inside || part.end < piece.end && last == piece.start {
            let first = piece.start..piece.start + self.unit;
            storage.read_blocks(first.start, &bounce.slice(within(&first, piece.start))).await?;
        }
        if part.end < piece.end && last > piece.start {
            storage.read_blocks(last, &bounce.slice(within(&(last..piece.end), piece.start))).await?;
        }
        Ok(())
    }

    /// Makes a range read as zeros: whole units of `unit` bytes by [`Blocks::clear_blocks`], and the rest,
    /// or everything if the storage cannot do that, by writing zeros. The length does not change.
    pub(crate) async fn clear(
        &self,
        storage: &impl Blocks,
        range: Range<u64>,
        unmap: bool,
        unit: u64,
    ) -> Result<()> {
        let inner = range.start.next_multiple_of(unit)..range.end - range.end % unit;
        if inner.start >= inner.end {
            return self.write_zeros(storage, range).await;
        }
        self.write_zeros(storage, range.start..inner.start).await?;
        self.write_zeros(storage, inner.end..range.end).await?;
        let cleared = {
            let _lock = self.hold(inner.start, inner.end - inner.start).await;
            storage.clear_blocks(inner.start, inner.end - inner.start, unmap).await?
        };
        if cleared { Ok(()) } else { self.write_zeros(storage, inner).await }
    }

    async fn write_zeros(&self, storage: &impl Blocks, range: Range<u64>) -> Result<()> {
        // Everything past the end reads as zeros already.
        let end = range.end.min(self.len.get());
        if range.start >= end {
            return Ok(());
        }
        pieces::zeros(range.start..end, async |at, zeros| {
            self.write(storage, at, &zeros).await.map(|()| zeros.len() as u64)
        })
        .await
    }

    /// Waits until nobody is at work past the old or the new end, then sets the length.
    pub(crate) async fn truncate(&self, storage: &impl Blocks, len: u64) -> Result<()> {
        let _lock = self.locks.lock(len.min(self.len.get())..u64::MAX).await;
        storage.set_end(len).await?;
        self.len.set(len);
        self.reached.set(len);
        Ok(())
    }

    /// The length to cut the file to, if it may be longer.
    pub(crate) fn excess(&self) -> Option<u64> {
        let len = self.len.get();
        (self.reached.get() > len && !self.fixed && !self.resigned.get()).then_some(len)
    }

    /// Cuts off the excess that nobody asked for, unless somebody is at work there.
    pub(crate) async fn trim(&self, storage: &impl Blocks) -> Result<()> {
        if let Some(len) = self.excess()
            && let Some(_lock) = self.locks.try_lock(len..u64::MAX)
        {
            storage.set_end(len).await?;
            self.reached.set(len);
        }
        Ok(())
    }
}

fn len(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

/// A range relative to `start`.
fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    (range.start - start) as usize..(range.end - start) as usize
}

#[cfg(test)]
#[path = "bytes_tests.rs"]
mod tests;
