//! The raw format: the disk's bytes as they are.

use std::cell::Cell;
use std::rc::Rc;

use async_trait::async_trait;

use super::create::key;
use super::{Content, Create, Format, Kind, Mapping, NewImage, Preallocation, Summary};
use crate::storage::{Storage, write_zeros};
use crate::{Buf, Error, ErrorKind, Result};

/// The format's line in the table.
pub(super) struct Driver;

#[async_trait(?Send)]
impl super::Driver for Driver {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn magic(&self) -> Option<[u8; 4]> {
        None
    }

    fn has_metadata(&self) -> bool {
        false
    }

    fn has_backing(&self) -> bool {
        false
    }

    async fn open(&self, storage: Rc<dyn Storage>, _writable: bool) -> Result<Rc<dyn Format>> {
        let size = Cell::new(size(&*storage));
        Ok(Rc::new(Raw { storage, size }))
    }

    async fn summary(&self, storage: &dyn Storage) -> Result<Summary> {
        Ok(Summary::new(size(storage)))
    }

    fn create_options(&self) -> &'static [(&'static str, &'static str)] {
        &[("preallocation", "off, falloc or full"), key::SIZE]
    }

    fn plan(&self, options: &Create, size: u64) -> Result<Box<dyn NewImage>> {
        let preallocation = options.preallocation;
        if preallocation == Preallocation::Metadata {
            let text = "a raw image has no metadata: preallocation is off, falloc or full";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let size = size.checked_next_multiple_of(512).filter(|size| *size <= i64::MAX as u64);
        let size = size.ok_or_else(|| Error::new(ErrorKind::Invalid, "the size is over 8 EiB"))?;
        Ok(Box::new(Plan { size, preallocation }))
    }
}

/// Returns the size of the disk that storage holds. The disk is counted in sectors of 512 bytes; a file's
/// last part is filled up with zeros.
fn size(storage: &dyn Storage) -> u64 {
    storage.len().next_multiple_of(512)
}

/// A new image; nothing is written yet.
struct Plan {
    size: u64,
    preallocation: Preallocation,
}

#[async_trait(?Send)]
impl NewImage for Plan {
    async fn write(&self, storage: &dyn Storage) -> Result<()> {
        storage.truncate(self.size).await?;
        if storage.is_fixed() && self.size > 0 {
            // The device must not be taken for the image that it held before.
            storage.write(0, Buf::new(self.size.min(512) as usize)).await?;
        }
        match self.preallocation {
            Preallocation::Falloc if self.size > 0 && !storage.is_fixed() => {
                storage.allocate(0, self.size).await?;
            }
            Preallocation::Full => write_zeros(storage, 0..self.size).await?,
            _ => {}
        }
        storage.sync().await?;
        storage.sync_name().await
    }
}

/// The mapping of a raw image: every byte of the disk is at the same offset in the file.
struct Raw {
    storage: Rc<dyn Storage>,
    size: Cell<u64>,
}

#[async_trait(?Send)]
impl Format for Raw {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn size(&self) -> u64 {
        self.size.get()
    }

    async fn set_size(&self, size: u64) -> Result<()> {
        self.storage.truncate(size).await?;
        self.storage.sync().await?;
        self.size.set(size);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.storage.sync().await
    }

    /// Everything is data: asking the file system for holes on every read would cost more than
    /// reading them. Jobs ask `Storage::map`.
    async fn map(&self, offset: u64, len: u64) -> Result<Mapping> {
        Ok(Mapping { len, content: Content::Data(offset), granule: 1 })
    }

    async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        if unmap { self.storage.punch(offset, len).await } else { self.storage.zero(offset, len).await }
    }

    /// Gives space back if that needs no writing: zeros written over a discarded disk would take its space
    /// instead.
    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.storage.unmap(offset, len).await
    }
}
