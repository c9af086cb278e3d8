//! Image formats: the mapping of a disk's bytes to places in a file, and the changes of that mapping.
//!
//! A format is a `Driver`, which opens, creates and checks images, and the `Format` of its images that
//! are open. The table of formats is below ([`Kind`]); nothing else in this crate names them all.

use std::ops::Range;
use std::rc::Rc;

use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

mod cow;
mod create;
mod driver;
mod open;
pub mod qcow2;
pub(crate) mod qed;
pub(crate) mod raw;
mod report;

pub(crate) use cow::retire::Reading;
pub(crate) use create::NewImage;
pub use create::{Create, Preallocation};
pub(crate) use driver::{Driver, Summary};
pub(crate) use open::Format;
pub use report::{Repair, Report};

/// The longest name of a backing file, in bytes, in all formats.
const MAX_BACKING_NAME: usize = 1023;

/// Makes the formats and the table of their drivers.
macro_rules! formats {
    ($($(#[$doc:meta])* $kind:ident => $driver:expr,)+) => {
        /// An image format.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// All formats.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),+];

            pub(crate) fn driver(self) -> &'static dyn Driver {
                match self {
                    $(Kind::$kind => &$driver,)+
                }
            }
        }
    };
}

formats! {
    /// The bytes of the disk as they are.
    Raw => raw::Driver,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2 => qcow2::driver::Driver,
    /// QEMU's copy-on-write format without refcounts.
    Qed => qed::driver::Driver,
}

impl Kind {
    /// The format's name on command lines, in QMP and in backing format records.
    pub fn name(self) -> &'static str {
        self.driver().name()
    }

    /// Returns the options of a new image by their names in `qemu-img create -o`, with their descriptions.
    pub fn create_options(self) -> &'static [(&'static str, &'static str)] {
        self.driver().create_options()
    }

    /// Returns true if images have metadata. If not, the file is the disk, and only the storage's map says
    /// which parts of it are data.
    pub(crate) fn has_metadata(self) -> bool {
        self.driver().has_metadata()
    }

    /// Returns true if images may have a backing file.
    pub(crate) fn has_backing(self) -> bool {
        self.driver().has_backing()
    }

    /// Reads the metadata of an image; see [`Driver::open`]. An error of its content begins with its name.
    pub(crate) async fn open(self, storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<dyn Format>> {
        let name = storage.name().to_owned();
        self.driver().open(storage, writable).await.map_err(|e| match e.kind() {
            ErrorKind::Io => e,
            _ => e.context(name),
        })
    }

    /// Returns the format with whose magic number storage begins. Use it only for storage
    /// whose content no guest chose, or if the result is checked by other means.
    pub(crate) async fn probe(storage: &dyn Storage) -> Result<Option<Kind>> {
        let buf = Buf::new(4);
        storage.read(0, buf.clone()).await?;
        let start = buf.to_vec();
        let has_magic = |kind: &Kind| kind.driver().magic().is_some_and(|magic| start == magic);
        Ok(Kind::ALL.iter().copied().find(has_magic))
    }
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            let (last, others) = names.split_last().unwrap_or((&"", &[]));
            let text = format!("unknown image format '{name}': give {} or {last}", others.join(", "));
            Error::new(ErrorKind::Unsupported, text)
        })
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
