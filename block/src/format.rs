//! Image formats: the mapping of a disk's bytes to places in a file, and the changes of that mapping.

use std::ops::Range;
use std::rc::Rc;

use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

mod cow;
pub mod qcow2;
pub(crate) mod qed;
pub(crate) mod raw;
mod report;

pub(crate) use cow::retire::Reading;
use qcow2::Qcow2;
use qed::Qed;
pub(crate) use qed::create as qed_create;
use raw::Raw;
pub use report::{Repair, Report};

/// The longest name of a backing file, in bytes, in all formats.
const MAX_BACKING_NAME: usize = 1023;

/// An image format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The bytes of the disk as they are.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// QEMU's copy-on-write format without refcounts.
    Qed,
}

impl Kind {
    /// The format's name on command lines, in QMP and in backing format records.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Qcow2 => "qcow2",
            Kind::Qed => "qed",
        }
    }

    /// Returns the copy-on-write format whose magic number storage begins with. Use it only for storage
    /// whose content no guest chose, or if the result is checked by other means.
    pub(crate) async fn probe(storage: &dyn Storage) -> Result<Option<Kind>> {
        let buf = Buf::new(4);
        storage.read(0, buf.clone()).await?;
        Ok(match buf.to_vec().first_chunk() {
            Some(&qed::header::MAGIC) => Some(Kind::Qed),
            Some(magic) if u32::from_be_bytes(*magic) == qcow2::header::MAGIC => Some(Kind::Qcow2),
            _ => None,
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Kind::Raw),
            "qcow2" => Ok(Kind::Qcow2),
            "qed" => Ok(Kind::Qed),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("unknown image format '{name}': give raw, qcow2 or qed"),
            )),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes the first `len` bytes of storage that is to become an image read as zeros.
pub(crate) async fn blank(storage: &dyn Storage, len: u64) -> Result<()> {
    let old = storage.len().min(len);
    storage.truncate(len).await?;
    if old > 0 { storage.punch(0, old).await } else { Ok(()) }
}

/// The place of a compressed cluster in an image's file. Only the format that made it reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Compressed {
    /// Its offset in bytes.
    pub offset: u64,
    /// The most bytes that it takes; the compressed data may end earlier.
    pub len: u64,
}

/// The content of a range of the disk in one image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Nothing: the range reads as the backing file, or as zeros if there is none.
    Absent,
    /// Zeros, without data.
    Zero,
    /// Data; the start of the range is at this offset in the image's storage.
    Data(u64),
    /// Data in a compressed cluster, from this byte of the cluster on.
    Compressed(Compressed, u64),
}

/// One run of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// Length in bytes, at least 1.
    pub len: u64,
    pub content: Content,
    /// The alignment that a write here needs, in bytes: 1 if data can be written in place, otherwise the
    /// allocation or presence unit, whose old content the writer fills in.
    pub granule: u64,
}

/// The properties of an image that stand at its beginning.
pub(crate) struct Summary {
    /// Size of the disk in bytes.
    pub size: u64,
    pub cluster_size: Option<u64>,
    pub extended_l2: Option<bool>,
    pub backing: Option<Backing>,
    /// True if the image was not closed.
    pub dirty: bool,
    /// The whole header of a qcow2 image.
    pub qcow2: Option<qcow2::header::Header>,
}

impl Summary {
    /// Reads only the header; nothing is locked or changed.
    pub(crate) async fn read(storage: &dyn Storage, kind: Kind) -> Result<Self> {
        let named = |e: Error| e.context(storage.name());
        let mut summary = Summary {
            size: storage.len().next_multiple_of(512),
            cluster_size: None,
            extended_l2: None,
            backing: None,
            dirty: false,
            qcow2: None,
        };
        match kind {
            Kind::Raw => {}
            Kind::Qcow2 => {
                let header = Qcow2::read_header(storage).await.map_err(named)?;
                summary.size = header.size;
                summary.cluster_size = Some(header.cluster_size());
                summary.extended_l2 = Some(header.extended_l2());
                summary.backing = header.backing.clone();
                summary.dirty = header.is_dirty();
                summary.qcow2 = Some(header);
            }
            Kind::Qed => {
                let (header, backing) = Qed::read_header(storage).await.map_err(named)?;
                summary.size = header.size;
                summary.cluster_size = Some(header.cluster_size);
                summary.backing = backing;
                summary.dirty = header.features & qed::header::NEED_CHECK != 0;
            }
        }
        Ok(summary)
    }
}

