//! A stream that slows itself down to keep a guest's latency within a bound.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::disk::Disk;

/// One of this many requests may be late: the bound is for the 99th percentile.
const OF: u64 = 100;
/// The longest time between two adjustments of the pause, if there are few requests.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest and the longest pause between two copies.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(250);

/// The bound, and the pause that keeps it.
pub(super) struct Budget {
    disk: Rc<Disk>,
    limit: Duration,
    pause: Cell<Duration>,
    looked: Cell<Duration>,
}

impl Budget {
    /// Creates the budget: 99 of 100 reads and writes of `disk` should take no longer than `limit`.
    pub(super) fn new(disk: Rc<Disk>, limit: Duration) -> Self {
        disk.stats.late.watch(Some(limit));
        Budget { disk, limit, pause: Cell::default(), looked: Cell::new(executor::now()) }
    }

    /// Returns the time that the stream must pause before its next copy.
    pub(super) fn pause(&self) -> Duration {
        let now = executor::now();
        let late = &self.disk.stats.late;
        let (over, all) = late.seen();
        // A slow request is counted only at its end, so the pause is also adjusted after some time.
        if all >= OF || now - self.looked.get() >= LOOK {
            let pause = self.pause.get();
            self.pause.set(if over * OF > all {
                (pause * 2).clamp(FIRST, LONGEST)
            } else if pause <= FIRST / 2 {
                Duration::ZERO
            } else {
                pause * 3 / 4
            });
            late.watch(Some(self.limit));
            self.looked.set(now);
        }
        self.pause.get()
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.disk.stats.late.watch(None);
    }
}
