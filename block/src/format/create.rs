//! The options of new images, and their layout before they are written.

use async_trait::async_trait;

use super::Kind;
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

/// The clusters that a new image has before anything is written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// Every cluster has its place in the file, which is sparse.
    Metadata,
    /// As `Metadata`, and the file system reserves space for them.
    Falloc,
    /// As `Metadata`, and they are written with zeros.
    Full,
}

/// Options for creating an image.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Size of the disk in bytes; the backing file's size if `None`.
    pub size: Option<u64>,
    /// The backing file as it will be recorded, and its format.
    pub backing: Option<(String, Kind)>,
    /// Allocation unit in bytes.
    pub cluster_size: Option<u64>,
    /// True if presence is recorded per subcluster.
    pub extended_l2: Option<bool>,
    /// Width of a refcount in bits.
    pub refcount_bits: Option<u32>,
    /// qcow2's version: 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: Option<u32>,
    /// Allows other programs to leave refcounts stale while they have the image open.
    pub lazy_refcounts: Option<bool>,
    /// True if clusters are compressed with zstd instead of zlib.
    pub zstd: Option<bool>,
    /// Space that is allocated at creation.
    pub preallocation: Preallocation,
    /// Size of QED's tables in clusters.
    pub table_size: Option<u64>,
}

impl Create {
    /// Fails if there are options that the format does not have.
    pub(crate) fn refuse_foreign(&self, kind: Kind) -> Result<()> {
        let given = [
            ("backing_file", self.backing.is_some()),
            ("cluster_size", self.cluster_size.is_some()),
            ("extended_l2", self.extended_l2.is_some()),
            ("refcount_bits", self.refcount_bits.is_some()),
            ("compat", self.version.is_some()),
            ("lazy_refcounts", self.lazy_refcounts.is_some()),
            ("compression_type", self.zstd.is_some()),
            ("preallocation", self.preallocation != Preallocation::Off),
            ("table_size", self.table_size.is_some()),
        ];
        let known = kind.create_options();
        let is_known = |key: &str| known.iter().any(|(known, _)| *known == key);
        let Some((foreign, _)) = given.into_iter().find(|(key, is_given)| *is_given && !is_known(key)) else {
            return Ok(());
        };
        let known: Vec<_> = known.iter().map(|(known, _)| *known).collect();
        let text = format!("{foreign}: not an option of {kind}, which has {}", known.join(", "));
        Err(Error::new(ErrorKind::Invalid, text))
    }

    /// Lays out an image of this format for a disk of `size` bytes. That finds all invalid options.
    pub(crate) fn plan(&self, kind: Kind, size: u64) -> Result<Box<dyn NewImage>> {
        kind.driver().plan(self, size)
    }
}

/// A new image that is laid out and not written yet.
#[async_trait(?Send)]
pub(crate) trait NewImage {
    /// Writes the image to storage, and makes it durable, its name included.
    async fn write(&self, storage: &dyn Storage) -> Result<()>;
}

/// Descriptions of options that several formats have, for [`Kind::create_options`].
pub(super) mod key {
    pub(in crate::format) const SIZE: (&str, &str) =
        ("size", "size of the disk; K, M, G and T are powers of 1024");
    pub(in crate::format) const BACKING_FILE: (&str, &str) =
        ("backing_file", "the backing file, as the image will record it");
    pub(in crate::format) const BACKING_FORMAT: (&str, &str) = ("backing_fmt", "the backing file's format");
    pub(in crate::format) const CLUSTER_SIZE: (&str, &str) =
        ("cluster_size", "the unit of allocation in bytes");
}