/// An image's metadata.
pub(crate) enum Format {
    Raw(Raw),
    Qcow2(Rc<Qcow2>),
    Qed(Rc<Qed>),
}

/// Space for clusters that are being written. Nobody sees them before [`Format::commit`]. If it is dropped
/// without that, the space is given back.
pub(crate) struct Reservation {
    /// The range of the disk.
    pub offset: u64,
    pub len: u64,
    /// Offset of the range's start in the storage, where the range is contiguous.
    pub host: u64,
    pub(crate) claim: Claim,
}

impl Reservation {
    /// Splits off the first `len` bytes, whole clusters of a reservation that begins with one.
    pub(crate) fn split_front(&mut self, len: u64) -> Reservation {
        let fresh = self.claim.fresh.as_mut().map(|fresh| {
            let front = fresh.start..fresh.start + len;
            fresh.start += len;
            front
        });
        let claim = Claim { image: self.claim.image.clone(), fresh };
        let front = Reservation { offset: self.offset, len, host: self.host, claim };
        self.offset += len;
        self.host += len;
        self.len -= len;
        front
    }
}

/// Host clusters that were allocated for a reservation. If they are dropped with it, they are given back.
pub(crate) struct Claim {
    pub(crate) image: Rc<dyn Owner>,
    pub(crate) fresh: Option<Range<u64>>,
}

/// An image that takes host clusters back.
pub(crate) trait Owner {
    /// Frees clusters once the next commit has removed the reference to them durably.
    fn free_later(&self, range: Range<u64>);
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(fresh) = self.fresh.take().filter(|fresh| !fresh.is_empty()) {
            self.image.free_later(fresh);
        }
    }
}

/// The backing file as an image records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub name: String,
    /// `None` if it is not recorded. It must never be guessed: a guest wrote the file's content.
    pub format: Option<String>,
}

impl Format {
    /// Reads the metadata of an image. For writing, also repairs it if the format requires that.
    pub(crate) async fn open(storage: Rc<dyn Storage>, kind: Kind, writable: bool) -> Result<Self> {
        Ok(match kind {
            Kind::Raw => Format::Raw(Raw::new(storage)),
            Kind::Qcow2 => Format::Qcow2(Qcow2::open(storage, writable).await?),
            Kind::Qed => Format::Qed(Qed::open(storage, writable).await?),
        })
    }

    /// The backing file as the image records it.
    pub(crate) fn backing(&self) -> Option<Backing> {
        match self {
            Format::Raw(_) => None,
            Format::Qcow2(qcow2) => qcow2.backing(),
            Format::Qed(qed) => qed.backing(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Format::Raw(_) => Kind::Raw,
            Format::Qcow2(_) => Kind::Qcow2,
            Format::Qed(_) => Kind::Qed,
        }
    }

    /// Until the returned value is dropped, host clusters seen in a map are neither given back nor reused.
    pub(crate) fn reading(&self) -> Option<Reading> {
        match self {
            Format::Raw(_) => None,
            Format::Qcow2(qcow2) => Some(qcow2.reading()),
            Format::Qed(qed) => Some(qed.reading()),
        }
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Format::Raw(raw) => raw.size(),
            Format::Qcow2(qcow2) => qcow2.size(),
            Format::Qed(qed) => qed.size(),
        }
    }

