//! Visits everything that refers to host clusters, except the refcounts themselves.
//!
//! Each L2 table is read once, however many entries of L1 tables name it: a small file can name one
//! millions of times.

use std::collections::BTreeMap;

use super::super::header::Fields;
use super::super::snapshots::Snapshots;
use super::super::{COPIED, OFFSET_MASK, words};
use super::Pass;
use crate::Result;
use crate::format::Compressed;

/// Bit 62 of an L2 entry: a compressed cluster.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry of version 3.
pub(super) const ZERO: u64 = 1;
/// Tables of any size are read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// The number of times that L1 tables name an L2 table: all of them, and the active one.
#[derive(Clone, Copy, Default)]
struct Named {
    times: u64,
    active: u64,
}

impl Pass {
    /// Counts all references, and reports those that are wrong.
    pub(super) async fn walk(&mut self) -> Result<()> {
        let header = self.header.clone();
        self.refer(0, header.cluster_size()).await?;
        let mut tables = BTreeMap::new();
        self.l1(header.l1_offset, header.l1_entries.into(), true, &mut tables).await?;
        self.read_snapshots().await?;
        for (offset, entries) in self.snapshots.clone() {
            self.l1(offset, entries, false, &mut tables).await?;
        }
        for (table, named) in tables {
            self.l2(table, named).await?;
        }
        self.bitmaps().await
    }

    /// Counts a reference to each cluster of a range of the file. A range that reaches past the file's end
    /// is reported, and the part there not counted.
    pub(super) async fn refer(&mut self, offset: u64, len: u64) -> Result<()> {
        self.refer_often(offset, len, 1).await
    }

    async fn refer_often(&mut self, offset: u64, len: u64, times: u64) -> Result<()> {
        let cluster = self.header.cluster_size();
        let end = offset.saturating_add(len).div_ceil(cluster);
        if end > self.file_clusters {
            self.report.corruption(|| {
                format!("ERROR: a reference to {len} bytes at {offset:#x} reaches past the file's end")
            });
        }
        for cluster in offset / cluster..end.min(self.file_clusters) {
            self.counts.add(cluster, times)?;
            self.turns.step().await;
        }
        Ok(())
    }

    /// Reads an L1 table (section "L1 table entry"), and counts how often it names each L2 table.
    async fn l1(
        &mut self,
        offset: u64,
        entries: u64,
        active: bool,
        tables: &mut BTreeMap<u64, Named>,
    ) -> Result<()> {
        self.refer(offset, entries * 8).await?;
        let mut done = 0;
        while done < entries * 8 {
            let n = PIECE.min(entries * 8 - done);
            let piece = self.read(offset + done, n).await?;
            for entry in words(&piece).filter(|entry| *entry != 0) {
                if entry & !(OFFSET_MASK | COPIED) != 0 {
                    self.report
                        .corruption(|| format!("ERROR: an L1 entry has reserved bits set: {entry:#x}"));
                }
                let table = entry & OFFSET_MASK;
                self.refer(table, self.header.cluster_size()).await?;
                if !table.is_multiple_of(self.header.cluster_size()) {
                    self.report.corruption(|| format!("ERROR: the L2 table at {table:#x} is not aligned"));
                }
                if self.is_table(table) {
                    let named = tables.entry(table).or_default();
                    named.times += 1;
                    named.active += u64::from(active);
                }
            }
            done += n;
        }
        Ok(())
    }

    /// Reads an L2 table (section "L2 table entry"), which is counted as often as it is named.
    async fn l2(&mut self, table: u64, named: Named) -> Result<()> {
        let report = &self.report;
        let before = (
            report.corruptions,
            report.allocated_clusters,
            report.compressed_clusters,
            report.fragmented_clusters,
        );
        let bytes = self.read(table, self.header.cluster_size()).await?;
        let extended = self.header.extended_l2();
        let mut table = words(&bytes);
        let mut expected = None;
        while let Some(entry) = table.next() {
            let bitmap = if extended { table.next().unwrap_or(0) } else { 0 };
            if entry | bitmap == 0 {
                continue;
            }
            let expected = if named.active > 0 { Some(&mut expected) } else { None };
            self.l2_entry(entry, bitmap, expected, named.times).await?;
        }
        let again =
            |now: &mut u64, before: u64, times: u64| *now += (*now - before) * times.saturating_sub(1);
        let report = &mut self.report;
        again(&mut report.corruptions, before.0, named.times);
        again(&mut report.allocated_clusters, before.1, named.active);
        again(&mut report.compressed_clusters, before.2, named.active);
        again(&mut report.fragmented_clusters, before.3, named.active);
        Ok(())
    }

