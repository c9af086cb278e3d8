//! Compares the refcounts in the file with the references that were counted.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::overlap::Metadata;
use super::super::refcounts::{self, Refcounts, TABLE_OFFSET_MASK};
use super::super::snapshots::Snapshots;
use super::super::{COPIED, OFFSET_MASK, words};
use super::Pass;
use super::walk::COMPRESSED;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result};

/// Memory for refcounts that are looked up one by one, in bytes.
const CACHE: u64 = 4 << 20;

impl Pass {
    /// Reads the refcount table: the place of each block.
    pub(super) async fn refcount_table(&self) -> Result<Vec<u64>> {
        let len = u64::from(self.header.refcount_table_clusters) * self.header.cluster_size();
        Ok(words(&self.read(self.header.refcount_table_offset, len).await?).collect())
    }

    /// Counts the clusters that the refcounts take themselves.
    pub(super) async fn refcount_blocks(&mut self) -> Result<()> {
        let cluster = self.header.cluster_size();
        let table = self.refcount_table().await?;
        self.refer(self.header.refcount_table_offset, table.len() as u64 * 8).await?;
        for (n, entry) in table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            let block = entry & TABLE_OFFSET_MASK;
            if block != *entry {
                self.report.corruption(|| format!("ERROR: refcount table entry {n} has reserved bits set"));
            }
            if !self.is_table(block) {
                self.report.corruption(|| format!("ERROR: refcount block {n} at {block:#x} cannot be there"));
                self.rebuild = true;
                continue;
            }
            self.refer(block, cluster).await?;
            let count = self.counts.get(block / cluster);
            if count != 1 {
                self.report.corruption(|| format!("ERROR: refcount block {n} is referred to {count} times"));
                self.rebuild = true;
            }
        }
        Ok(())
    }

    /// Reports every refcount of a cluster in the file that differs from what was counted.
    pub(super) async fn compare(&mut self) -> Result<()> {
        let per_block = self.per_block();
        let table = self.refcount_table().await?;
        let in_table = table.iter().enumerate().filter(|(_, entry)| **entry != 0);
        let mut blocks: BTreeSet<u64> = in_table.map(|(n, _)| n as u64).collect();
        blocks.extend(self.counts.blocks(per_block));
        // Beyond the file's end there is nothing to compare.
        blocks.retain(|block| block * per_block < self.file_clusters);
        let mut end = 0;
        for block in blocks {
            let at = table.get(block as usize).map_or(0, |entry| entry & TABLE_OFFSET_MASK);
            let bytes = match self.is_table(at) {
                true => self.read(at, self.header.cluster_size()).await?,
                false => vec![0; self.header.cluster_size() as usize],
            };
            for index in 0..per_block {
                let cluster = block * per_block + index;
                if cluster >= self.file_clusters {
                    break;
                }
                self.turns.step().await;
                let refcount = refcounts::get(&bytes, self.header.refcount_order, index);
                let counted = self.counts.get(cluster);
                if refcount > 0 || counted > 0 {
                    end = end.max(cluster + 1);
                }
                if self.counts.agrees(cluster, refcount) {
                    continue;
                }
                let what = format!("cluster {cluster} refcount={refcount} reference={counted}");
                if refcount > counted {
                    self.report.leaks += 1;
                    self.report.tell(|| format!("Leaked {what}"));
                } else {
                    self.report.corruption(|| format!("ERROR {what}"));
                    self.rebuild = true;
                }
            }
        }
        self.report.image_end = end * self.header.cluster_size();
        Ok(())
    }

    /// Reports every COPIED flag in and below the active L1 table that is wrong: it must be set exactly if
    /// the refcount in the file is 1.
    pub(super) async fn compare_flags(&mut self) -> Result<()> {
        let header = self.header.clone();
        let metadata = Rc::new(Metadata::new(&header, &Snapshots::default()));
        let refcounts = Refcounts::open(self.storage.clone(), &header, CACHE, metadata).await?;
        let cluster = header.cluster_size();
        // A refcount that cannot be read was reported before.
        let fits = async |entry: u64| match refcounts.get((entry & OFFSET_MASK) / cluster).await {
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok::<_, Error>(true),
            refcount => Ok((refcount? == 1) == (entry & COPIED != 0)),
        };
        let l1 = self.read(header.l1_offset, u64::from(header.l1_entries) * 8).await?;
        let mut tables: BTreeMap<u64, u64> = BTreeMap::new();
        let turns = Turns::default();
        for entry in words(&l1) {
            turns.step().await;
            let table = entry & OFFSET_MASK;
            if !self.is_table(table) {
                continue;
            }
            if !fits(entry).await? {
                self.report.corruption(|| format!("ERROR OFLAG_COPIED L2 cluster: l1_entry={entry:#x}"));
            }
            *tables.entry(table).or_default() += 1;
        }
        for (table, times) in tables {
            let before = self.report.corruptions;
            let bytes = self.read(table, cluster).await?;
            for entry in words(&bytes).step_by(header.l2_entry_size() as usize / 8) {
                let has_cluster = entry & OFFSET_MASK != 0 && entry & COMPRESSED == 0;
                turns.step().await;
                if has_cluster && !fits(entry).await? {
                    self.report
                        .corruption(|| format!("ERROR OFLAG_COPIED data cluster: l2_entry={entry:#x}"));
                }
            }
            self.report.corruptions += (self.report.corruptions - before) * (times - 1);
        }
        Ok(())
    }
}
