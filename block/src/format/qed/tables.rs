//! The places of an image's L2 tables, in which no data may be written.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::check::next_piece;
use super::header::Header;
use super::mapping::ZERO;
use super::not_sound;
use super::used::Used;
use crate::Result;
use crate::storage::Storage;

/// The most bytes of L2 tables that an opening or a close reads: enough for 128 GiB in clusters of 64 KiB.
pub(super) const SCANNED: u64 = 16 << 20;

/// The L2 tables of an image that is open for writing.
pub(super) struct Tables {
    len: u64,
    offsets: RefCell<BTreeSet<u64>>,
}

impl Tables {
    /// Makes an empty set: for an image that is only read, which has nothing to lose.
    pub(super) fn unknown(header: &Header) -> Self {
        Tables { len: header.table_len(), offsets: RefCell::default() }
    }

    /// Reads the L1 table, as far as a disk of any size can come to use it.
    ///
    /// # Errors
    /// `Corrupt` if a table lies at an impossible place, or overlaps another.
    pub(super) async fn read(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let known = Tables::unknown(header);
        let file_end = storage.len().next_multiple_of(header.cluster_size);
        let l1 = header.l1();
        let usable = l1.start + header.max_size().div_ceil(header.l2_coverage()) * 8;
        let mut at = l1.start;
        while let Some((start, entries)) = next_piece(storage, at, usable.min(l1.end)).await? {
            at = start + entries.len() as u64 * 8;
            for table in entries.into_iter().filter(|table| *table != 0) {
                let inside = header.is_place(table, known.len) && table + known.len <= file_end;
                if !inside || known.overlap(table, known.len) {
                    return Err(not_sound(format!("an L2 table at {table:#x}, where none can be")));
                }
                known.add(table);
            }
        }
        Ok(known)
    }

    /// Looks for clusters that two entries refer to: a write to one would change the other, and a discard
    /// take its data away. Tables of more than [`SCANNED`] bytes are left to a check, since reading them
    /// would delay every opening; QEMU looks in none. An entry that points to an impossible place is
    /// refused when it is used.
    ///
    /// # Errors
    /// `Corrupt` if there is such a cluster.
    pub(super) async fn refuse_shared(&self, storage: &dyn Storage, header: &Header) -> Result<()> {
        let tables = self.offsets();
        if tables.len() as u64 > SCANNED / self.len {
            return Ok(());
        }
        let cluster = header.cluster_size;
        let file_end = storage.len().next_multiple_of(cluster);
        let is_data = |host: u64| {
            header.is_place(host, cluster) && host + cluster <= file_end && !self.overlap(host, cluster)
        };
        let mut used = Used::default();
        for table in tables {
            let mut at = table;
            while let Some((start, entries)) = next_piece(storage, at, table + self.len).await? {
                at = start + entries.len() as u64 * 8;
                for host in entries.into_iter().filter(|entry| *entry > ZERO && is_data(*entry)) {
                    if !used.take(host / cluster)? {
                        return Err(not_sound(format!("two entries refer to the cluster at {host:#x}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the offsets of the tables that are known, in order.
    pub(super) fn offsets(&self) -> Vec<u64> {
        self.offsets.borrow().iter().copied().collect()
    }

    pub(super) fn add(&self, table: u64) {
        self.offsets.borrow_mut().insert(table);
    }

    /// Returns true if a known table contains some of the `len` bytes at `offset`.
    pub(super) fn overlap(&self, offset: u64, len: u64) -> bool {
        let offsets = self.offsets.borrow();
        let last = offsets.range(..offset.saturating_add(len)).next_back();
        last.is_some_and(|table| table.saturating_add(self.len) > offset)
    }
}
