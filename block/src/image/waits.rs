//! Counters of the requests that waited for a job's copy.

use std::cell::Cell;
use std::time::Duration;

/// Requests that waited for a job's copy to end.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// Number of requests.
    pub count: Cell<u64>,
    /// Total time that they waited.
    pub time: Cell<Duration>,
}

impl Waits {
    pub(crate) fn record(&self, time: Duration) {
        self.count.set(self.count.get() + 1);
        self.time.set(self.time.get() + time);
    }

    /// Resets the counters.
    pub(crate) fn take(&self) {
        self.count.take();
        self.time.take();
    }

    pub(crate) fn add(&self, other: &Waits) {
        self.count.set(self.count.get() + other.count.get());
        self.time.set(self.time.get() + other.time.get());
    }
}
