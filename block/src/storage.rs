//! Storage: named, flat sequences of bytes, through which the block layer does all of its I/O.
//!
//! A [`Source`] can be read, which is all that a backing file needs; a [`Storage`] can also be written, and
//! refuses that unless its implementer says otherwise. Nothing above them sees a file descriptor, and the
//! simulator ([`crate::sim`]) implements them too. [`HostOpener`] turns names into storage by the table of
//! protocols (`name.rs`), in which each protocol has one line.

use std::any::Any;
use std::ops::Range;

use async_trait::async_trait;

use crate::{Buf, Error, ErrorKind, Result, pieces};

pub(crate) mod bytes;
pub(crate) mod changes;
mod file;
pub mod host;
pub(crate) mod in_use;
pub(crate) mod name;
mod nbd;
mod null;
mod opener;
pub(crate) mod protocol;
pub mod ranges;

pub use name::{is_uri, of_file, outside};
pub use opener::Opener;
pub use protocol::HostOpener;

/// A run of bytes that is all data or all hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// `false`: a hole, which reads as zeros and holds no space.
    pub data: bool,
}

/// The way in which [`Storage::copy_from`] filled a range.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// Both share the blocks.
    Shared,
    /// The bytes were written, except for ranges that are all zero in the source and were left out.
    Written {
        /// The ranges left out: in order, relative to the start of the copy, in multiples of the caller's
        /// unit.
        zero: Vec<Range<u64>>,
    },
    /// Only the first `len` bytes were copied, as in `Written`; then an error occurred.
    Stopped {
        /// The length copied, in bytes; less than was asked for.
        len: u64,
        /// The ranges left out, as in `Written`; they may reach past `len`.
        zero: Vec<Range<u64>>,
        /// The error, marked as the source's if reading failed.
        error: Error,
    },
}

/// Identifies a storage object: a file has the same identity under all its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Number of the device that holds it, or of the block device itself.
    pub device: u64,
    /// Number of the object on that device.
    pub inode: u64,
}

/// The permissions on an image that its user holds and denies to others, as in QEMU's image locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// Holds and denies nothing.
    None,
    /// For inspecting a file that others may be writing: reads, and denies nothing.
    Look,
    /// For a backing file: reads, and denies writing and resizing to others.
    Backing,
    /// For a leaf: reads, writes and resizes, and denies writing and resizing to others.
    Leaf,
}

/// A sequence of bytes that can be read: all that a backing file needs.
///
/// Offsets and lengths are in bytes. The caller keeps them within what the image's format allows; an
/// implementer may rely on `offset + len` not overflowing. Any number of operations may be in flight;
/// overlapping ones have no order. A dropped future abandons the result, not the operation: its buffer
/// stays alive until the operation has ended.
#[async_trait(?Send)]
pub trait Source {
    /// The name to show in messages: a file's path, or a URI.
    fn name(&self) -> &str;

    /// The length in bytes, as the storage's user knows it. A failed operation may have left bytes past
    /// this end; their content is undefined until [`Storage::truncate`] sets the length.
    fn len(&self) -> u64;

    /// Returns true if the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the whole of `buf`; bytes past the end read as zeros.
    async fn read(&self, offset: u64, buf: Buf) -> Result<()>;

    /// Returns the extent at `offset`, at most `len` bytes long. Everything past the end is a hole.
    /// Storage that cannot tell reports data.
    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(match self.len().saturating_sub(offset) {
            0 => Extent { len, data: false },
            inside => Extent { len: len.min(inside), data: true },
        })
    }

    /// Returns true if we cannot change the length, as with a block device or an NBD export.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Returns the space that it takes on its host's storage, in bytes, if that can be known.
    fn space(&self) -> Option<u64> {
        None
    }

    /// Returns the identity of this object, if it can be known. Two names of one object must have the same,
    /// or a chain could be a loop.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Returns the object itself, for a target of the same type whose [`Storage::copy_from`] can copy from
    /// it on the host. A decorator returns that of the storage that it decorates.
    fn copied_as(&self) -> Option<&dyn Any> {
        None
    }

    /// Changes the locks held to exactly `lock`. Storage without locks accepts any.
    ///
    /// # Errors
    /// `Locked` if another process denies it; the locks held before are then still held.
    fn lock(&self, lock: Lock) -> Result<()> {
        let _ = lock;
        Ok(())
    }

    /// Moves the locks over from `before`, the same object opened another time: takes those of `lock`, and
    /// leaves `before` with none. At every moment, others see the locks of at least one of the two.
    ///
    /// # Errors
    /// `Locked` if another process denies it; the locks that `before` held are then still held.
    fn lock_after(&self, before: &dyn Source, lock: Lock) -> Result<()> {
        before.lock(lock)?;
        self.lock(lock)?;
        before.lock(Lock::None)
    }
}

