//! A stream that slows itself down to keep a guest's latency within a bound.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::disk::Disk;

/// Of so many requests one may be late: the bound is one of the 99th percentile.
const OF: u64 = 100;
/// The longest time between two looks, where there are few requests.
const LOOK: Duration = Duration::from_millis(250);
/// Pauses after a copy.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(250);

/// The bound, and what is done to keep it.
pub(super) struct Budget {
    disk: Rc<Disk>,
    limit: Duration,
    pause: Cell<Duration>,
    looked: Cell<Duration>,
}

impl Budget {
    /// Of reads and writes of `disk`, 99 of 100 shall take no longer than `limit`.
    pub(super) fn new(disk: Rc<Disk>, limit: Duration) -> Self {
        disk.stats.late.watch(Some(limit));
        Budget { disk, limit, pause: Cell::default(), looked: Cell::new(executor::now()) }
    }

    /// How long the stream pauses before its next copy.
    pub(super) fn pause(&self) -> Duration {
        let now = executor::now();
        let late = &self.disk.stats.late;
        let (over, all) = late.seen();
        // One that takes long does not end to be counted.
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
