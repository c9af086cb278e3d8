//! A copier that slows itself down to keep a guest's latency within a bound.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use crate::disk::Disk;
use crate::disk::filter::{Below, Filter, Installed};
use crate::{Buf, Result};

/// One of this many requests may be late: the bound is for the 99th percentile.
const OF: u64 = 100;
/// The longest time between two adjustments of the pause, if there are few requests.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest and the longest pause between two copies.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(250);

/// Counts the reads and writes that take longer than a limit.
struct Late {
    limit: Duration,
    /// Requests that took longer, since [`Late::take`].
    over: Cell<u64>,
    /// All requests since then.
    all: Cell<u64>,
}

impl Late {
    fn ended(&self, started: Duration) {
        self.all.set(self.all.get() + 1);
        self.over.set(self.over.get() + u64::from(executor::now().saturating_sub(started) > self.limit));
    }

    fn take(&self) {
        self.over.take();
        self.all.take();
    }
}

#[async_trait(?Send)]
impl Filter for Late {
    async fn read(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let started = executor::now();
        let result = below.read(offset, buf).await;
        self.ended(started);
        result
    }

    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        let started = executor::now();
        let result = below.write(offset, buf).await;
        self.ended(started);
        result
    }

    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        let started = executor::now();
        let result = below.write_zeroes(offset, len, unmap).await;
        self.ended(started);
        result
    }
}

/// The bound, and the pause that keeps it.
pub(super) struct Budget {
    late: Rc<Late>,
    pause: Cell<Duration>,
    looked: Cell<Duration>,
    _installed: Installed,
}

impl Budget {
    /// Creates the budget: 99 of 100 reads and writes of `disk` should take no longer than `limit`.
    pub(super) fn new(disk: &Rc<Disk>, limit: Duration) -> Self {
        let late = Rc::new(Late { limit, over: Cell::default(), all: Cell::default() });
        let _installed = disk.install(late.clone());
        Budget { late, pause: Cell::default(), looked: Cell::new(executor::now()), _installed }
    }

    /// Returns the time that the copier must pause before its next copy.
    pub(super) fn pause(&self) -> Duration {
        let now = executor::now();
        let (over, all) = (self.late.over.get(), self.late.all.get());
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
            self.late.take();
            self.looked.set(now);
        }
        self.pause.get()
    }
}
