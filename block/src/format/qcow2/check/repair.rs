//! Making metadata sound again.

use std::collections::BTreeSet;

use super::super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::super::refcounts::{self, TABLE_OFFSET_MASK};
use super::super::{COPIED, OFFSET_MASK, words};
use super::Pass;
use super::counts::Counts;
use super::walk::{COMPRESSED, ZERO};
use crate::format::Repair;
use crate::{Buf, Error, ErrorKind, Result};

/// Repairs the problems that `found` reports.
pub(super) async fn repair(found: Pass, what: Repair) -> Result<()> {
    if what == Repair::Leaks {
        return found.lower().await;
    }
    // Entries first: they decide what is referred to.
    found.mend_tables(None).await?;
    let (storage, rebuild) = (found.storage.clone(), found.rebuild);
    // One set of counts in memory at a time.
    drop(found);
    if rebuild {
        Pass::references(&storage).await?.rebuild().await?;
    }
    let exact = Pass::whole(&storage).await?;
    exact.lower().await?;
    exact.mend_tables(Some(&exact.counts)).await
}

fn to_bytes(words: &[u64]) -> Buf {
    Buf::from_bytes(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>())
}

impl Pass {
    /// Lowers refcounts that are too high, each in its place.
    async fn lower(&self) -> Result<()> {
        let (per_block, order) = (self.per_block(), self.header.refcount_order);
        for (n, entry) in self.refcount_table().await?.into_iter().enumerate() {
            let block = entry & TABLE_OFFSET_MASK;
            // A block that is something else as well is left alone.
            if !self.is_table(block) || self.counts.get(block / self.header.cluster_size()) != 1 {
                continue;
            }
            let mut bytes = self.read(block, self.header.cluster_size()).await?;
            let mut changed = false;
            for index in 0..per_block {
                let cluster = n as u64 * per_block + index;
                let refcount = refcounts::get(&bytes, order, index);
                if refcount > self.counts.get(cluster) && !self.counts.agrees(cluster, refcount) {
                    refcounts::set(&mut bytes, order, index, self.counts.get(cluster));
                    changed = true;
                }
            }
            if changed {
                self.storage.write(block, Buf::from_bytes(&bytes)).await?;
            }
        }
        self.storage.sync().await
    }