/// A file, a block device, a network export or a simulated device.
///
/// Every method has a default, which is right for storage that is only read: changes fail with `ReadOnly`,
/// and what a caller can do without fails with `Unsupported`.
#[async_trait(?Send)]
pub trait Storage: Source {
    /// Writes the whole of `buf`, growing the storage if needed and possible.
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        let _ = (offset, buf);
        Err(read_only(self.name()))
    }

    /// Makes every write that completed before this call durable (fdatasync). Once it has failed, it
    /// always fails: nobody knows which writes were lost.
    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Returns true if [`Storage::sync`] fails for ever because a connection ended with changes that were
    /// not synced. The server may have them or not; opened again, the storage holds what was synced, and can
    /// be used.
    fn is_lost(&self) -> bool {
        false
    }

    /// Waits until the connection of storage that was lost has been made again, or as long as a request would
    /// wait for that.
    async fn returned(&self) {}

    /// Ends the connection of storage that was lost, which is to be opened again: a server may take only one.
    /// Everything that is asked of this one from then on fails.
    fn hang_up(&self) {}

    /// Returns true if it pays to allocate space ahead of its use.
    fn gains_from_space_ahead(&self) -> bool {
        true
    }

    /// Sets the length. Storage of fixed length accepts any length that it has room for, and keeps its
    /// own.
    async fn truncate(&self, len: u64) -> Result<()> {
        let _ = len;
        Err(read_only(self.name()))
    }

    /// Allocates space for a range, whose unwritten bytes read as zeros, and grows the length to the
    /// range's end. Fails with `Unsupported` if the storage cannot do that; the caller then goes on
    /// without.
    async fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Error::new(ErrorKind::Unsupported, format!("{}: space cannot be allocated", self.name())))
    }

    /// Makes a range read as zeros, and gives its space back if possible. The length does not change.
    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(read_only(self.name()))
    }

    /// Makes a range read as zeros, and keeps or allocates its space if the storage can. The length does
    /// not change.
    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len).await
    }

    /// Gives the space of a range back if that needs no writing. The parts given back read as zeros, the
    /// others as before; for an NBD export, its server decides what they read as. The length does not
    /// change. Fails with `Unsupported` if the storage cannot give space back.
    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Error::new(ErrorKind::Unsupported, format!("{}: space cannot be given back", self.name())))
    }

    /// As [`Storage::unmap`], for a range that nothing refers to: its content is undefined afterwards.
    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.unmap(offset, len).await
    }

    /// Copies a range of `source` to `to` without passing the data through the caller's memory. Returns
    /// `None` if that is not possible: the content of the target range is undefined then, and the caller
    /// copies by itself. The range lies inside of `source`. Whole multiples of `unit` bytes, counted from
    /// its start, that are all zero may be left out; the target's content there is undefined.
    async fn copy_from(
        &self,
        source: &dyn Source,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        let _ = (source, from, to, len, unit);
        Ok(None)
    }

    /// Returns true if [`Storage::copy_from`] is worth trying.
    fn can_copy_from(&self, source: &dyn Source) -> bool {
        let _ = source;
        false
    }

    /// Makes the name itself durable: syncs the directory that holds the file.
    async fn sync_name(&self) -> Result<()> {
        Ok(())
    }
}

/// The error of a change of storage that is only read.
fn read_only(name: &str) -> Error {
    Error::new(ErrorKind::ReadOnly, format!("{name}: cannot be written"))
}

/// Writes zeros to a range, in pieces of bounded size.
pub(crate) async fn write_zeros(storage: &dyn Storage, range: Range<u64>) -> Result<()> {
    pieces::zeros(range, async |at, zeros| {
        let len = zeros.len() as u64;
        storage.write(at, zeros).await.map(|()| len)
    })
    .await
}
