//! The number and size of a stream's copies in flight: found by trial while it runs, and small while a
//! guest is active.

use std::cell::Cell;
use std::time::Duration;

use super::SLOTS;
use super::beside::{Beside, Latencies};
use crate::image::copy::Populated;

/// The size of a copy in bytes.
const CHUNK: u64 = 1 << 20;
/// The same if the file system shares blocks, which takes hardly longer for more of them; and the smaller one
/// while a guest is active, whose requests may wait behind it.
const SHARED_CHUNK: u64 = 64 << 20;
const GENTLE_SHARED_CHUNK: u64 = 4 << 20;
/// The number of copies in flight when a stream begins: less leaves a fast device idle.
const FIRST_DEPTH: u64 = 4;
/// A guest with a request less than this long ago is active.
pub(crate) const RECENT: Duration = Duration::from_millis(20);
/// Bytes over which a rate is measured.
const SAMPLE: u64 = 48 << 20;
/// The factor by which a trial must be faster to be kept: less may be chance.
const GAIN: f64 = 1.05;
/// Samples between two trials.
const SETTLED: u32 = 12;

/// Bytes copied since a point in time.
#[derive(Clone, Copy)]
struct Sample {
    since: Duration,
    bytes: u64,
}

/// A trial of another depth: the depth before, and the rate with it.
#[derive(Clone, Copy)]
struct Trial {
    before: u64,
    rate: f64,
}

/// Depth and size of copies.
pub(crate) struct Window {
    depth: Cell<u64>,
    gentle: Cell<bool>,
    beside: Beside,
    shares: Cell<bool>,
    sample: Cell<Option<Sample>>,
    trial: Cell<Option<Trial>>,
    /// Samples until the next trial, which increases the depth if `up` is set.
    rest: Cell<u32>,
    up: Cell<bool>,
}

impl Window {
    /// Creates the window of a job that may make an active guest's median latency so many times as long.
    pub(crate) fn new(limit: f64) -> Self {
        Window {
            depth: Cell::new(FIRST_DEPTH),
            gentle: Cell::new(false),
            beside: Beside::new(limit),
            shares: Cell::new(false),
            sample: Cell::new(None),
            trial: Cell::new(None),
            rest: Cell::new(0),
            up: Cell::new(true),
        }
    }

    /// Sets whether a guest is active, and takes the latencies of all its requests so far.
    pub(crate) fn set_gentle(
        &self,
        gentle: bool,
        now: Duration,
        requests: u64,
        latencies: impl FnOnce() -> Latencies,
    ) {
        if gentle {
            self.beside.look(now, requests, latencies);
        }
        if self.gentle.replace(gentle) != gentle {
            // A rate measured across the change means nothing.
            self.sample.set(None);
        }
    }

    /// Makes the copies beside an active guest as small as they get: a bound on its latency is not kept.
    pub(crate) fn retreat(&self) {
        self.beside.retreat();
    }

    /// Returns true if a guest is active.
    pub(crate) fn is_gentle(&self) -> bool {
        self.gentle.get()
    }

    /// Returns the size of the next copy in bytes.
    pub(crate) fn chunk(&self) -> u64 {
        match (self.shares.get(), self.gentle.get()) {
            (true, false) => SHARED_CHUNK,
            (true, true) => GENTLE_SHARED_CHUNK,
            (false, false) => CHUNK,
            (false, true) => self.beside.chunk(),
        }
    }

    /// Returns the number of [`SLOTS`] that a copy of this many bytes takes: the smaller it is, the more of
    /// them may be in flight.
    pub(crate) fn slots(&self, bytes: u64) -> u64 {
        let whole = match self.gentle.get() {
            true => self.beside.slots(),
            false => SLOTS / self.depth.get(),
        };
        let part = u128::from(whole) * u128::from(bytes) / u128::from(self.chunk());
        (part as u64).clamp(1, whole)
    }

    /// Counts a copy that ended.
    pub(crate) fn copied(&self, now: Duration, done: Populated) {
        let bytes = done.copied + done.offloaded;
        self.shares.set(done.offloaded > done.copied);
        if self.gentle.get() {
            return;
        }
        let Some(mut sample) = self.sample.get() else {
            return self.sample.set(Some(Sample { since: now, bytes: 0 }));
        };
        sample.bytes += bytes;
        if sample.bytes < SAMPLE {
            return self.sample.set(Some(sample));
        }
        self.sample.set(Some(Sample { since: now, bytes: 0 }));
        self.measured(sample.bytes as f64 / (now - sample.since).as_secs_f64().max(1e-9));
    }

    fn measured(&self, rate: f64) {
        match self.trial.take() {
            Some(trial) if rate < trial.rate * GAIN => {
                self.depth.set(trial.before);
                self.up.set(!self.up.get());
                self.rest.set(SETTLED);
            }
            // The new depth is kept, and the next trial goes in the same direction at once.
            Some(_) => self.rest.set(0),
            None => {}
        }
        if self.rest.get() > 0 {
            return self.rest.set(self.rest.get() - 1);
        }
        let before = self.depth.get();
        let next = if self.up.get() { (before * 2).min(SLOTS) } else { (before / 2).max(1) };
        if next == before {
            self.up.set(!self.up.get());
            return self.rest.set(SETTLED);
        }
        self.depth.set(next);
        self.trial.set(Some(Trial { before, rate }));
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
