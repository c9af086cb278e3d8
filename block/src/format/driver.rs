//! The interface of a format: all that is done with an image that is not open.

use std::rc::Rc;

use async_trait::async_trait;

use super::qcow2::header::Header;
use super::{Backing, Create, Format, Kind, NewImage, Repair, Report};
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

/// An image format. The table of formats is in `format.rs`.
#[async_trait(?Send)]
pub(crate) trait Driver: Sync {
    /// See [`Kind::name`].
    fn name(&self) -> &'static str;

    /// Returns the bytes with which every image begins; `None` if any bytes may stand there.
    fn magic(&self) -> Option<[u8; 4]>;

    /// See [`Kind::has_metadata`].
    fn has_metadata(&self) -> bool {
        true
    }

    /// See [`Kind::has_backing`].
    fn has_backing(&self) -> bool;

    /// Returns true if images do not record the format of a backing file, except that it is raw.
    fn records_only_raw(&self) -> bool {
        false
    }

    /// Reads the metadata of an image. For writing, also repairs it if the format requires that.
    async fn open(&self, storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<dyn Format>>;

    /// Reads only the header; nothing is locked or changed.
    async fn summary(&self, storage: &dyn Storage) -> Result<Summary>;

    /// See [`Kind::create_options`].
    fn create_options(&self) -> &'static [(&'static str, &'static str)];

    /// Lays out a new image for a disk of `size` bytes. `options` has only those of this format.
    ///
    /// # Errors
    /// `Invalid` if the options contradict each other, or one is out of range.
    fn plan(&self, options: &Create, size: u64) -> Result<Box<dyn NewImage>>;

    /// Checks an image's metadata, and repairs it if `repair` is given.
    ///
    /// # Errors
    /// `Unsupported` if there is nothing to check; `Corrupt` if it cannot be checked at all.
    async fn check(&self, _storage: &Rc<dyn Storage>, _repair: Option<Repair>) -> Result<Report> {
        Err(Error::new(ErrorKind::Unsupported, format!("the format {} does not support checks", self.name())))
    }
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
    pub qcow2: Option<Header>,
}

impl Summary {
    /// Returns the summary of a disk of this size about which nothing else is known.
    pub(super) fn new(size: u64) -> Self {
        Summary { size, cluster_size: None, extended_l2: None, backing: None, dirty: false, qcow2: None }
    }

    /// Reads only the header; nothing is locked or changed.
    pub(crate) async fn read(storage: &dyn Storage, kind: Kind) -> Result<Self> {
        kind.driver().summary(storage).await.map_err(|e| e.context(storage.name()))
    }
}
