//! QED (QEMU `docs/interop/qed_spec.txt`).
//!
//! What every byte of a disk is, and what changes it:
//!
//! | L2 entry | reads as | a write makes it | zeroing makes it |
//! |---|---|---|---|
//! | 0, or no L2 table | the backing file | data, in a new cluster | zero |
//! | 1 | zeros | data, in a new cluster | zero |
//! | an offset | the cluster | the same, in place | the same, which becomes a hole in the host's file |
//!
//! There are no refcounts: the file's length is the allocator. NEED_CHECK is durable in the header
//! before the first change, and cleared by a clean close; opened for writing with the bit set, an image
//! is checked first and trimmed to what its tables refer to. Of every image that is opened for writing the
//! L2 tables' places are known, so that an entry that points into one is refused, not written to; and where
//! they are not many, that no two entries refer to one cluster.
//!
//! The format cannot say that a cluster is free: what nothing refers to is leaked. So a cluster never leaves
//! its entry. What a failed write had taken is used again in the same session; at a clean close the file is
//! cut off behind the last cluster in use, and what is free before it goes to entries that read as zeros, as
//! a hole does.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};

use executor::sync::Semaphore;

use super::cache::{ByteOrder, Cache};
use super::commit::{Ahead, Commits, patch_header};
use super::retire::{Reading, Retired};
use super::{Backing, Owner};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

pub(crate) mod check;
mod commit;
pub(crate) mod create;
pub(crate) mod header;
mod mapping;
mod resize;
mod retire;
mod space;
mod tables;

use header::Header;
pub(crate) use mapping::Clear;
use space::Space;
use tables::Tables;

/// Memory for tables of one image, in bytes.
const CACHE: u64 = 28 << 20;

/// Tables that contradict themselves or each other.
fn not_sound(what: impl std::fmt::Display) -> Error {
    let text = format!("{what}; repair it with 'millrace image check -f qed --repair all'");
    Error::new(ErrorKind::Corrupt, text)
}

/// Refuses storage that cannot grow, for who would write to an image there: QED allocates by the file's
/// length, and relies on a new table to read as zeros.
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
    /// For tasks of its own.
    this: Weak<Qed>,
    storage: Rc<dyn Storage>,
    header: Header,
    size: Cell<u64>,
    backing: RefCell<Option<Backing>>,
    l2_tables: Tables,
    /// L1 and L2 tables: a table may be 1 GiB large, so that not even the L1 is held whole.
    tables: Cache,
    /// New L2 tables are made one at a time.
    making: Rc<Semaphore>,
    space: Space,
    commits: Commits,
    ahead: Rc<Ahead>,
    retired: Retired,
    /// The header is changed by one at a time.
    patching: Rc<Semaphore>,
    /// NEED_CHECK is in the file.
    changed: Cell<bool>,
}

impl Owner for Qed {
    fn free_later(&self, range: Range<u64>) {
        self.space.free_later(range);
    }
}

impl Qed {
    /// Reads the metadata of an image. For writing, an image that was not closed is repaired first, and
    /// features that others would have to keep up to date are marked stale.
    ///
    /// # Errors
    /// `Corrupt` where a write could destroy metadata; only a repair that was asked for goes on there.
    pub(crate) async fn open(storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<Self>> {
        let name = storage.name().to_owned();
        Self::open_inner(storage, writable).await.map_err(|e| match e.kind() {
            ErrorKind::Io => e,
            _ => e.context(name),
        })
    }

    async fn open_inner(storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<Self>> {
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
            // What a process that died had written may be in memory only.
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
        let name = name.ok_or_else(|| header::corrupt("the backing file name is no text"))?;
        let raw = header.features & header::NO_PROBE != 0;
        Ok((header, Some(Backing { name, format: raw.then(|| "raw".to_owned()) })))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        self.header.cluster_size
    }

    /// The backing file as the image records it now: "raw", or no format.
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
