//! The use of host clusters: refcount table, refcount blocks, and the allocator over them (QEMU
//! `docs/interop/qcow2.txt`, "Host cluster management").
//!
//! Counts change in memory at once; the commit writes them in an order that never lets a count in the
//! file be too low: increases go before whatever refers to the cluster, and a decrease enters memory
//! only after the reference that it drops is durably gone ([`Refcounts::free_later`]).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use executor::sync::Semaphore;

use super::header::Header;
use super::overlap::Metadata;
use crate::format::cow::cache::{ByteOrder, Cache, Slice};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

mod run;
mod table;
use table::TableState;

/// The most space that may be counted past the file's end, in bytes: more than is ever in flight at once.
const LEAKED: u64 = 1 << 30;

/// Entries of the refcount table: bits 0-8 are reserved.
pub(super) const TABLE_OFFSET_MASK: u64 = 0xffff_ffff_ffff_fe00;

/// The refcounts of one image.
pub(crate) struct Refcounts {
    pub(crate) cache: Cache,
    pub(crate) table: RefCell<TableState>,
    storage: Rc<dyn Storage>,
    metadata: Rc<Metadata>,
    cluster_bits: u32,
    /// log2 of the width of a count in bits.
    order: u32,
    /// Every cluster below this one is in use.
    hint: Cell<u64>,
    /// One more than the highest cluster that was allocated since the image was opened.
    highest: Cell<u64>,
    /// Held by one allocation at a time: it may read blocks from the file between finding and taking
    /// clusters.
    lock: Rc<Semaphore>,
    /// Freed ranges; the references to them are durably gone only after the next commit.
    freed: RefCell<Vec<Range<u64>>>,
}

