//! The interface of an open image's metadata.

use async_trait::async_trait;

use super::{Backing, Compressed, Kind, MAX_BACKING_NAME, Mapping, Reading, Reservation};
use crate::{Buf, Error, ErrorKind, Result};

/// The metadata of an open image. The defaults are those of a format that has no clusters.
#[async_trait(?Send)]
pub(crate) trait Format {
    fn kind(&self) -> Kind;

    /// The backing file as the image records it.
    fn backing(&self) -> Option<Backing> {
        None
    }

    /// Until the returned value is dropped, host clusters seen in a map are neither given back nor reused.
    fn reading(&self) -> Option<Reading> {
        None
    }

    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// The allocation unit in bytes, which locks are rounded to.
    fn cluster_size(&self) -> u64 {
        1
    }

    /// Returns the first run of `[offset, offset + len)`, which must lie inside of the disk.
    async fn map(&self, offset: u64, len: u64) -> Result<Mapping>;

    /// Reads from a compressed cluster that a map returned, starting at byte `within` of it.
    async fn read_compressed(&self, _cluster: Compressed, _within: u64, _part: Buf) -> Result<()> {
        Err(unsupported(self.kind(), "no compressed clusters"))
    }

    /// Returns true if data may lie in space that was allocated ahead and never written, so that the
    /// storage's map knows more than the format's.
    async fn has_unwritten(&self) -> Result<bool> {
        Ok(false)
    }

    /// Returns the offset in the storage of the space that is kept for a range without data, if any, and the
    /// length over which that goes on, at most `len`.
    async fn kept_space(&self, _offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        Ok((None, len))
    }

    /// Reserves space for a range aligned to its granule, or for the first part of it.
    async fn reserve(&self, _offset: u64, _len: u64) -> Result<Reservation> {
        Err(unsupported(self.kind(), "no clusters to allocate"))
    }

    /// Makes the data that was written to a reservation the content of its range.
    async fn commit(&self, _reservation: Reservation) -> Result<()> {
        Err(unsupported(self.kind(), "no clusters to allocate"))
    }

    /// Makes a range read as zeros without the backing file. Fails with `Unsupported` if the format has no
    /// such clusters. The range is aligned to the presence unit, but may end at the disk's end. Without
    /// `unmap`, qcow2 and QED keep the space that they have, for later writes, and raw keeps or allocates
    /// it.
    async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()>;

    /// Discards whole clusters, which read as zeros or as before afterwards. Fails with `Unsupported` if
    /// the format or its storage cannot do that.
    async fn discard(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns true if reserved space that turns out to be zero is best kept, because this format cannot give
    /// it back for good.
    fn keeps_space(&self) -> bool {
        false
    }

    /// The unit of [`Format::zero`] in bytes.
    fn zero_unit(&self) -> u64 {
        self.cluster_size()
    }

    /// Prepares the format for a disk of `size` bytes, more than now: ranges up to there can be written
    /// and made zero.
    async fn make_room(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    /// Sets the disk's size durably. [`Format::make_room`] must have made room for it.
    async fn set_size(&self, size: u64) -> Result<()>;

    /// Makes everything that was written and committed before this call durable.
    async fn flush(&self) -> Result<()>;

    /// Records durably that there is no backing file.
    async fn drop_backing(&self) -> Result<()> {
        Ok(())
    }

    /// Fails if the header as it is now has no room for this backing file. `check_backing` checks that
    /// and everything that all formats require.
    async fn has_room_for(&self, _backing: &Backing) -> Result<()> {
        Err(unsupported(self.kind(), "no backing file"))
    }

    /// Records durably that there is another backing file, which must read the same at every absent
    /// cluster.
    async fn set_backing(&self, _backing: Backing) -> Result<()> {
        Err(unsupported(self.kind(), "no backing file"))
    }

    /// Returns the number of times that freed clusters came back, for [`Format::reclaim`].
    fn given_back(&self) -> u64 {
        0
    }

    /// Makes freed clusters usable. Returns true if any came back since `before`, a result of
    /// [`Format::given_back`]. Must not be called while holding a lock on clusters, or a [`Reading`] of
    /// this image.
    async fn reclaim(&self, _before: u64) -> bool {
        false
    }

    /// Flushes, and gives back space that was allocated ahead.
    async fn close(&self) -> Result<()> {
        self.flush().await
    }

    /// Memory that tables take, in bytes; approximate.
    #[cfg(test)]
    fn memory(&self) -> u64 {
        0
    }
}

fn unsupported(kind: Kind, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("a {kind} image has {what}"))
}

impl dyn Format + '_ {
    /// Fails if [`Format::set_backing`] cannot record this backing file in the header as it is now.
    pub(crate) async fn check_backing(&self, backing: &Backing) -> Result<()> {
        if !self.kind().has_backing() {
            return Err(unsupported(self.kind(), "no backing file"));
        }
        let longest = MAX_BACKING_NAME.min(self.cluster_size() as usize / 2);
        if backing.name.is_empty() || backing.name.len() > longest || backing.name.contains('\0') {
            let text = format!("'{}' cannot be recorded as a backing file", backing.name);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.has_room_for(backing).await
    }
}