    /// Counts one entry; `expected` is the place of the next cluster in a file without fragments.
    async fn l2_entry(
        &mut self,
        entry: u64,
        bitmap: u64,
        expected: Option<&mut Option<u64>>,
        times: u64,
    ) -> Result<()> {
        let cluster = self.header.cluster_size();
        if entry & COMPRESSED != 0 {
            if entry & COPIED != 0 {
                self.report.corruption(|| "ERROR: a compressed cluster has its COPIED flag set".into());
            }
            if bitmap != 0 {
                self.report.corruption(|| "ERROR: a compressed cluster has subclusters".into());
            }
            if expected.is_some() {
                self.report.allocated_clusters += 1;
                self.report.compressed_clusters += 1;
                self.report.fragmented_clusters += 1;
            }
            let packed = Compressed::parse(entry & (COMPRESSED - 1), self.header.cluster_bits);
            return self.refer_often(packed.offset, packed.len, times).await;
        }
        let host = entry & OFFSET_MASK;
        let has_data = if self.header.extended_l2() {
            bitmap & 0xffff_ffff != 0
        } else {
            self.header.version < 3 || entry & ZERO == 0
        };
        let reserved = if self.header.extended_l2() { 0x1ff } else { 0x1fe };
        if entry & (reserved | 0x3f << 56) != 0 {
            self.report.corruption(|| format!("ERROR: an L2 entry has reserved bits set: {entry:#x}"));
        }
        if bitmap >> 32 & bitmap != 0 {
            self.report.corruption(|| format!("ERROR: a subcluster of {host:#x} is both data and zero"));
        }
        if host == 0 {
            if bitmap & 0xffff_ffff != 0 {
                self.report.corruption(|| "ERROR: subclusters with data have no cluster".into());
            }
            return Ok(());
        }
        if !host.is_multiple_of(cluster) {
            let kind = if has_data { "Data" } else { "Preallocated" };
            self.report.corruption(|| format!("ERROR: {kind} cluster {host:#x} is not aligned"));
        }
        if let Some(expected) = expected {
            self.report.allocated_clusters += 1;
            if expected.is_some_and(|expected| expected != host) {
                self.report.fragmented_clusters += 1;
            }
            *expected = Some(host + cluster);
        }
        self.refer_often(host, cluster, times).await
    }

    /// Reads the snapshot table (section "Snapshots").
    async fn read_snapshots(&mut self) -> Result<()> {
        let snapshots = Snapshots::read(&*self.storage, &self.header).await?;
        for n in snapshots.wrong {
            self.report.corruption(|| format!("ERROR: snapshot {n} has an impossible L1 table"));
        }
        self.snapshots = snapshots.l1;
        self.refer(snapshots.table.start, snapshots.table.end - snapshots.table.start).await
    }

    /// Counts the bitmap directory, tables and data (section "Bitmaps").
    async fn bitmaps(&mut self) -> Result<()> {
        let Some(bitmaps) = self.header.bitmaps else { return Ok(()) };
        let end = bitmaps.directory.saturating_add(bitmaps.directory_len);
        self.refer(bitmaps.directory, bitmaps.directory_len).await?;
        let mut at = bitmaps.directory;
        // Tables do not overlap, so that all together are no longer than the file.
        let mut room = self.storage.len();
        for n in 0..bitmaps.count {
            if at.saturating_add(24) > end.min(self.storage.len()) {
                self.report.corruption(|| format!("ERROR: bitmap {n} lies outside of the directory"));
                return Ok(());
            }
            let head = self.read(at, 24).await?;
            let head = Fields(&head);
            let (table, entries) = (head.u64(0)?, u64::from(head.u32(8)?));
            let len = 24 + u64::from(head.u32(16)? & 0xffff) + u64::from(head.u32(20)?);
            at = (at + len).next_multiple_of(8);
            if entries * 8 > room {
                self.report.corruption(|| format!("ERROR: bitmap {n} is longer than the file"));
                return Ok(());
            }
            room -= entries * 8;
            self.refer(table, entries * 8).await?;
            let mut done = 0;
            while done < entries * 8 && table.saturating_add(done) < self.storage.len() {
                let size = PIECE.min(entries * 8 - done);
                let piece = self.read(table + done, size).await?;
                for data in words(&piece).map(|entry| entry & OFFSET_MASK).filter(|data| *data != 0) {
                    self.refer(data, self.header.cluster_size()).await?;
                }
                done += size;
            }
        }
        Ok(())
    }
}
