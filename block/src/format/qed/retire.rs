//! Clusters on their way back to the allocator. QED itself has no way to say that a cluster is free (QEMU
//! `docs/interop/qed_spec.txt`, "Consistency checking": it leaks), so this is all there is to it.

use std::ops::Range;

use super::Qed;
use crate::format::retire::{Retire, Retired, joined, steps};

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
