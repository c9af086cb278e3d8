//! The raw format: the disk's bytes as they are.

use std::cell::Cell;
use std::rc::Rc;

use super::{Content, Mapping};
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

/// The mapping of a raw image: every byte of the disk is at the same offset in the file.
pub(crate) struct Raw {
    storage: Rc<dyn Storage>,
    size: Cell<u64>,
}

impl Raw {
    /// A disk as large as the storage is now.
    pub(crate) fn new(storage: Rc<dyn Storage>) -> Self {
        // The disk is counted in sectors of 512 bytes; a file's last part is filled up with zeros.
        let size = storage.len().next_multiple_of(512);
        Raw { storage, size: Cell::new(size) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    pub(crate) async fn set_size(&self, size: u64) -> Result<()> {
        self.storage.truncate(size).await?;
        self.storage.sync().await?;
        self.size.set(size);
        Ok(())
    }

    pub(crate) async fn flush(&self) -> Result<()> {
        self.storage.sync().await
    }

    /// Everything is data: asking the file system for holes on every read would cost more than
    /// reading them. Jobs ask [`Storage::map`].
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        Ok(Mapping { len, content: Content::Data(offset), granule: 1 })
    }

    pub(crate) async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        if unmap { self.storage.punch(offset, len).await } else { self.storage.zero(offset, len).await }
    }

    /// Gives space back if that needs no writing: zeros written over a discarded disk would take its space
    /// instead.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.storage.unmap(offset, len).await
    }

    pub(crate) fn never_allocates(&self) -> Error {
        Error::new(ErrorKind::Unsupported, "a raw image has no clusters to allocate")
    }
}
