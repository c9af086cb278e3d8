//! Runs of neighbouring clusters for tables that have to be in one piece.

use std::ops::Range;

use super::Refcounts;
use crate::Result;

/// The number of holes that are found too small before the run is placed behind everything.
const MOST_HOLES: usize = 256;

impl Refcounts {
    /// Takes exactly `want` neighbouring free clusters. Returns the offset of the first in the file.
    pub(crate) async fn allocate_run(&self, want: u64) -> Result<u64> {
        let mut passed = Vec::new();
        let found = self.find_run(want, &mut passed).await;
        // These are freed even if there was no room for the run: nothing refers to them.
        for range in passed {
            self.free_now(range).await?;
        }
        found
    }

    /// Looks for a run. The clusters that it took but did not use are in `passed` at the end, even if it
    /// fails.
    async fn find_run(&self, want: u64, passed: &mut Vec<Range<u64>>) -> Result<u64> {
        let bytes = |clusters: u64| clusters << self.cluster_bits;
        let (mut start, mut got) = (0, 0);
        // Every new refcount block takes a cluster of the range that it counts, so no run fills a range.
        while got < want && want < self.per_block() && passed.len() < MOST_HOLES {
            let taken = self.allocate(want - got).await;
            let is_next = taken.as_ref().is_ok_and(|(next, _)| *next == start + bytes(got));
            if !is_next {
                passed.push(start..start + bytes(got));
                (start, got) = (0, 0);
            }
            let (next, more) = taken?;
            if !is_next {
                start = next;
            }
            got += more;
        }
        if got == want {
            return Ok(start);
        }
        passed.push(start..start + bytes(got));
        self.allocate_behind(want).await
    }

    /// Takes a run in a range where no refcount block counts anything yet; its blocks go elsewhere.
    async fn allocate_behind(&self, want: u64) -> Result<u64> {
        let _one = self.lock.acquire(1).await;
        let mut places = Vec::new();
        let found = self.take_behind(want, &mut places).await;
        if found.is_err() {
            for place in places {
                self.free_now(place << self.cluster_bits..(place + 1) << self.cluster_bits).await?;
            }
        }
        found
    }

    async fn take_behind(&self, want: u64, places: &mut Vec<u64>) -> Result<u64> {
        let need = want.div_ceil(self.per_block());
        loop {
            let (base, len) = {
                let table = self.table.borrow();
                let last = table.entries.iter().rposition(|entry| *entry != 0);
                (last.map_or(0, |last| last as u64 + 1), table.entries.len() as u64)
            };
            let first = base * self.per_block();
            if base + need > len {
                self.grow_table(first).await?;
                continue;
            }
            if (places.len() as u64) < need {
                // This may itself make a block at `base`, so look again.
                places.push(self.take(1).await?.0 >> self.cluster_bits);
                continue;
            }
            self.check_room(first + want).await?;
            self.check_free(first..first + want)?;
            for (block, place) in (base..).zip(&*places) {
                self.write_block(block, *place, first..first + want).await?;
            }
            for (block, place) in (base..).zip(&*places) {
                self.install_block(block, *place);
            }
            self.highest.set(self.highest.get().max(first + want));
            return Ok(first << self.cluster_bits);
        }
    }
}