impl Refcounts {
    /// Reads the refcount table.
    pub(super) async fn open(
        storage: Rc<dyn Storage>,
        header: &Header,
        cache: u64,
        metadata: Rc<Metadata>,
    ) -> Result<Self> {
        let bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        let buf = Buf::new(bytes as usize);
        storage.read(header.refcount_table_offset, buf.clone()).await?;
        let entries = super::words(&buf.to_vec()).map(|entry| entry & TABLE_OFFSET_MASK).collect();
        let table = TableState {
            entries,
            offset: header.refcount_table_offset,
            clusters: header.refcount_table_clusters.into(),
            ..TableState::default()
        };
        Ok(Refcounts {
            cache: Cache::new(storage.clone(), ByteOrder::Big, header.cluster_size(), cache),
            table: RefCell::new(table),
            storage,
            metadata,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            hint: Cell::new(0),
            highest: Cell::new(0),
            lock: Semaphore::new(1),
            freed: RefCell::default(),
        })
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The number of counts in one block.
    pub(super) fn per_block(&self) -> u64 {
        (self.cluster_size() * 8) >> self.order
    }

    fn per_slice(&self) -> u64 {
        (self.cache.slice_len() * 8) >> self.order
    }

    /// Returns the slice with the count of `cluster` and the count's index in it; `None` if no block
    /// covers it, so that its count is 0.
    async fn slice(&self, cluster: u64) -> Result<Option<(Rc<Slice>, u64)>> {
        let block = cluster / self.per_block();
        let offset = self.table.borrow().entries.get(block as usize).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.cluster_size()) {
            let name = self.storage.name();
            let text = format!("{name}: refcount block {block} at {offset:#x} is not aligned");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let index = cluster % self.per_block();
        let slice = self.cache.get(offset + index / self.per_slice() * self.cache.slice_len()).await?;
        Ok(Some((slice, index % self.per_slice())))
    }

    /// The refcount of a cluster, by its number.
    pub(super) async fn get(&self, cluster: u64) -> Result<u64> {
        let found = self.slice(cluster).await?;
        Ok(found.map_or(0, |(slice, index)| slice.read(|bytes| get(bytes, self.order, index))))
    }

    /// Takes up to `want` neighbouring free clusters. Returns the offset of the first in the file, and
    /// their number.
    ///
    /// # Errors
    /// `NoSpace` if the storage cannot grow, or has no space for a block that has to be made. Nothing has
    /// changed then.
    pub(crate) async fn allocate(&self, want: u64) -> Result<(u64, u64)> {
        let _one = self.lock.acquire(1).await;
        self.take(want).await
    }

    /// As [`Refcounts::allocate`], for a caller that holds the lock.
    async fn take(&self, want: u64) -> Result<(u64, u64)> {
        let hint = self.hint.get();
        let mut cluster = hint;
        loop {
            if let Err(e) = self.check_room(cluster + 1).await {
                // Everything before it is in use, unless something was freed meanwhile.
                if self.hint.get() == hint {
                    self.hint.set(cluster);
                }
                return Err(e);
            }
            let Some((slice, index)) = self.slice(cluster).await? else {
                cluster = self.add_block(cluster).await?;
                continue;
            };
            let order = self.order;
            let found = slice.read(|bytes| {
                let free = |index: &u64| get(bytes, order, *index) == 0;
                let start = (index..self.per_slice()).find(free)?;
                let end = (start..self.per_slice().min(start + want)).find(|index| !free(index));
                Some((start, end.unwrap_or(self.per_slice().min(start + want))))
            });
            let Some((start, end)) = found else {
                cluster += self.per_slice() - index;
                self.check_in_use(cluster)?;
                continue;
            };
            let first = cluster - index + start;
            let end = end.min(start + self.most_clusters().saturating_sub(first));
            if start >= end {
                // Past the storage's known end: `check_room` measures it again.
                cluster = first;
                continue;
            }
            self.check_free(first..first + (end - start))?;
            self.cache.modify(&slice, |bytes| {
                (start..end).for_each(|index| set(bytes, order, index, 1));
                (start << order >> 3) as usize..((end << order).div_ceil(8)) as usize
            });
            // Unless something below was freed meanwhile.
            if self.hint.get() == hint {
                self.hint.set(first + (end - start));
            }
            self.highest.set(self.highest.get().max(first + (end - start)));
            return Ok((first << self.cluster_bits, end - start));
        }
    }

    /// Fails if one of these clusters holds metadata.
    fn check_free(&self, clusters: Range<u64>) -> Result<()> {
        self.metadata.check_free(clusters).map_err(|e| e.context(self.storage.name()))
    }

    /// Fails if a table counts clusters far past the file's end as used: a hostile one would make the
    /// allocator search for hours. Some are allowed, since a power cut leaves clusters that were counted
    /// but never written.
    fn check_in_use(&self, next: u64) -> Result<()> {
        let end = self.storage.len().div_ceil(self.cluster_size()).max(self.highest.get());
        if next <= end + self.per_slice().max(LEAKED >> self.cluster_bits) {
            return Ok(());
        }
        let name = self.storage.name();
        Err(Error::new(ErrorKind::Corrupt, format!("{name}: refcounts past the file's end are not zero")))
    }

    /// Gives clusters back that no metadata, in memory or in the file, refers to any more.
    pub(crate) async fn free_now(&self, range: Range<u64>) -> Result<()> {
        for cluster in range.start >> self.cluster_bits..range.end >> self.cluster_bits {
            if let Some((slice, index)) = self.slice(cluster).await? {
                self.put(&slice, index, 0);
                self.hint.set(self.hint.get().min(cluster));
            }
        }
        Ok(())
    }

    /// Drops one reference to each cluster. Those that lose their last one stay counted, so that nobody
    /// takes them, and are added to `last`, for [`Refcounts::free_now`].
    pub(super) async fn release(&self, range: Range<u64>, last: &mut Vec<Range<u64>>) -> Result<()> {
        for cluster in range.start >> self.cluster_bits..range.end >> self.cluster_bits {
            let Some((slice, index)) = self.slice(cluster).await? else { continue };
            match slice.read(|bytes| get(bytes, self.order, index)) {
                0 => {}
                // An entry shared the cluster with a table, but its count did not say so.
                1 if self.metadata.contains(cluster) => {
                    executor::limited!(
                        warn,
                        "{}: metadata in cluster {cluster} is not given back",
                        self.storage.name()
                    );
                }
                1 => {
                    let start = cluster << self.cluster_bits;
                    let end = start + self.cluster_size();
                    match last.last_mut().filter(|last| last.end == start) {
                        Some(last) => last.end = end,
                        None => last.push(start..end),
                    }
                }
                count => self.put(&slice, index, count - 1),
            }
        }
        Ok(())
    }

    /// Sets a count in a slice.
    fn put(&self, slice: &Rc<Slice>, index: u64, count: u64) {
        self.cache.modify(slice, |bytes| {
            set(bytes, self.order, index, count);
            (index << self.order >> 3) as usize..((index + 1) << self.order).div_ceil(8) as usize
        });
    }

    /// Drops a reference to clusters once the next commit has removed it from the file durably.
    pub(crate) fn free_later(&self, range: Range<u64>) {
        self.freed.borrow_mut().push(range);
    }

    /// Takes the ranges that were freed so far. The caller commits, then calls [`Refcounts::release`] for
    /// each once no read can still refer to it.
    pub(crate) fn take_freed(&self) -> Vec<Range<u64>> {
        self.freed.take()
    }

    pub(crate) fn has_freed(&self) -> bool {
        !self.freed.borrow().is_empty()
    }

    /// Counts the clusters of the file that are in use. Stops at `enough` of them, or after `blocks`
    /// refcount blocks.
    pub(super) async fn count_used(&self, enough: u64, mut blocks: u64) -> Result<u64> {
        let counted = self.table.borrow().entries.len() as u64 * self.per_block();
        let end = self.storage.len().div_ceil(self.cluster_size()).min(counted);
        let (mut cluster, mut used) = (0, 0);
        while cluster < end && used < enough {
            let Some((slice, first)) = self.slice(cluster).await? else {
                cluster += self.per_block();
                continue;
            };
            if cluster.is_multiple_of(self.per_block()) {
                if blocks == 0 {
                    break;
                }
                blocks -= 1;
            }
            let last = self.per_slice().min(first + (end - cluster));
            used += slice.read(|bytes| {
                (first..last).filter(|index| get(bytes, self.order, *index) != 0).count() as u64
            });
            cluster += last - first;
        }
        Ok(used.min(enough))
    }

    /// Returns the end of the last cluster in use, in bytes, searching backwards from the file's end. The
    /// search is bounded: if a file ends far behind all that is in use, the result is too large.
    pub(crate) async fn used_end(&self) -> Result<u64> {
        const SLICES: usize = 4096;
        let mut looked = 0;
        // A file may be of any length, but clusters that no block can cover are not in use.
        let counted = self.table.borrow().entries.len() as u64 * self.per_block();
        let mut cluster = self.storage.len().div_ceil(self.cluster_size()).min(counted);
        while cluster > 0 && looked < SLICES {
            looked += 1;
            match self.slice(cluster - 1).await? {
                // No block: none of its clusters is in use.
                None => cluster = (cluster - 1) / self.per_block() * self.per_block(),
                Some((slice, index)) => {
                    let used = |index: &u64| slice.read(|bytes| get(bytes, self.order, *index)) != 0;
                    if let Some(last) = (0..=index).rev().find(used) {
                        cluster -= index - last;
                        break;
                    }
                    cluster -= index + 1;
                }
            }
        }
        Ok(cluster << self.cluster_bits)
    }
}

/// The count at `index`; counts narrower than a byte fill it from its low bits.
pub(super) fn get(bytes: &[u8], order: u32, index: u64) -> u64 {
    if order < 3 {
        let bit = index << order;
        return u64::from(bytes[(bit / 8) as usize]) >> (bit % 8) & ((1 << (1 << order)) - 1);
    }
    let width = 1 << (order - 3);
    let at = index as usize * width;
    bytes[at..at + width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Sets the count at `index`. The value must fit into its width.
pub(super) fn set(bytes: &mut [u8], order: u32, index: u64, value: u64) {
    if order < 3 {
        let bit = index << order;
        let byte = &mut bytes[(bit / 8) as usize];
        let mask = ((1u16 << (1 << order)) - 1) as u8;
        *byte = *byte & !(mask << (bit % 8)) | (value as u8 & mask) << (bit % 8);
        return;
    }
    let width = 1 << (order - 3);
    let at = index as usize * width;
    bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
}

#[cfg(test)]
#[path = "refcounts_tests.rs"]
mod tests;
