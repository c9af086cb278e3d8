//! QED (QEMU `docs/interop/qed_spec.txt`).
//!
//! The states of a disk's bytes, and their changes:
//!
//! | L2 entry | reads as | a write makes it | zeroing makes it |
//! |---|---|---|---|
//! | 0, or no L2 table | the backing file | data, in a new cluster | zero |
//! | 1 | zeros | data, in a new cluster | zero |
//! | an offset | the cluster | the same, in place | the same, which becomes a hole in the host's file |
//!
//! There are no refcounts: space is allocated at the file's end. NEED_CHECK is durable in the header
//! before the first change, and cleared by a clean close. An image that is opened for writing with the bit
//! set is checked first, and trimmed to what its tables refer to. For writing, the places of the L2 tables
//! are read, so that an entry that points into one is refused, not written to; and if the tables are not
//! too large, it is checked that no two entries refer to one cluster.
//!
//! The format cannot say that a cluster is free: a cluster that nothing refers to is leaked. So a cluster
//! never leaves its entry. Clusters that a failed write had taken are used again in the same session. At a
//! clean close, the file is cut off behind the last cluster in use; free clusters before it become holes,
//! and go to entries that read as zeros, as holes do.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};

use executor::sync::Semaphore;

use super::cow::cache::{ByteOrder, Cache};
use super::cow::commit::{Ahead, Commits, patch_header};
use super::cow::retire::{Reading, Retired};
use super::{Backing, Owner};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

pub(crate) mod check;
mod commit;
pub(crate) mod create;
pub(super) mod driver;
pub(crate) mod header;
mod mapping;
mod resize;
mod retire;
mod space;
mod tables;
mod used;

use header::Header;
pub(crate) use mapping::Clear;
use space::Space;
use tables::Tables;

/// Memory for tables of one image, in bytes.
const CACHE: u64 = 28 << 20;

/// Returns the error for tables that contradict themselves or each other.
fn not_sound(what: impl std::fmt::Display) -> Error {
    let text = format!("{what}; repair it with 'millrace image check -f qed --repair all'");
    Error::new(ErrorKind::Corrupt, text)
}

/// Fails if the storage cannot grow; for a caller that would write to an image there. QED allocates at the
/// file's end, and relies on a new table reading as zeros.
pub(crate) fn refuse_fixed(storage: &dyn Storage) -> Result<()> {
    if !storage.is_fixed() {
        return Ok(());
    }
    let text = "a QED image that is written grows with its file, which a block device or an NBD export cannot: \
                convert it to qcow2 or raw";
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// An open QED image.
pub struct Qed {
    /// A reference to itself, for tasks of its own.
    this: Weak<Qed>,
    storage: Rc<dyn Storage>,
    header: Header,
    size: Cell<u64>,
    backing: RefCell<Option<Backing>>,
    l2_tables: Tables,
    /// L1 and L2 tables. A table may be as large as 1 GiB, so not even the L1 table is held whole.
    tables: Cache,
    /// Held while an L2 table is made.
    making: Rc<Semaphore>,
    space: Space,
    commits: Commits,
    ahead: Rc<Ahead>,
    retired: Retired,
    /// Held while the header is changed.
    patching: Rc<Semaphore>,
    /// True if this session has set NEED_CHECK in the file.
    changed: Cell<bool>,
}

impl Owner for Qed {
    fn free_later(&self, range: Range<u64>) {
        self.space.free_later(range);
    }
}

impl Qed {
    /// Reads the metadata of an image. For writing, an image that was not closed is repaired first, and
    /// autoclear features, which others would have to keep up to date, are cleared.
    ///
    /// # Errors
    /// `Corrupt` if a write could destroy metadata; only a repair that a user asks for goes on then.
    pub(crate) async fn open(storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<Self>> {
        let (header, backing) = Self::read_header(&*storage).await?;
        if writable {
            refuse_fixed(&*storage)?;
        }
        let patching = Semaphore::new(1);
        let dirty = header.features & header::NEED_CHECK != 0;
        let space = if dirty && writable {
            check::repair_unclosed(&*storage, &header).await?
        } else {
            Space::new(header.cluster_size, storage.len().next_multiple_of(header.cluster_size))
        };
        let l2_tables = match writable {
            true => Tables::read(&*storage, &header).await?,
            false => Tables::unknown(&header),
        };
        if writable && !dirty {
            l2_tables.refuse_shared(&*storage, &header).await?;
        }
        if writable && (dirty || header.autoclear != 0) {
            // The writes of a process that died may be in memory only.
            storage.sync().await?;
            let clear = |sector: &mut [u8]| {
                header::change_features(sector, 0, header::NEED_CHECK);
                sector[header::AUTOCLEAR].fill(0);
            };
            patch_header(&*storage, &patching, clear).await?;
        }
        Ok(Rc::new_cyclic(|this| Qed {
            this: this.clone(),
            backing: RefCell::new(backing),
            tables: Cache::new(storage.clone(), ByteOrder::Little, header.cluster_size, CACHE),
            making: Semaphore::new(1),
            space,
            commits: Commits::default(),
            ahead: Ahead::new(),
            retired: Retired::new(),
            patching,
            changed: Cell::new(false),
            size: Cell::new(header.size),
            l2_tables,
            header,
            storage,
        }))
    }

    /// Reads only the header, and the backing file's record.
    pub(crate) async fn read_header(storage: &dyn Storage) -> Result<(Header, Option<Backing>)> {
        let buf = Buf::new(storage.len().min(header::LEN as u64) as usize);
        storage.read(0, buf.clone()).await?;
        let header = Header::parse(&buf.to_vec(), storage.len())?;
        let Some(place) = header.backing_name()? else { return Ok((header, None)) };
        let buf = Buf::new((place.end - place.start) as usize);
        storage.read(place.start, buf.clone()).await?;
        let name = String::from_utf8(buf.to_vec()).ok().filter(|name| !name.contains('\0'));
        let name = name.ok_or_else(|| header::corrupt("the backing file name is not text"))?;
        let raw = header.features & header::NO_PROBE != 0;
        Ok((header, Some(Backing { name, format: raw.then(|| "raw".to_owned()) })))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        self.header.cluster_size
    }

    /// The backing file as the image records it now; its format is "raw" or not recorded.
    pub(crate) fn backing(&self) -> Option<Backing> {
        self.backing.borrow().clone()
    }

    /// See [`Retired::reading`].
    pub(crate) fn reading(&self) -> Reading {
        self.retired.reading()
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: {what}", self.storage.name()))
    }
}

#[cfg(test)]
#[path = "qed_tests.rs"]
mod tests;
