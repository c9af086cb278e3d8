//! Clusters that nothing refers to any more, on their way back to the allocator.
//!
//! A cluster is freed in memory; the next commit makes that durable; reads that began before it end; then
//! its space in the host's file is given back, and last its count becomes zero, so that it is never taken
//! anew before it was punched. All of this is behind the guest's back: no request waits for it.

use std::ops::Range;

use super::Qcow2;
use crate::ErrorKind;
use crate::format::commit::{joined, steps};

/// The most clusters that are given back in one step, between which others have their turn.
const STEP: u64 = 4096;

impl Qcow2 {
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
        // What cannot be given back is leaked, and a check finds it.
        let leak = |e| tracing::warn!("{}: clusters are leaked: {e}", self.storage.name());
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
            let len = hole.end - hole.start;
            if self.punches.get()
                && let Err(e) = self.storage.discard(hole.start, len).await
                && e.kind() == ErrorKind::Unsupported
            {
                self.punches.set(false);
            }
            if let Err(e) = self.refcounts.free_now(hole).await {
                leak(e);
            }
            executor::yield_now().await;
        }
    }
}
