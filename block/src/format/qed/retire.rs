//! Clusters that nothing refers to any more, on their way back to the allocator.
//!
//! A cluster is freed in memory; the next commit makes that durable; reads that began before it end; then
//! its space in the host's file is given back, since QED itself has no way to say that a cluster is free
//! (QEMU `docs/interop/qed_spec.txt`, "Consistency checking": it leaks); and only then it is taken anew.

use std::ops::Range;

use super::Qed;
use crate::ErrorKind;
use crate::format::commit::{joined, steps};

/// The most bytes that are given back in one step, between which others have their turn.
const STEP: u64 = 256 << 20;

impl Qed {
    /// Takes what a commit made durable to be free, and gives back what no read can still be looking at.
    pub(super) fn retire(&self, freed: Vec<Range<u64>>) {
        self.quarantine.add(freed);
        if self.retiring.get() {
            return;
        }
        let (Some(this), Some(first)) = (self.this.upgrade(), self.quarantine.take()) else { return };
        self.retiring.set(true);
        executor::spawn(async move {
            let mut next = Some(first);
            while let Some(ranges) = next {
                this.give_back(ranges).await;
                next = this.quarantine.take();
            }
            this.retiring.set(false);
            this.retired.notify();
        });
    }

    /// Waits until everything is given back that can be.
    pub(super) async fn all_retired(&self) {
        self.retire(Vec::new());
        while self.retiring.get() {
            self.retired.wait().await;
        }
    }

    async fn give_back(&self, ranges: Vec<Range<u64>>) {
        let step = STEP.next_multiple_of(self.cluster_size());
        for hole in joined(ranges).into_iter().flat_map(|hole| steps(hole, step)) {
            if self.punches.get()
                && let Err(e) = self.storage.discard(hole.start, hole.end - hole.start).await
                && e.kind() == ErrorKind::Unsupported
            {
                self.punches.set(false);
            }
            self.space.free_now(hole);
            executor::yield_now().await;
        }
    }
}
