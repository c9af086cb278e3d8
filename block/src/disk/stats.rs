//! Counters of a disk: requests and their latency, bytes that jobs copied, and requests that waited for them.
//!
//! Counters are 0 for a new disk and never go back; a switch keeps them. Requests of the guest and of
//! exports count alike. All of it lives on the disk's thread; a clone is a snapshot for other threads.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::image::Waits;
use crate::image::copy::Populated;

/// The longest latency that is recorded, in ns; longer ones count as this.
const LONGEST: u64 = 3_600_000_000_000;
/// Significant decimal digits of recorded latencies.
const DIGITS: u8 = 2;

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A read.
    Read,
    /// A write, also of zeros.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
}

/// A request that has ended.
pub struct Ended {
    /// Its kind.
    pub op: Op,
    /// Offset on the disk in bytes; 0 for a flush.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// True if it failed.
    pub failed: bool,
    /// The time from the gate to its end.
    pub latency: Duration,
}

/// A distribution of latencies, to two digits.
#[derive(Clone, Debug)]
pub struct Latency(RefCell<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        Latency(RefCell::new(histogram.expect("the constants are within the bounds that it accepts")))
    }
}

impl Latency {
    fn record(&self, time: Duration) {
        self.0.borrow_mut().saturating_record(nanos(time).max(1));
    }

    /// The number of requests.
    pub(crate) fn len(&self) -> u64 {
        self.0.borrow().len()
    }

    /// Returns these latencies and others together, in ns.
    pub(crate) fn with(&self, others: &Latency) -> Histogram<u64> {
        let mut all = self.0.borrow().clone();
        all += &*others.0.borrow();
        all
    }

    /// Returns the latency in ns that this share of the requests did not exceed; 0 if there were none.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.borrow().value_at_quantile(share)
    }

    /// Returns the longest latency in ns; 0 if there were no requests.
    pub fn max(&self) -> u64 {
        self.0.borrow().max()
    }

    /// Returns the number of requests that took at least `low` ns and less than `high` ns.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.0.borrow().count_between(low, high.saturating_sub(1).max(low))
    }
}

/// Counters of the requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Number of requests that succeeded.
    pub done: Cell<u64>,
    /// Bytes of the requests that succeeded.
    pub bytes: Cell<u64>,
    /// Number of requests that failed.
    pub failed: Cell<u64>,
    /// Number of requests that were refused: outside the disk, or writes to a read-only one.
    pub invalid: Cell<u64>,
    /// Total time of the requests that were not refused.
    pub time: Cell<Duration>,
    /// Latencies of the requests that were not refused, from the gate to their end.
    pub latency: Latency,
}

/// Bytes that jobs processed in the disk's images.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// Copied as data.
    pub copied: Cell<u64>,
    /// Made zero without writing data.
    pub zero: Cell<u64>,
    /// Skipped, since they were present already.
    pub skipped: Cell<u64>,
    /// Shared between files by their file system.
    pub offloaded: Cell<u64>,
}

/// The counters of a disk.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Reads.
    pub reads: Requests,
    /// Writes.
    pub writes: Requests,
    /// Flushes.
    pub flushes: Requests,
    /// Discards.
    pub discards: Requests,
    /// Bytes that jobs copied.
    pub copied: Copied,
    /// Requests that waited for a job.
    pub waits: Waits,
    /// The highest end offset of a guest's write, in bytes.
    pub highest_write: Cell<u64>,
    /// Time at which the last request ended, by the executor's clock.
    last: Cell<Option<Duration>>,
}

impl Stats {
    /// Returns the counters of one kind of request.
    pub fn of(&self, op: Op) -> &Requests {
        match op {
            Op::Read => &self.reads,
            Op::Write => &self.writes,
            Op::Flush => &self.flushes,
            Op::Discard => &self.discards,
        }
    }

    /// Returns the time since the last request ended; `None` before the first. Must be called on the
    /// disk's thread.
    pub fn idle(&self) -> Option<Duration> {
        self.last.get().map(|last| executor::now().saturating_sub(last))
    }

    pub(crate) fn writes_to(&self, end: u64) {
        self.highest_write.set(self.highest_write.get().max(end));
    }

    /// Counts a request that has ended, at `now`.
    pub(super) fn ended(&self, now: Duration, request: &Ended) {
        let requests = self.of(request.op);
        if request.failed {
            add(&requests.failed, 1);
        } else {
            add(&requests.done, 1);
            add(&requests.bytes, request.len);
        }
        requests.time.set(requests.time.get() + request.latency);
        requests.latency.record(request.latency);
        self.last.set(Some(now));
    }

    /// Counts a request that was refused before anything was done for it.
    pub(crate) fn refused(&self, op: Op) {
        add(&self.of(op).invalid, 1);
        self.last.set(Some(executor::now()));
    }

    /// Counts the bytes of a job's copy that has ended.
    pub(crate) fn populated(&self, done: Populated) {
        add(&self.copied.copied, done.copied);
        add(&self.copied.zero, done.zero);
        add(&self.copied.offloaded, done.offloaded);
        add(&self.copied.skipped, done.skipped);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Adds to a counter, which saturates instead of wrapping.
pub(crate) fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().saturating_add(n));
}
