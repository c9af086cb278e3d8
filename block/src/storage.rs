//! The only door to the world: a named, flat run of bytes.
//!
//! Nothing above this trait sees a file descriptor, and everything in it exists in the simulator
//! ([`crate::sim`]) too.

use std::ops::Range;

use async_trait::async_trait;

use crate::{Buf, Error, ErrorKind, Result};

pub(crate) mod bytes;
pub mod file;
pub mod nbd;

/// A run of bytes that is all data, or all hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// `false`: a hole, which reads as zeros and holds no space.
    pub data: bool,
}

/// How a range came to hold what another storage has.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// Both share the blocks.
    Shared,
    /// The bytes were written, but for these ranges, relative to its start and in order, which are zero.
    Written {
        /// Multiples of the caller's unit.
        zero: Vec<Range<u64>>,
    },
    /// Only the first `len` bytes were written so; then this failed.
    Stopped {
        /// In bytes, less than was asked for.
        len: u64,
        /// As above.
        zero: Vec<Range<u64>>,
        /// Marked where it is the source's.
        error: Error,
    },
}

/// Tells one storage object from another: the same file has the same identity by whatever name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The device that holds it.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What a user of an image holds and what it denies to others, as QEMU's image locks say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Nothing.
    None,
    /// Whoever only looks at a file that others may be writing: reads, and denies nothing.
    Look,
    /// A backing file: reads, and denies others to write and resize.
    Backing,
    /// A leaf: reads, writes and resizes, and denies others to write and resize.
    Leaf,
}

/// A file, a block device, memory, a network export or a simulated device.
///
/// Offsets and lengths are in bytes. The caller bounds them by what the image's format says; an
/// implementer may rely on `offset + len` not to overflow. Any number of operations may be in flight;
/// overlapping ones have no order. A dropped future abandons the result, not the operation: its
/// buffer stays alive until the operation has ended.
#[async_trait(?Send)]
pub trait Storage {
    /// The name by which people know it, for messages: a file's path.
    fn name(&self) -> &str;

    /// Its length as its user knows it. What failed may have left more behind that, which reads as anything
    /// until [`Storage::truncate`] sets the length.
    fn len(&self) -> u64;

    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the whole of `buf`; what lies past the end reads as zeros.
    async fn read(&self, offset: u64, buf: Buf) -> Result<()>;

    /// Writes the whole of `buf`, growing the storage where needed and possible.
    async fn write(&self, offset: u64, buf: Buf) -> Result<()>;

    /// Makes every write that completed before this call durable (fdatasync). Once it has failed it
    /// fails for ever: nobody knows then which writes were lost.
    async fn sync(&self) -> Result<()>;

    /// Whether its length is not ours to change: a block device, an NBD export.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Whether asking for space ahead of its use is worth it.
    fn gains_from_space_ahead(&self) -> bool {
        true
    }

    /// Sets the length. What is fixed takes any that it has room for, and stays as it is.
    async fn truncate(&self, len: u64) -> Result<()>;

    /// Asks for space for a range, whose unwritten bytes read as zeros; grows the length to its end.
    /// `Unsupported` where the storage cannot; the caller goes on without.
    async fn allocate(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes a range read as zeros and gives its space back where possible. The length stays.
    async fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes a range read as zeros and keeps its space, or takes it, where the storage can. The length stays.
    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len).await
    }

    /// Gives the space of a range back if that takes no writing. What is given back reads as zeros, the rest
    /// as before; only of an NBD export its server decides. The length stays. `Unsupported` if the storage
    /// cannot.
    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Error::new(ErrorKind::Unsupported, format!("{}: space cannot be given back", self.name())))
    }

    /// As [`Storage::unmap`], of what nobody refers to: the range holds anything afterwards.
    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.unmap(offset, len).await
    }

    /// The run of one kind at `offset`, no longer than `len`. Past the end all is hole. Where the
    /// storage does not know, all is data.
    async fn map(&self, offset: u64, len: u64) -> Result<Extent>;

    /// Makes a range hold what `source` has without a way through the caller's memory. `None` where that
    /// is not possible: the target range holds anything then, and the caller copies by itself. The range
    /// lies inside of `source`; whole multiples of `unit` bytes from its start on that are all zero may be
    /// left out, and hold anything then.
    async fn copy_from(
        &self,
        source: &dyn Storage,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        let _ = (source, from, to, len, unit);
        Ok(None)
    }

    /// Whether [`Storage::copy_from`] is worth a trial.
    fn can_copy_from(&self, source: &dyn Storage) -> bool {
        let _ = source;
        false
    }

    /// Itself, for an implementer that knows how to copy from its own kind.
    fn as_any(&self) -> &dyn std::any::Any;

    /// Changes the locks held to exactly `lock`.
    ///
    /// # Errors
    /// `Locked` where another process denies it; what was held before is then still held.
    fn lock(&self, lock: Lock) -> Result<()>;

    /// How many bytes of its host's storage it takes, where that can be known.
    fn space(&self) -> Option<u64> {
        None
    }

    /// Takes the locks of `lock`, and lets `before`, the same object opened another time, hold none:
    /// in between, others see one or the other.
    ///
    /// # Errors
    /// `Locked` where another process denies it; what `before` held is then still held.
    fn lock_after(&self, before: &dyn Storage, lock: Lock) -> Result<()> {
        before.lock(lock)?;
        self.lock(lock)?;
        before.lock(Lock::None)
    }

    /// Which object this is, where that can be known.
    fn identity(&self) -> Option<Identity>;

    /// Makes the name itself durable: syncs the directory that holds the file.
    async fn sync_name(&self) -> Result<()>;
}
