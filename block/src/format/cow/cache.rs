//! Pieces of metadata tables in memory: loaded on demand, written back by the commit.
//!
//! Tables are held in slices of at most 4 KiB, so that a random lookup in a large image reads 4 KiB,
//! and each slice knows which of its 512-byte sectors differ from the file.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use executor::sync::Event;

use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

/// The unit that storage writes whole or not at all, and so the unit of table writes.
pub(crate) const SECTOR: usize = 512;
const MAX_SLICE: u64 = 4096;
/// The memory of a slice beside its bytes, in bytes; approximate.
const OVERHEAD: u64 = 128;

/// The byte order in which a format stores numbers.
#[derive(Clone, Copy)]
pub(crate) enum ByteOrder {
    Big,
    Little,
}

/// A part of a table.
pub(crate) struct Slice {
    offset: u64,
    order: ByteOrder,
    bytes: RefCell<Box<[u8]>>,
    /// The sectors that differ from the file, one bit each.
    dirty: Cell<u8>,
    used: Cell<u64>,
}

impl Slice {
    pub(crate) fn u64_at(&self, index: usize) -> u64 {
        let bytes = self.bytes.borrow();
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        match self.order {
            ByteOrder::Big => u64::from_be_bytes(word),
            ByteOrder::Little => u64::from_le_bytes(word),
        }
    }

    /// Calls `look` with the bytes.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.bytes.borrow())
    }
}

/// Sectors to be written, in one piece.
#[derive(Clone)]
pub(crate) struct Run {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// Slices of one kind of table.
pub(crate) struct Cache {
    storage: Rc<dyn Storage>,
    order: ByteOrder,
    slice_len: u64,
    capacity: usize,
    slices: RefCell<HashMap<u64, Rc<Slice>>>,
    /// In the order of the file, so that neighbours are written in one piece.
    dirty: RefCell<BTreeMap<u64, Rc<Slice>>>,
    /// The number of slices that are being written, and cannot leave before that ends.
    writing: Rc<Cell<usize>>,
    loading: RefCell<BTreeMap<u64, Rc<Event>>>,
    clock: Cell<u64>,
}

impl Cache {
    /// A cache of `capacity` bytes of tables that are whole clusters. Dirty slices may exceed it until the
    /// next commit, which the owner starts ([`Cache::is_crowded`]).
    pub(crate) fn new(storage: Rc<dyn Storage>, order: ByteOrder, cluster_size: u64, capacity: u64) -> Self {
        let slice_len = cluster_size.min(MAX_SLICE);
        Cache {
            storage,
            order,
            slice_len,
            capacity: (capacity / (slice_len + OVERHEAD)).max(16) as usize,
            slices: RefCell::default(),
            dirty: RefCell::default(),
            writing: Rc::default(),
            loading: RefCell::default(),
            clock: Cell::default(),
        }
    }

    pub(crate) fn slice_len(&self) -> u64 {
        self.slice_len
    }