    /// Writes all refcounts anew, past the file's end, or on storage that cannot grow in a free run:
    /// blocks and table, and once they are durable, the header. The old ones are not counted, and so are
    /// free afterwards.
    async fn rebuild(mut self) -> Result<()> {
        let (per_block, cluster) = (self.per_block(), self.header.cluster_size());
        let old: BTreeSet<u64> = self.counts.blocks(per_block).collect();
        let (mut blocks, mut table_clusters) = (old.clone(), 1);
        let taken = if self.storage.is_fixed() { self.old_refcounts().await? } else { BTreeSet::new() };
        let start = loop {
            let start = self.free_run(blocks.len() as u64 + table_clusters, &taken).await?;
            let end = start + blocks.len() as u64 + table_clusters;
            let mut want = old.clone();
            want.extend(start / per_block..end.div_ceil(per_block));
            let entries = want.last().map_or(0, |last| last + 1);
            let want_clusters = (entries * 8).div_ceil(cluster);
            if want_clusters * cluster > MAX_REFCOUNT_TABLE_BYTES.max(cluster) {
                let text = "the file is so long that its refcount table would be over 8 MiB";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            if want.is_subset(&blocks) && want_clusters <= table_clusters {
                break start;
            }
            // Blocks that were once needed stay, so that the loop ends: a block that counts nothing does
            // no harm.
            blocks.extend(want);
            table_clusters = table_clusters.max(want_clusters);
        };
        let table_start = start + blocks.len() as u64;
        for cluster in start..table_start + table_clusters {
            self.counts.add(cluster, 1)?;
        }
        let mut table = vec![0; (table_clusters * cluster / 8) as usize];
        for (at, block) in (start..).zip(&blocks) {
            table[*block as usize] = at * cluster;
            let bytes = self.block(*block).await?;
            self.storage.write(at * cluster, Buf::from_bytes(&bytes)).await?;
        }
        self.storage.write(table_start * cluster, to_bytes(&table)).await?;
        self.storage.sync().await?;
        super::patch(&self.storage, |sector| {
            sector[48..56].copy_from_slice(&(table_start * cluster).to_be_bytes());
            sector[56..60].copy_from_slice(&(table_clusters as u32).to_be_bytes());
        })
        .await
    }

    /// Finds `want` neighbouring clusters that nothing refers to: behind the file's end, or, on storage that
    /// cannot grow, the first ones that are not in `taken` either.
    async fn free_run(&mut self, want: u64, taken: &BTreeSet<u64>) -> Result<u64> {
        if !self.storage.is_fixed() {
            return Ok(self.file_clusters);
        }
        let whole = self.storage.len() / self.header.cluster_size();
        let mut start = 0;
        for cluster in 0..whole {
            self.turns.step().await;
            if self.counts.get(cluster) > 0 || taken.contains(&cluster) {
                start = cluster + 1;
            } else if cluster + 1 - start == want {
                return Ok(start);
            }
        }
        let text =
            format!("{}: no room for its refcounts, {want} clusters in one piece", self.storage.name());
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    /// Returns the clusters of the refcounts that the header names now. A repair must leave them as they
    /// are, since it may be cut off.
    async fn old_refcounts(&self) -> Result<BTreeSet<u64>> {
        let cluster = self.header.cluster_size();
        let table = self.header.refcount_table_offset / cluster;
        let blocks =
            self.refcount_table().await?.into_iter().map(|entry| (entry & TABLE_OFFSET_MASK) / cluster);
        Ok(blocks.chain(table..table + u64::from(self.header.refcount_table_clusters)).collect())
    }

    /// Makes a refcount block from the references that were counted.
    async fn block(&mut self, number: u64) -> Result<Vec<u8>> {
        let order = self.header.refcount_order;
        let most = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
        let mut bytes = vec![0; self.header.cluster_size() as usize];
        for index in 0..self.per_block() {
            let cluster = number * self.per_block() + index;
            let count = self.counts.get(cluster);
            self.turns.step().await;
            if count > most || count == u64::from(u16::MAX) {
                let text = format!("cluster {cluster} is referred to too often for its refcount");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            refcounts::set(&mut bytes, order, index, count);
        }
        Ok(bytes)
    }

    /// Makes contradictory entries consistent. With `counts`, which the file's refcounts agree with by
    /// now, also corrects the COPIED flags in and below the active L1 table.
    async fn mend_tables(&self, counts: Option<&Counts>) -> Result<()> {
        let header = &self.header;
        // Each L2 table is mended once, however many L1 entries name it.
        let mut mended = BTreeSet::new();
        self.mend_l1(header.l1_offset, header.l1_entries.into(), counts, &mut mended).await?;
        for (offset, entries) in &self.snapshots {
            if counts.is_none() {
                self.mend_l1(*offset, *entries, None, &mut mended).await?;
            }
        }
        self.storage.sync().await
    }

    async fn mend_l1(
        &self,
        offset: u64,
        entries: u64,
        counts: Option<&Counts>,
        done: &mut BTreeSet<u64>,
    ) -> Result<()> {
        let bytes = self.read(offset, entries * 8).await?;
        let mut l1: Vec<u64> = words(&bytes).collect();
        let mut changed = false;
        for entry in &mut l1 {
            let table = *entry & OFFSET_MASK;
            if !self.is_table(table) {
                continue;
            }
            let mended = self.copied(*entry, counts);
            changed |= mended != *entry;
            *entry = mended;
            if !done.insert(table) {
                continue;
            }
            let bytes = self.read(table, self.header.cluster_size()).await?;
            let mut l2: Vec<u64> = words(&bytes).collect();
            self.mend_l2(&mut l2, counts);
            if !l2.iter().copied().eq(words(&bytes)) {
                self.storage.write(table, to_bytes(&l2)).await?;
            }
        }
        if changed {
            self.storage.write(offset, to_bytes(&l1)).await?;
        }
        Ok(())
    }

    fn mend_l2(&self, table: &mut [u64], counts: Option<&Counts>) {
        let cluster = self.header.cluster_size();
        for entry in table.chunks_exact_mut(self.header.l2_entry_size() as usize / 8) {
            let (word, bitmap) = (entry[0], entry.get(1).copied().unwrap_or(0));
            if word & COMPRESSED != 0 {
                entry[0] = word & !COPIED;
                entry.iter_mut().skip(1).for_each(|bitmap| *bitmap = 0);
                continue;
            }
            // A subcluster that is both data and zero becomes data, since there may be data.
            let bitmap = bitmap & !(bitmap << 32);
            entry.iter_mut().skip(1).for_each(|word| *word = bitmap);
            let host = word & OFFSET_MASK;
            let has_data = match entry.len() {
                1 => self.header.version < 3 || word & ZERO == 0,
                _ => bitmap & 0xffff_ffff != 0,
            };
            if !has_data && !host.is_multiple_of(cluster) {
                // Space at an impossible place, which holds nothing.
                entry[0] &= !(OFFSET_MASK | COPIED);
            } else if host != 0 {
                entry[0] = self.copied(word, counts);
            }
        }
    }

    fn copied(&self, entry: u64, counts: Option<&Counts>) -> u64 {
        match counts.map(|counts| counts.get((entry & OFFSET_MASK) / self.header.cluster_size())) {
            None => entry,
            Some(1) => entry | COPIED,
            Some(_) => entry & !COPIED,
        }
    }
}
