//! The copies beside an active guest: as many and as large as the guest's latency allows.
//!
//! With the smallest step the guest's median latency is measured, then larger steps are tried as long as it
//! stays near that. A mean would follow the few requests that a device takes long for now and then. So a
//! device that has room is used, and one that has none is left to the guest. The smallest step is measured
//! again now and then, since devices and guests change.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::SLOTS;

/// The copies in flight, and the bytes of each. One large copy costs the guest less than several small ones
/// that move as much: most of the time it waits behind one of them only.
const STEPS: [(u64, u64); 6] =
    [(1, 128 << 10), (1, 256 << 10), (1, 512 << 10), (1, 1 << 20), (2, 1 << 20), (4, 1 << 20)];
/// The part of the largest median latency up to which a larger step is tried.
const TRY: f64 = 0.78;
/// A median is taken over at least this many requests and this time.
const REQUESTS: u64 = 64;
const LEAST: Duration = Duration::from_millis(20);
/// A median of fewer requests is taken after this time.
const LONGEST: Duration = Duration::from_millis(250);
/// Medians until a larger step is tried again after one was too large. It doubles as long as it is, up to the
/// second number: trials must not make the guest's 99th percentile.
const HOLD: u32 = 16;
const LONGEST_HOLD: u32 = 1024;
/// Medians until the smallest step is measured again.
const AGAIN: u32 = 100;

/// The median of a guest's latencies is taken of what this adds since the last one, in nanoseconds.
pub(crate) type Latencies = Histogram<u64>;

/// See the module.
pub(super) struct Beside {
    /// The largest median latency, as a multiple of that with the smallest step.
    limit: f64,
    /// The step in use.
    step: Cell<usize>,
    /// The guest's median latency in nanoseconds with the smallest step.
    base: Cell<Option<f64>>,
    /// The start of the median that is being taken; `None` before the first.
    from: RefCell<Option<(Duration, Latencies)>>,
    /// Medians until a larger step may be tried, and the same after the next one that is too large.
    hold: Cell<u32>,
    next_hold: Cell<u32>,
    /// The step in use is larger than the one before.
    is_trial: Cell<bool>,
    /// Medians since the smallest step was measured, and the step to return to.
    since: Cell<u32>,
    back: Cell<usize>,
}

impl Beside {
    /// Starts with the smallest step. A smaller one is taken when the guest's median latency is above `limit`
    /// times that with the smallest.
    pub(super) fn new(limit: f64) -> Self {
        Beside {
            limit,
            step: Cell::new(0),
            base: Cell::new(None),
            from: RefCell::default(),
            hold: Cell::new(0),
            next_hold: Cell::new(HOLD),
            is_trial: Cell::new(false),
            since: Cell::new(0),
            back: Cell::new(0),
        }
    }

    /// Returns the bytes of the next copy.
    pub(super) fn chunk(&self) -> u64 {
        STEPS[self.step.get()].1
    }

    /// Returns the number of [`SLOTS`] that the next copy takes.
    pub(super) fn slots(&self) -> u64 {
        SLOTS / STEPS[self.step.get()].0
    }

    /// Takes the latencies of all requests of the guest so far, which are `requests`.
    pub(super) fn look(&self, now: Duration, requests: u64, latencies: impl FnOnce() -> Latencies) {
        if let Some((since, before)) = &*self.from.borrow() {
            let (took, count) = (now.saturating_sub(*since), requests.saturating_sub(before.len()));
            if count == 0 || took < LEAST || (count < REQUESTS && took < LONGEST) {
                return;
            }
        }
        let all = latencies();
        let before = self.from.replace(Some((now, all.clone())));
        let mut new = all;
        // It is a part of what came later.
        if let Some((_, before)) = before
            && new.subtract(before).is_ok()
            && !new.is_empty()
        {
            self.measured(new.value_at_quantile(0.5) as f64);
        }
    }

    fn measured(&self, median: f64) {
        let (step, was_trial) = (self.step.get(), self.is_trial.take());
        let Some(base) = self.base.get().filter(|_| step > 0) else {
            self.base.set(Some(self.base.get().map_or(median, |base| (base + median) / 2.0)));
            self.since.set(0);
            return self.leave_smallest();
        };
        if median > base * self.limit {
            self.step.set(step - 1);
            if was_trial {
                self.wait_longer();
            }
            return;
        }
        if was_trial {
            self.next_hold.set(HOLD);
        }
        self.since.set(self.since.get() + 1);
        if self.since.get() >= AGAIN {
            self.back.set(step);
            self.step.set(0);
        } else if self.hold.get() > 0 {
            self.hold.set(self.hold.get() - 1);
        } else if median < base * self.limit * TRY && step + 1 < STEPS.len() {
            self.step_up();
        }
    }

    /// Goes back to the smallest step: a bound on the guest's latency is not kept.
    pub(super) fn retreat(&self) {
        if self.step.replace(0) > 0 {
            self.wait_longer();
        }
        self.back.set(0);
    }

    fn wait_longer(&self) {
        self.hold.set(self.next_hold.get());
        self.next_hold.set((self.next_hold.get() * 2).min(LONGEST_HOLD));
    }

    fn step_up(&self) {
        self.step.set(self.step.get() + 1);
        self.is_trial.set(true);
    }

    /// Goes on after the smallest step was measured.
    fn leave_smallest(&self) {
        match (self.back.take(), self.hold.get()) {
            (0, 0) => self.step_up(),
            (0, left) => self.hold.set(left - 1),
            (back, _) => self.step.set(back),
        }
    }
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;
