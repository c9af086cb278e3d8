//! Clusters on their way back to the allocator: their count becomes zero last.

use std::ops::Range;

use super::Qcow2;
use crate::format::cow::retire::{Retire, Retired, joined, steps};

/// The most clusters that are given back in one step, between which others have their turn.
const STEP: u64 = 4096;

impl Retire for Qcow2 {
    fn retired(&self) -> &Retired {
        &self.retired
    }

    async fn give_back(&self, ranges: Vec<Range<u64>>) {
        // Clusters that cannot be given back are leaked, and a check finds them.
        let leak = |e| executor::limited!(warn, "{}: clusters are leaked: {e}", self.storage.name());
        let mut last = Vec::new();
        for range in ranges {
            for step in steps(range, STEP * self.cluster_size()) {
                if let Err(e) = self.refcounts.release(step, &mut last).await {
                    leak(e);
                }
                executor::yield_now().await;
            }
        }
        for hole in joined(last).into_iter().flat_map(|hole| steps(hole, STEP * self.cluster_size())) {
            self.retired.punch(&*self.storage, &hole).await;
            if let Err(e) = self.refcounts.free_now(hole).await {
                leak(e);
            }
            executor::yield_now().await;
        }
    }
}
