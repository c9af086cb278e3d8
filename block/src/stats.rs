//! What a disk has done so far: requests and their latency, what jobs copied, who had to wait for them.
//!
//! Counters are 0 for a new disk and never go back; a switch keeps them. Requests of the guest and of
//! exports count alike. All of it lives on the disk's thread; a clone is a snapshot for other threads.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::populate::Populated;

/// Latencies above this one are not told apart, in ns.
const LONGEST: u64 = 3_600_000_000_000;
/// Decimal digits to which a latency is kept.
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

    /// The latency in ns that this share of the requests did not exceed; 0 where there were none.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.borrow().value_at_quantile(share)
    }

    /// The longest latency in ns; 0 where there were no requests.
    pub fn max(&self) -> u64 {
        self.0.borrow().max()
    }

    /// How many requests took `low` ns or longer, and less than `high` ns.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.0.borrow().count_between(low, high.saturating_sub(1).max(low))
    }
}

/// Requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Those that succeeded.
    pub done: Cell<u64>,
    /// Their bytes.
    pub bytes: Cell<u64>,
    /// Those that failed.
    pub failed: Cell<u64>,
    /// Those that were refused: outside of the disk, or writes to a read-only one.
    pub invalid: Cell<u64>,
    /// How long all that were not refused took together.
    pub time: Cell<Duration>,
    /// How long each of them took, from the gate to the answer.
    pub latency: Latency,
}

/// What jobs did to the disk's images, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// Copied through memory.
    pub copied: Cell<u64>,
    /// Made zero without writing data.
    pub zero: Cell<u64>,
    /// Passed over, since they were there already.
    pub skipped: Cell<u64>,
    /// Shared or copied by the kernel between files.
    pub offloaded: Cell<u64>,
}

/// Requests that waited for a job's copy to end.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// How many.
    pub count: Cell<u64>,
    /// How long, all together.
    pub time: Cell<Duration>,
}

impl Waits {
    pub(crate) fn record(&self, time: Duration) {
        add(&self.count, 1);
        self.time.set(self.time.get() + time);
    }

    /// Counts them as never having been.
    pub(crate) fn take(&self) {
        self.count.take();
        self.time.take();
    }

    pub(crate) fn add(&self, other: &Waits) {
        add(&self.count, other.count.get());
        self.time.set(self.time.get() + other.time.get());
    }
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
    /// What jobs copied.
    pub copied: Copied,
    /// Guest requests that a job held up.
    pub waits: Waits,
    /// The end of the highest byte that a guest wrote.
    pub highest_write: Cell<u64>,
    /// Reads and writes that take too long for somebody.
    pub(crate) late: Late,
    /// When the last request ended, by the executor's clock.
    last: Cell<Option<Duration>>,
}

/// Counts reads and writes, and those of them that take longer than a limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Late {
    limit: Cell<Option<Duration>>,
    over: Cell<u64>,
    all: Cell<u64>,
}

impl Late {
    /// Counts from 0, against `limit`; `None`: not at all.
    pub(crate) fn watch(&self, limit: Option<Duration>) {
        self.limit.set(limit);
        self.over.take();
        self.all.take();
    }

    /// How many took longer, and how many there were.
    pub(crate) fn seen(&self) -> (u64, u64) {
        (self.over.get(), self.all.get())
    }

    fn ended(&self, time: Duration) {
        let Some(limit) = self.limit.get() else { return };
        add(&self.all, 1);
        add(&self.over, u64::from(time > limit));
    }
}

impl Stats {
    /// The requests of one kind.
    pub fn of(&self, op: Op) -> &Requests {
        match op {
            Op::Read => &self.reads,
            Op::Write => &self.writes,
            Op::Flush => &self.flushes,
            Op::Discard => &self.discards,
        }
    }

    /// For how long no request has ended; `None` before the first. On the disk's thread.
    pub fn idle(&self) -> Option<Duration> {
        self.last.get().map(|last| executor::now().saturating_sub(last))
    }

    pub(crate) fn writes_to(&self, end: u64) {
        self.highest_write.set(self.highest_write.get().max(end));
    }

    /// A request of `len` bytes that began at `start` has ended.
    pub(crate) fn ended<T>(&self, op: Op, len: u64, start: Duration, result: &crate::Result<T>) {
        let (requests, now) = (self.of(op), executor::now());
        let time = now.saturating_sub(start);
        match result {
            Ok(_) => {
                add(&requests.done, 1);
                add(&requests.bytes, len);
            }
            Err(_) => add(&requests.failed, 1),
        }
        requests.time.set(requests.time.get() + time);
        requests.latency.record(time);
        if matches!(op, Op::Read | Op::Write) {
            self.late.ended(time);
        }
        self.last.set(Some(now));
    }

    /// A request that was refused before anything was done for it.
    pub(crate) fn refused(&self, op: Op) {
        add(&self.of(op).invalid, 1);
        self.last.set(Some(executor::now()));
    }

    /// A job's copy came to its end.
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

/// Adds to a counter, which stays at the largest number rather than begin again.
pub(crate) fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().saturating_add(n));
}