    /// The allocation unit in bytes, which locks are rounded to.
    pub(crate) fn cluster_size(&self) -> u64 {
        match self {
            Format::Raw(_) => 1,
            Format::Qcow2(qcow2) => qcow2.cluster_size(),
            Format::Qed(qed) => qed.cluster_size(),
        }
    }

    /// Returns the first run of `[offset, offset + len)`, which must lie inside of the disk.
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        match self {
            Format::Raw(raw) => raw.map(offset, len).await,
            Format::Qcow2(qcow2) => qcow2.map(offset, len).await,
            Format::Qed(qed) => qed.map(offset, len).await,
        }
    }

    /// Reads from a compressed cluster that a map returned, starting at byte `within` of it.
    pub(crate) async fn read_compressed(&self, cluster: Compressed, within: u64, part: Buf) -> Result<()> {
        match self {
            Format::Qcow2(qcow2) => qcow2.read_compressed(cluster, within, part).await,
            _ => Err(Error::new(ErrorKind::Unsupported, "only qcow2 has compressed clusters")),
        }
    }

    /// Returns true if data may lie in space that was allocated ahead and never written, so that the
    /// storage's map knows more than the format's.
    pub(crate) async fn has_unwritten(&self) -> Result<bool> {
        match self {
            Format::Qcow2(qcow2) => qcow2.has_unwritten().await,
            Format::Raw(_) | Format::Qed(_) => Ok(false),
        }
    }

    /// Returns the offset in the storage of the space that is kept for a range without data, if any, and the
    /// length over which that goes on, at most `len`.
    pub(crate) async fn kept_space(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        match self {
            Format::Qcow2(qcow2) => qcow2.reserved_host(offset, len).await,
            Format::Raw(_) | Format::Qed(_) => Ok((None, len)),
        }
    }

    /// Reserves space for a range aligned to its granule, or for the first part of it.
    pub(crate) async fn reserve(&self, offset: u64, len: u64) -> Result<Reservation> {
        match self {
            Format::Raw(raw) => Err(raw.never_allocates()),
            Format::Qcow2(qcow2) => qcow2.reserve(offset, len).await,
            Format::Qed(qed) => qed.reserve(offset, len).await,
        }
    }

    /// Makes the data that was written to a reservation the content of its range.
    pub(crate) async fn commit(&self, reservation: Reservation) -> Result<()> {
        match self {
            Format::Raw(raw) => Err(raw.never_allocates()),
            Format::Qcow2(qcow2) => qcow2.commit(reservation).await,
            Format::Qed(qed) => qed.commit(reservation).await,
        }
    }

    /// Makes a range read as zeros without the backing file. Fails with `Unsupported` if the format has no
    /// such clusters. The range is aligned to the presence unit, but may end at the disk's end. Without
    /// `unmap`, qcow2 and QED keep the space that they have, for later writes, and raw keeps or allocates
    /// it.
    pub(crate) async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        match self {
            Format::Raw(raw) => raw.zero(offset, len, unmap).await,
            Format::Qcow2(qcow2) => qcow2.zero(offset, len, unmap).await,
            Format::Qed(qed) => {
                qed.zero(offset, len, if unmap { qed::Clear::Punch } else { qed::Clear::Zero }).await
            }
        }
    }

    /// Discards whole clusters, which read as zeros or as before afterwards. Fails with `Unsupported` if
    /// the format or its storage cannot do that.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        match self {
            Format::Raw(raw) => raw.discard(offset, len).await,
            Format::Qcow2(qcow2) => qcow2.zero(offset, len, true).await,
            Format::Qed(qed) => qed.zero(offset, len, qed::Clear::Unmap).await,
        }
    }

    /// Returns true if reserved space that turns out to be zero is best kept, because this format cannot give
    /// it back for good.
    pub(crate) fn keeps_space(&self) -> bool {
        matches!(self, Format::Qed(_))
    }

    /// The unit of [`Format::zero`] in bytes.
    pub(crate) fn zero_unit(&self) -> u64 {
        match self {
            Format::Raw(_) => 1,
            Format::Qcow2(qcow2) => qcow2.subcluster_size(),
            Format::Qed(qed) => qed.cluster_size(),
        }
    }

    /// Prepares the format for a disk of `size` bytes, more than now: ranges up to there can be written
    /// and made zero.
    pub(crate) async fn make_room(&self, size: u64) -> Result<()> {
        match self {
            Format::Raw(_) => Ok(()),
            Format::Qcow2(qcow2) => qcow2.make_room(size).await,
            Format::Qed(qed) => qed.make_room(size),
        }
    }

    /// Sets the disk's size durably. [`Format::make_room`] must have made room for it.
    pub(crate) async fn set_size(&self, size: u64) -> Result<()> {
        match self {
            Format::Raw(raw) => raw.set_size(size).await,
            Format::Qcow2(qcow2) => qcow2.set_size(size).await,
            Format::Qed(qed) => qed.set_size(size).await,
        }
    }

    /// Makes everything that was written and committed before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self {
            Format::Raw(raw) => raw.flush().await,
            Format::Qcow2(qcow2) => qcow2.flush().await,
            Format::Qed(qed) => qed.flush().await,
        }
    }

    /// Records durably that there is no backing file.
    pub(crate) async fn drop_backing(&self) -> Result<()> {
        match self {
            Format::Raw(_) => Ok(()),
            Format::Qcow2(qcow2) => qcow2.drop_backing().await,
            Format::Qed(qed) => qed.drop_backing().await,
        }
    }

    /// Fails if [`Format::set_backing`] cannot record this backing file in the header as it is now.
    pub(crate) async fn check_backing(&self, backing: &Backing) -> Result<()> {
        if matches!(self, Format::Raw(_)) {
            return Err(Error::new(ErrorKind::Unsupported, "a raw image has no backing file"));
        }
        let longest = MAX_BACKING_NAME.min(self.cluster_size() as usize / 2);
        if backing.name.is_empty() || backing.name.len() > longest || backing.name.contains('\0') {
            let text = format!("'{}' cannot be recorded as a backing file", backing.name);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        match self {
            Format::Raw(_) => Ok(()),
            Format::Qcow2(qcow2) => qcow2.check_backing(backing).await,
            Format::Qed(qed) => qed.check_backing(backing).await,
        }
    }

    /// Records durably that there is another backing file, which must read the same at every absent
    /// cluster.
    pub(crate) async fn set_backing(&self, backing: Backing) -> Result<()> {
        match self {
            Format::Raw(raw) => Err(raw.never_allocates()),
            Format::Qcow2(qcow2) => qcow2.set_backing(backing).await,
            Format::Qed(qed) => qed.set_backing(backing).await,
        }
    }

    /// Returns the number of times that freed clusters came back, for [`Format::reclaim`].
    pub(crate) fn given_back(&self) -> u64 {
        match self {
            Format::Raw(_) => 0,
            Format::Qcow2(qcow2) => qcow2.given_back(),
            Format::Qed(qed) => qed.given_back(),
        }
    }

    /// Makes freed clusters usable. Returns true if any came back since `before`, a result of
    /// [`Format::given_back`]. Must not be called while holding a lock on clusters, or a [`Reading`] of
    /// this image.
    pub(crate) async fn reclaim(&self, before: u64) -> bool {
        match self {
            Format::Raw(_) => false,
            Format::Qcow2(qcow2) => qcow2.reclaim(before).await,
            Format::Qed(qed) => qed.reclaim(before).await,
        }
    }

    /// Flushes, and gives back space that was allocated ahead.
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Format::Raw(raw) => raw.flush().await,
            Format::Qcow2(qcow2) => qcow2.close().await,
            Format::Qed(qed) => qed.close().await,
        }
    }
}
