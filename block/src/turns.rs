//! Yields to other tasks in loops over an image's offsets.
//!
//! An image may have as many runs as clusters, and looking up a table in memory does not wait. Without
//! yields, such a loop would block the disk's thread until it ends.

use std::cell::Cell;

/// Steps between two yields: some tens of microseconds of table lookups.
const STEPS: u32 = 64;

/// The step counter of one loop.
#[derive(Default)]
pub(crate) struct Turns(Cell<u32>);

impl Turns {
    /// Counts a step. Every [`STEPS`] steps, yields to all other tasks.
    pub(crate) async fn step(&self) {
        let steps = self.0.get() + 1;
        self.0.set(steps % STEPS);
        if steps == STEPS {
            executor::yield_now().await;
        }
    }
}
