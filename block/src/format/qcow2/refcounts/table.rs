//! The refcount table: its blocks, and its growth.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Refcounts, set};
use crate::format::cow::cache::SECTOR;
use crate::format::qcow2::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::format::qcow2::overlap::Metadata;
use crate::turns::Turns;
use crate::{Buf, Error, ErrorKind, Result};

/// The refcount table, its place, and the parts of it that are not in the file yet.
#[derive(Default)]
pub(crate) struct TableState {
    pub entries: Vec<u64>,
    pub offset: u64,
    pub clusters: u64,
    /// Sectors that differ from the file.
    pub dirty: BTreeSet<usize>,
    /// The old place of the table if it was moved: all of the table is to be written then, and after it
    /// the header.
    pub moved: Option<Range<u64>>,
}

impl TableState {
    /// Notes that the table and its blocks are metadata.
    pub(in crate::format::qcow2) async fn add_to(&self, metadata: &Metadata, cluster_size: u64) {
        let turns = Turns::default();
        metadata.add(self.offset..self.offset + self.clusters * cluster_size);
        for block in self.entries.iter().filter(|block| **block != 0) {
            metadata.add_cluster(*block);
            turns.step().await;
        }
    }
}

impl Refcounts {
    /// Returns the number of clusters that the file can have.
    pub(super) fn most_clusters(&self) -> u64 {
        if self.storage.is_fixed() { self.storage.len() >> self.cluster_bits } else { u64::MAX }
    }

    /// Fails if the storage has no room for this many clusters. A device that seems too small is measured
    /// again, since it may have grown.
    pub(super) async fn check_room(&self, clusters: u64) -> Result<()> {
        if clusters <= self.most_clusters() {
            return Ok(());
        }
        self.storage.truncate(clusters << self.cluster_bits).await?;
        if clusters <= self.most_clusters() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, format!("{}: no space left", self.storage.name())))
    }

    /// Makes a block for the range that holds `cluster`, whose clusters are all free, and puts it into
    /// that range. Returns the cluster from which to look on.
    pub(super) async fn add_block(&self, cluster: u64) -> Result<u64> {
        let block = cluster / self.per_block();
        if block >= self.table.borrow().entries.len() as u64 {
            return self.grow_table(cluster).await;
        }
        self.check_free(cluster..cluster + 1)?;
        self.write_block(block, cluster, cluster..cluster + 1).await?;
        self.install_block(block, cluster);
        self.highest.set(self.highest.get().max(cluster + 1));
        Ok(cluster + 1)
    }

    /// Writes block `block`, which counts the clusters of `used` and no others, to `cluster`.
    pub(super) async fn write_block(&self, block: u64, cluster: u64, used: Range<u64>) -> Result<()> {
        let first = block * self.per_block();
        let mut bytes = vec![0; self.cluster_size() as usize];
        for used in used.start.max(first)..used.end.min(first + self.per_block()) {
            set(&mut bytes, self.order, used - first, 1);
        }
        self.cache.write_table(cluster << self.cluster_bits, &bytes).await
    }

    /// Enters block `block`, which was written to `cluster`, into the table.
    pub(super) fn install_block(&self, block: u64, cluster: u64) {
        let offset = cluster << self.cluster_bits;
        self.metadata.add(offset..offset + self.cluster_size());
        let mut table = self.table.borrow_mut();
        table.entries[block as usize] = offset;
        table.dirty.insert(block as usize * 8 / SECTOR);
    }

    /// Moves the table to a larger place at `cluster`, from where on all clusters are free: first come the
    /// blocks that cover the new area, then the table. Returns the cluster from which to look on.
    pub(super) async fn grow_table(&self, cluster: u64) -> Result<u64> {
        let per_block = self.per_block();
        let entries_per_cluster = self.cluster_size() / 8;
        let old = self.table.borrow().entries.len() as u64;
        // The table grows by half, so that growing is rare; at least to the size that the new area itself
        // needs.
        let mut clusters = ((old + old / 2).max(cluster / per_block + 1)).div_ceil(entries_per_cluster);
        let blocks = loop {
            let first = cluster / per_block;
            let mut blocks = 1;
            while cluster + blocks + clusters > (first + blocks) * per_block {
                blocks += 1;
            }
            if clusters * entries_per_cluster >= first + blocks {
                break first..first + blocks;
            }
            clusters += 1;
        };
        let bytes = clusters * self.cluster_size();
        if bytes > MAX_REFCOUNT_TABLE_BYTES.max(self.cluster_size()) {
            let text = format!("{}: the refcount table cannot grow past 8 MiB", self.storage.name());
            return Err(Error::new(ErrorKind::NoSpace, text));
        }
        let table_cluster = cluster + (blocks.end - blocks.start);
        let end = table_cluster + clusters;
        self.check_room(end).await?;
        self.check_free(cluster..end)?;
        for (at, block) in (cluster..).zip(blocks.clone()) {
            self.write_block(block, at, cluster..end).await?;
        }
        // This makes sure of the space; the next commit writes the entries.
        self.storage.write(table_cluster << self.cluster_bits, Buf::new(bytes as usize)).await?;
        // From here on nothing waits, so that a commit finds all of the change or nothing.
        {
            let mut table = self.table.borrow_mut();
            let place = table.offset..table.offset + table.clusters * self.cluster_size();
            // Moved twice before a commit: the place in between is free once the file names the new one.
            if table.moved.is_some() {
                self.metadata.remove(place.clone());
                self.free_later(place);
            } else {
                table.moved = Some(place);
            }
            table.entries.resize((clusters * entries_per_cluster) as usize, 0);
            table.offset = table_cluster << self.cluster_bits;
            table.clusters = clusters;
            self.metadata.add(table.offset..table.offset + bytes);
        }
        for (at, block) in (cluster..).zip(blocks) {
            self.install_block(block, at);
        }
        self.highest.set(self.highest.get().max(end));
        Ok(end)
    }
}
