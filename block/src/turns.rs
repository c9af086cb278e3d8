//! Turns for others in loops over an image's offsets.
//!
//! An image may have as many runs as it has clusters, and tables that are in memory are looked at without a
//! wait: such a loop would hold the disk's thread until its end.

use std::cell::Cell;

/// Steps between two turns of the others: some tens of microseconds of looking at tables.
const STEPS: u32 = 64;

/// The steps of one loop.
#[derive(Default)]
pub(crate) struct Turns(Cell<u32>);

impl Turns {
    /// Counts one step, and now and then lets all others have their turn first.
    pub(crate) async fn step(&self) {
        let steps = self.0.get() + 1;
        self.0.set(steps % STEPS);
        if steps == STEPS {
            executor::yield_now().await;
        }
    }
}
