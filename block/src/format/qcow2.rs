//! qcow2, versions 2 and 3 (QEMU `docs/interop/qcow2.txt`).
//!
//! The states of a disk's bytes, and their changes:
//!
//! | L2 entry | reads as | a write makes it |
//! |---|---|---|
//! | absent | the backing file | data, in a new cluster |
//! | zero, no cluster | zeros | data, in a new cluster |
//! | zero, with its own cluster | zeros | data, in that cluster |
//! | data, refcount 1 (COPIED) | the cluster | the same, in place |
//! | compressed | the decompressed bytes | data, in a new cluster; each old cluster loses a reference |
//! | data, shared with a snapshot | the cluster | data, in a new cluster; the old one loses a reference |
//!
//! With extended L2 entries each of a cluster's 32 subclusters is absent, zero or data by itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::{Rc, Weak};

use executor::sync::Semaphore;

use super::cow::cache::{ByteOrder, Cache};
use super::cow::commit::{Ahead, Commits};
use super::cow::retire::{Reading, Retired};
use super::{Backing, Owner};
use crate::format::Repair;
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

pub(crate) mod check;
mod commit;
pub(crate) mod compressed;
pub(crate) mod create;
pub(super) mod driver;
mod entry;
pub(crate) mod header;
pub(crate) mod info;
mod mapping;
mod overlap;
mod preallocate;
mod refcounts;
mod relink;
mod reserved;
mod resize;
mod retire;
mod snapshots;

use header::Header;
use overlap::Metadata;
use refcounts::Refcounts;
use snapshots::Snapshots;

/// Memory for tables of one image, in bytes: L2 tables, and an eighth as much again for refcounts.
const CACHE: u64 = 27 << 20;

/// In an L1 or standard L2 entry: the cluster's refcount is exactly 1.
const COPIED: u64 = 1 << 63;
/// Bits 9-55 of L1 and L2 entries: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Big-endian words of a table.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The L1 table, all of it in memory.
#[derive(Default)]
struct L1 {
    entries: Vec<u64>,
    offset: u64,
    /// Sectors that differ from the file.
    dirty: BTreeSet<usize>,
    /// The old place of the table if it was moved: all of the table is to be written then, and after it
    /// the header.
    moved: Option<Range<u64>>,
}

/// An open qcow2 image.
pub struct Qcow2 {
    /// A reference to itself, for tasks of its own.
    this: Weak<Qcow2>,
    storage: Rc<dyn Storage>,
    header: Header,
    size: Cell<u64>,
    backing: RefCell<Option<Backing>>,
    l1: RefCell<L1>,
    l2: Cache,
    refcounts: Refcounts,
    metadata: Rc<Metadata>,
    /// True once a change has found the metadata to be wrong; further changes are refused.
    refused: Cell<bool>,
    /// True if data may be written in place: not while the header has an autoclear feature, and not once
    /// changes are refused.
    in_place: Cell<bool>,
    /// Held while an L2 table is made.
    tables: Rc<Semaphore>,
    unpacked: compressed::Unpacked,
    commits: Commits,
    ahead: Rc<Ahead>,
    retired: Retired,
    /// Held while the header is changed.
    patching: Rc<Semaphore>,
    changed: Cell<bool>,
    /// See [`Qcow2::has_unwritten`]; only `image map` uses it.
    unwritten: Cell<Option<bool>>,
}

impl Owner for Qcow2 {
    fn free_later(&self, range: Range<u64>) {
        self.refcounts.free_later(range);
    }
}

impl Qcow2 {
    /// Reads the metadata of an image. Opening writes nothing, with one exception: an image with the dirty
    /// bit that is opened for writing has its refcounts rebuilt first. Only other programs set that bit,
    /// on images with lazy refcounts: Millrace always keeps refcounts exact, whatever `lazy_refcounts`
    /// says.
    pub(crate) async fn open(storage: Rc<dyn Storage>, writable: bool) -> Result<Rc<Self>> {
        let mut header = Self::read_header(&*storage).await?;
        if writable && header.is_dirty() && !header.is_corrupt() {
            check::check(&storage, Some(Repair::All)).await?;
            header = Self::read_header(&*storage).await?;
        }
        if writable && (header.is_dirty() || header.is_corrupt()) {
            let text = "marked corrupt; repair it with 'millrace image check --repair all'";
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let buf = Buf::new(header.l1_entries as usize * 8);
        storage.read(header.l1_offset, buf.clone()).await?;
        let l1 = L1 { entries: words(&buf.to_vec()).collect(), offset: header.l1_offset, ..L1::default() };
        // A reader need not know which clusters may be written.
        let snapshots =
            if writable { Snapshots::read(&*storage, &header).await? } else { Snapshots::default() };
        let metadata = Rc::new(Metadata::new(&header, &snapshots));
        let refcounts = Refcounts::open(storage.clone(), &header, CACHE / 8, metadata.clone()).await?;
        if writable {
            // Nobody else has the table yet.
            let table = refcounts.table.take();
            table.add_to(&metadata, header.cluster_size()).await;
            metadata.add_l1(&l1).await;
            refcounts.table.replace(table);
        }
        Ok(Rc::new_cyclic(|this| Qcow2 {
            this: this.clone(),
            backing: RefCell::new(header.backing.clone()),
            l1: RefCell::new(l1),
            l2: Cache::new(storage.clone(), ByteOrder::Big, header.cluster_size(), CACHE),
            refcounts,
            metadata,
            refused: Cell::new(false),
            in_place: Cell::new(header.autoclear == 0),
            tables: Semaphore::new(1),
            unpacked: compressed::Unpacked::default(),
            commits: Commits::default(),
            ahead: Ahead::new(),
            retired: Retired::new(),
            patching: Semaphore::new(1),
            changed: Cell::new(false),
            unwritten: Cell::new(None),
            size: Cell::new(header.size),
            header,
            storage,
        }))
    }

    /// Reads only the header.
    pub(crate) async fn read_header(storage: &dyn Storage) -> Result<Header> {
        let start = async |len: u64| {
            let buf = Buf::new(storage.len().min(len) as usize);
            storage.read(0, buf.clone()).await?;
            Ok::<_, Error>(buf.to_vec())
        };
        // The header, its extensions and the backing name lie in the first cluster.
        let bytes = start(64 << 10).await?;
        match header::cluster_size_in(&bytes) {
            Some(cluster) if cluster > bytes.len() as u64 => {
                Header::parse(&start(cluster).await?, storage.len())
            }
            _ => Header::parse(&bytes, storage.len()),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    /// The presence unit in bytes: a subcluster, or without extended L2 a cluster.
    pub(crate) fn subcluster_size(&self) -> u64 {
        self.cluster_size() / u64::from(self.subclusters())
    }

    fn subclusters(&self) -> u32 {
        if self.header.extended_l2() { 32 } else { 1 }
    }

    /// The backing file as the image records it now.
    pub(crate) fn backing(&self) -> Option<Backing> {
        self.backing.borrow().clone()
    }

    /// See [`Retired::reading`].
    pub(crate) fn reading(&self) -> Reading {
        self.retired.reading()
    }

    /// Memory that tables take, in bytes; approximate.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> u64 {
        self.l2.memory() + self.refcounts.cache.memory()
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: {what}", self.storage.name()))
    }
}