    /// Returns the slice at `offset` in the file, which must be a multiple of the slice length.
    pub(crate) async fn get(&self, offset: u64) -> Result<Rc<Slice>> {
        loop {
            if let Some(slice) = self.slices.borrow().get(&offset) {
                self.touch(slice);
                return Ok(slice.clone());
            }
            let loading = self.loading.borrow().get(&offset).cloned();
            match loading {
                Some(event) => event.wait().await,
                None => break,
            }
        }
        if offset >= self.storage.len() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{}: a metadata table at {offset:#x} lies past the file's end", self.storage.name()),
            ));
        }
        let _loading = Loading::begin(self, offset);
        let mut buf = Buf::new(self.slice_len as usize);
        self.storage.read(offset, buf.clone()).await?;
        // If a new table was made at this place while the read was in flight, that one is right.
        if let Some(slice) = self.slices.borrow().get(&offset) {
            return Ok(slice.clone());
        }
        let bytes = buf.bytes_mut().map_or_else(Vec::new, |bytes| bytes.to_vec());
        Ok(self.insert(offset, bytes.into()))
    }

    /// Returns the slice at `offset`, if it is in memory.
    #[cfg(test)]
    pub(crate) fn peek(&self, offset: u64) -> Option<Rc<Slice>> {
        self.slices.borrow().get(&offset).cloned()
    }

    /// Writes a new table of `bytes` to `offset`, which nothing refers to, and keeps it in memory from
    /// then on. So a table has its space before anything depends on it: if there is none, nothing has
    /// changed, and earlier changes can still be made durable.
    pub(crate) async fn write_table(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.storage.write(offset, Buf::from_bytes(bytes)).await?;
        for (index, bytes) in bytes.chunks(self.slice_len as usize).enumerate() {
            self.insert(offset + index as u64 * self.slice_len, bytes.into());
        }
        Ok(())
    }

    fn insert(&self, offset: u64, bytes: Box<[u8]>) -> Rc<Slice> {
        let slice = Rc::new(Slice {
            offset,
            order: self.order,
            bytes: RefCell::new(bytes),
            dirty: Cell::new(0),
            used: Cell::new(0),
        });
        self.touch(&slice);
        self.slices.borrow_mut().insert(offset, slice.clone());
        self.evict();
        slice
    }

    fn touch(&self, slice: &Slice) {
        self.clock.set(self.clock.get() + 1);
        slice.used.set(self.clock.get());
    }

    /// Drops the least recently used clean slices when over capacity, an eighth at a time, so that
    /// the search is paid for by many loads.
    fn evict(&self) {
        let mut slices = self.slices.borrow_mut();
        if slices.len() <= self.capacity {
            return;
        }
        let idle = slices.values().filter(|slice| Rc::strong_count(slice) == 1);
        let mut idle: Vec<_> = idle.map(|slice| (slice.used.get(), slice.offset)).collect();
        let most = (self.capacity / 8).max(1);
        if idle.len() > most {
            idle.select_nth_unstable(most);
            idle.truncate(most);
        }
        for (_, offset) in idle {
            slices.remove(&offset);
        }
    }

    /// The memory that it takes, in bytes; approximate.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> u64 {
        self.slices.borrow().len() as u64 * (self.slice_len + OVERHEAD)
    }

    /// Returns true if dirty slices take so much of the capacity that a commit is due.
    pub(crate) fn is_crowded(&self) -> bool {
        self.dirty.borrow().len() > self.capacity / 2
    }

    /// Returns true if slices that are dirty or being written take all of the capacity: to make more
    /// dirty, a caller has to wait for a commit.
    pub(crate) fn is_full(&self) -> bool {
        self.dirty.borrow().len() + self.writing.get() >= self.capacity
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.borrow().is_empty()
    }

    /// Changes bytes of a slice through `change`, which returns the range that it changed.
    pub(crate) fn modify(&self, slice: &Rc<Slice>, change: impl FnOnce(&mut [u8]) -> std::ops::Range<usize>) {
        let range = change(&mut slice.bytes.borrow_mut());
        let before = slice.dirty.get();
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            slice.dirty.set(slice.dirty.get() | 1 << sector);
        }
        if before == 0 && slice.dirty.get() != 0 {
            self.dirty.borrow_mut().insert(slice.offset, slice.clone());
        }
    }

    /// Sets the word at `index`.
    pub(crate) fn set_u64(&self, slice: &Rc<Slice>, index: usize, value: u64) {
        let word = match self.order {
            ByteOrder::Big => value.to_be_bytes(),
            ByteOrder::Little => value.to_le_bytes(),
        };
        self.modify(slice, |bytes| {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&word);
            index * 8..index * 8 + 8
        });
    }

    /// Takes a copy of every dirty sector, marks it clean, and holds the slices so that they stay in
    /// memory until the copies are written.
    pub(crate) fn take_dirty(&self) -> Taken {
        let writing = self.writing.clone();
        let mut taken = Taken { slices: Vec::new(), runs: Vec::new(), writing };
        for slice in self.dirty.take().into_values() {
            let mask = slice.dirty.take();
            let runs = &mut taken.runs;
            slice.read(|bytes| {
                let sectors = bytes.chunks(SECTOR).enumerate().filter(|(sector, _)| mask >> sector & 1 == 1);
                sectors.for_each(|(sector, bytes)| add(runs, slice.offset + (sector * SECTOR) as u64, bytes));
            });
            taken.slices.push((mask, slice));
        }
        self.writing.set(self.writing.get() + taken.slices.len());
        taken
    }

    /// Makes sectors dirty again that could not be written.
    pub(crate) fn give_back(&self, taken: &Taken) {
        for (mask, slice) in &taken.slices {
            slice.dirty.set(slice.dirty.get() | mask);
            self.dirty.borrow_mut().insert(slice.offset, slice.clone());
        }
    }
}

/// Dirty sectors as they were at one moment, neighbours joined.
pub(crate) struct Taken {
    slices: Vec<(u8, Rc<Slice>)>,
    pub(crate) runs: Vec<Run>,
    writing: Rc<Cell<usize>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.writing.set(self.writing.get() - self.slices.len());
    }
}

/// Adds a sector to runs of at most 1 MiB.
fn add(runs: &mut Vec<Run>, offset: u64, bytes: &[u8]) {
    const LARGEST: usize = 1 << 20;
    match runs.last_mut() {
        Some(run) if run.offset + run.bytes.len() as u64 == offset && run.bytes.len() < LARGEST => {
            run.bytes.extend_from_slice(bytes);
        }
        _ => runs.push(Run { offset, bytes: bytes.to_vec() }),
    }
}

/// Marks a slice as being loaded, however the load ends.
struct Loading<'a> {
    cache: &'a Cache,
    offset: u64,
    event: Rc<Event>,
}

impl<'a> Loading<'a> {
    fn begin(cache: &'a Cache, offset: u64) -> Self {
        let event = Rc::new(Event::new());
        cache.loading.borrow_mut().insert(offset, event.clone());
        Loading { cache, offset, event }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.cache.loading.borrow_mut().remove(&self.offset);
        self.event.notify();
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
