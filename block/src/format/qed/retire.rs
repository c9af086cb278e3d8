//! Clusters on their way back to the allocator. The format itself cannot say that a cluster is free: it is
//! leaked (QEMU `docs/interop/qed_spec.txt`, "Consistency checking").

use std::ops::Range;

use super::Qed;
use super::mapping::ZERO;
use super::tables::SCANNED;
use crate::Result;
use crate::format::cow::retire::{Retire, Retired, joined, steps};

/// The most bytes that a close makes zero by writing, if the storage has no other way.
const WRITTEN: u64 = 64 << 20;
/// The most bytes that are given back in one step, between which others have their turn.
const STEP: u64 = 256 << 20;

impl Retire for Qed {
    fn retired(&self) -> &Retired {
        &self.retired
    }

    async fn give_back(&self, ranges: Vec<Range<u64>>) {
        let step = STEP.next_multiple_of(self.cluster_size());
        for hole in joined(ranges).into_iter().flat_map(|hole| steps(hole, step)) {
            self.retired.punch(&*self.storage, &hole).await;
            self.space.free_now(hole);
            executor::yield_now().await;
        }
    }
}

impl Qed {
    /// Makes free clusters read as zeros, and gives them to entries that do so anyway: zero clusters,
    /// absent ones if there is no backing file, and those past the disk's end. Free clusters without such
    /// an entry leak. The caller commits the entries.
    pub(super) async fn adopt_free(&self) -> Result<()> {
        let free = self.space.take_all();
        let len: u64 = free.iter().map(|range| range.end - range.start).sum();
        if len == 0 || len > WRITTEN && !self.retired.punches() {
            return Ok(());
        }
        let (cluster, coverage) = (self.cluster_size(), self.header.l2_coverage());
        let alone = self.backing.borrow().is_none();
        let last = self.size().saturating_sub(1);
        let (slice, index) = self.l1_slot(last).await?;
        let (last_table, disk_end) = (slice.u64_at(index), last % coverage / cluster + 1);
        let mut free = free.into_iter();
        let mut next = 0..0;
        let mut slices = SCANNED / self.tables.slice_len();
        for table in self.l2_tables.offsets() {
            let mut index = 0;
            while index < self.header.entries() {
                slices -= 1;
                if slices == 0 {
                    return Ok(());
                }
                if self.tables.is_full() {
                    self.flush().await?;
                }
                let (slice, first) = self.slot(table, index).await?;
                for at in first..self.entries_per_slice() {
                    let behind = table == last_table && index >= disk_end;
                    index += 1;
                    match slice.u64_at(at) {
                        ZERO => {}
                        0 if alone || behind => {}
                        _ => continue,
                    }
                    if next.is_empty() {
                        let Some(range) = free.next() else { return Ok(()) };
                        self.storage.punch(range.start, range.end - range.start).await?;
                        next = range;
                    }
                    self.tables.set_u64(&slice, at, next.start);
                    next.start += cluster;
                }
                executor::yield_now().await;
            }
        }
        Ok(())
    }
}
