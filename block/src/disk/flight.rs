//! Records of a disk's latest requests: latencies of the last ten minutes by intervals, and each request
//! around the last switch.
//!
//! It is always on. A request that ends costs some tens of nanoseconds (`bench-flight`), and a disk's
//! records take at most 2 MiB, most of which is touched only as it fills. All times are by the executor's
//! clock. Intervals are closed by what happens in them, not by a timer, so an idle disk costs nothing and a
//! simulation stays exact.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::stats::Ended;
use super::stats::Op;

mod intervals;
mod recorder;

pub use intervals::{INTERVAL, Interval, Quantiles};
pub use recorder::{AROUND, Frozen, Request};

use intervals::Intervals;
use recorder::Recorder;

/// All kinds of requests, in the order of their records.
pub const OPS: [Op; 4] = [Op::Read, Op::Write, Op::Flush, Op::Discard];

/// The records of one disk.
#[derive(Default)]
pub struct Flight {
    intervals: RefCell<Intervals>,
    recorder: RefCell<Recorder>,
    /// Requests that have begun and not ended.
    running: Cell<u32>,
}

/// Intervals, and the disk's state at the time of the question.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// The time of the question.
    pub now: Duration,
    /// The number of the interval that is still open.
    pub open: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// True if the gate is closed.
    pub is_closed: bool,
    /// Closed intervals, the oldest first. Those in which nothing happened are left out.
    pub intervals: Vec<Interval>,
}

impl Flight {
    /// Counts a request that begins.
    pub fn begins(&self) {
        self.running.set(self.running.get() + 1);
    }

    /// Records a request that has ended, at `now`. Times never go back from one call to the next.
    pub fn ended(&self, now: Duration, request: &Ended) {
        let running = self.running.get();
        self.running.set(running.saturating_sub(1));
        self.intervals.borrow_mut().ended(now, request, running);
        self.recorder.borrow_mut().ended(now, request);
    }

    /// The gate has closed or opened.
    pub(super) fn gate(&self, now: Duration, closed: bool) {
        self.intervals.borrow_mut().gate(now, closed);
    }

    /// The disk has moved to another image.
    pub(super) fn switched(&self, now: Duration) {
        self.recorder.borrow_mut().switched(now);
    }

    /// Returns the first `most` closed intervals whose numbers are at least `since`.
    pub(crate) fn latencies(&self, now: Duration, since: u64, most: usize) -> Latencies {
        let mut intervals = self.intervals.borrow_mut();
        intervals.close_until(now);
        Latencies {
            now,
            open: intervals.open(),
            in_flight: self.running.get(),
            is_closed: intervals.is_closed(),
            intervals: intervals.since(since).take(most).copied().collect(),
        }
    }

    /// Returns the time from which on the last switch's record is complete; `None` if it is, or if there was
    /// no switch.
    pub(crate) fn complete_at(&self) -> Option<Duration> {
        self.recorder.borrow().complete_at()
    }

    /// Returns the requests around the last switch; `None` if there was none, or its record is not complete.
    pub(crate) fn frozen(&self, now: Duration) -> Option<Frozen> {
        self.recorder.borrow_mut().frozen(now)
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
