//! Information about an image, from its header and from the host.

use std::rc::Rc;

use crate::format::{Backing, Kind, Summary, qcow2};
use crate::image::chain;
use crate::image::node::Node;
use crate::storage::{self, Lock, Opener, Storage};
use crate::{Error, ErrorKind, Result};

pub use crate::format::qcow2::info::{Bitmap, Snapshot};

/// Information about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its format.
    pub format: Kind,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Length of the file in bytes.
    pub file_len: u64,
    /// Bytes of the host's storage that the file takes, if they are known.
    pub space: Option<u64>,
    /// True if it is a block device.
    pub is_device: bool,
    /// Allocation unit in bytes, if the format has one.
    pub cluster_size: Option<u64>,
    /// True if presence is recorded per subcluster.
    pub extended_l2: Option<bool>,
    /// True if it was not closed: its metadata must be checked before a write.
    pub dirty: bool,
    /// The backing file as recorded.
    pub backing: Option<String>,
    /// The backing file's name, resolved relative to the image; `None` if it is a name that we cannot open.
    pub full_backing: Option<String>,
    /// Its format as recorded.
    pub backing_format: Option<String>,
    /// Details that only qcow2 images have.
    pub qcow2: Option<Qcow2Info>,
}

/// Details that only qcow2 images have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// True if clusters are compressed with zstd, false for zlib.
    pub zstd: bool,
    /// Width of a refcount in bits.
    pub refcount_bits: u32,
    /// True if refcounts may be stale while it is open.
    pub lazy_refcounts: bool,
    /// True if its metadata was found to be corrupt.
    pub corrupt: bool,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Persistent bitmaps.
    pub bitmaps: Vec<Bitmap>,
}

/// The backing file as a running image records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its name, word for word.
    pub name: String,
    /// Its name, resolved relative to the image; `None` if it is a name that we cannot open.
    pub full: Option<String>,
    /// Its format, if that is recorded.
    pub format: Option<String>,
}

impl Node {
    /// Returns the backing file as this image records it.
    pub fn recorded_backing(&self) -> Option<Recorded> {
        let Backing { name, format } = self.format().backing()?;
        let full = chain::resolve(self.name(), &name).ok();
        Some(Recorded { name, full, format })
    }

    /// Returns the bytes of the host's storage that the image's file takes, if they are known.
    pub fn space(&self) -> Option<u64> {
        self.storage().space()
    }
}

/// Reads an image's header.
///
/// # Errors
/// `Locked` if another process is writing the image and may change its header. Raw images have none, so
/// others may write them.
pub async fn info(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Info> {
    info_under(opener, name, kind, if kind.has_metadata() { Lock::Backing } else { Lock::Look }).await
}

/// Reads the header of an image that another process may be writing.
pub async fn info_in_use(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Info> {
    info_under(opener, name, kind, Lock::Look).await
}

async fn info_under(opener: &dyn Opener, name: &str, kind: Kind, lock: Lock) -> Result<Info> {
    let storage: Rc<dyn Storage> = opener.open(name, false).await?;
    storage.lock(lock)?;
    let summary = Summary::read(&*storage, kind).await?;
    let qcow2 = match &summary.qcow2 {
        None => None,
        Some(header) => {
            let named = |e: Error| if e.kind() == ErrorKind::Io { e } else { e.context(name) };
            Some(Qcow2Info {
                version: header.version,
                zstd: header.zstd,
                refcount_bits: 1 << header.refcount_order,
                lazy_refcounts: header.compatible & qcow2::header::compatible::LAZY_REFCOUNTS != 0,
                corrupt: header.is_corrupt(),
                snapshots: qcow2::info::snapshots(&*storage, header).await.map_err(named)?,
                bitmaps: qcow2::info::bitmaps(&*storage, header).await.map_err(named)?,
            })
        }
    };
    let full_backing = summary.backing.as_ref().and_then(|backing| chain::resolve(name, &backing.name).ok());
    let (backing, backing_format) = summary.backing.map(|b| (b.name, b.format)).unzip();
    Ok(Info {
        name: name.to_owned(),
        format: kind,
        virtual_size: summary.size,
        file_len: storage.len(),
        space: storage.space(),
        is_device: storage.is_fixed() && !storage::is_uri(name),
        cluster_size: summary.cluster_size,
        extended_l2: summary.extended_l2,
        dirty: summary.dirty,
        backing,
        full_backing,
        backing_format: backing_format.flatten(),
        qcow2,
    })
}
