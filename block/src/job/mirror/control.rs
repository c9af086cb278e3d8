//! The controller of an adaptive mirror: it decides when a guest's writes go to both sides.
//!
//! | from | to | when |
//! |---|---|---|
//! | background | active | within the patience, what is left sank by less than half of what was copied |
//! | background | active | later would be too late for the deadline, given the copier's share |
//! | active | background | with a limit of latency: writes stay late with the largest window; four times |
//!
//! The patience is a quarter of the time that a copy of everything takes, at least 0.2 s and at most 10 s. It
//! doubles each time that the mirror goes back to the background. Without a deadline and without a limit of
//! latency, the mirror gives itself twice the time of a copy beside which nobody writes.
//!
//! While writes go to both sides, nothing more comes to be copied, and [`Share`] reserves a part of the
//! target for the copier. So after the last entry into that state, the mirror is ready within what was left
//! then, divided by that part of what the target accepts.
//!
//! This is pure code without a clock and without I/O: the laboratory of strategies runs the same.

use std::time::Duration;

/// The part of the target's throughput that the copier keeps while writes go to both sides.
pub const RESERVED: f64 = 2.0 / 3.0;
/// The window of writes on their way, in bytes, if there is a limit of latency and no other window.
pub const DEFAULT_WINDOW: u64 = 64 << 20;

/// The longest and the shortest time without progress, in seconds.
const MOST_PATIENCE: f64 = 10.0;
const LEAST_PATIENCE: f64 = 0.2;
/// The number of times that it goes back to the background.
const RETURNS: u32 = 4;
/// A mirror that is ready and has this many seconds of copying left is as good as one that is done.
const LITTLE: f64 = 0.25;
/// The time over which the copier's rate is averaged, in seconds.
const AVERAGED: f64 = 1.0;
/// The smallest window that is more than none, in bytes.
const LEAST_WINDOW: u64 = 1 << 20;
/// The bytes that a guest may write to a target at once, at the beginning and at most: more than the copier's
/// largest copy leaves to it.
const FIRST: f64 = (64 << 10) as f64;
const BURST: f64 = (512 << 10) as f64;

/// The limits of an adaptive mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// The time from the start by which the mirror should be ready.
    pub deadline: Option<Duration>,
    /// True if the guest's writes have a limit of latency, so that [`Seen::late`] means something.
    pub latency: bool,
    /// The largest window of writes on their way, in bytes; 0 for the default.
    pub window: u64,
}

/// The state of a mirror at one moment, as the controller sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The time since the start, without the time in which the job was paused. It never goes back.
    pub now: Duration,
    /// Bytes that are to be copied.
    pub todo: u64,
    /// Bytes that the copier has copied since the start. It never goes back.
    pub cleaned: u64,
    /// Bytes of data among them: holes cost hardly anything.
    pub data: u64,
    /// More than one of a hundred of the guest's latest writes took longer than the limit.
    pub late: bool,
    /// The mirror has been reported as ready.
    pub ready: bool,
}

/// The orders of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Orders {
    /// Writes go to both sides, and not to the source alone.
    pub active: bool,
    /// The bytes that may be on their way to the target while the guest goes on.
    pub window: u64,
}

/// A point in time from which progress is measured.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: f64,
    todo: u64,
    cleaned: u64,
    data: u64,
}

/// The controller; see the module.
#[derive(Clone, Debug)]
pub struct Controller {
    limits: Limits,
    orders: Orders,
    /// Bytes that were left at the start.
    total: u64,
    started: Option<f64>,
    last: Mark,
    /// The copier's rate in bytes per second, and the largest so far: with little left to do, it copies no
    /// more than becomes stale.
    rate: f64,
    best: f64,
    /// The beginning of the patience.
    since: Mark,
    returns: u32,
}

impl Controller {
    /// Creates the controller of a mirror that begins in the background.
    pub fn new(limits: Limits) -> Self {
        let none = Mark { at: 0.0, todo: 0, cleaned: 0, data: 0 };
        let mut controller = Controller {
            limits,
            orders: Orders::default(),
            total: 0,
            started: None,
            last: none,
            rate: 0.0,
            best: 0.0,
            since: none,
            returns: 0,
        };
        if !limits.latency {
            controller.orders.window = limits.window;
        }
        controller
    }

    /// The number of times that it has gone back to the background.
    pub fn returns(&self) -> u32 {
        self.returns
    }

    /// Looks at the mirror and gives orders. Called several times a second.
    pub fn tick(&mut self, seen: &Seen) -> Orders {
        let Seen { now, todo, cleaned, data, .. } = *seen;
        let mark = Mark { at: now.as_secs_f64(), todo, cleaned, data };
        let Some(started) = self.started else {
            self.started = Some(mark.at);
            self.total = seen.todo;
            (self.last, self.since) = (mark, mark);
            return self.orders;
        };
        self.measure(mark, mark.at - started);
        if self.orders.active {
            self.choose_window(seen.late);
            if self.may_return(mark, seen) {
                self.orders.active = false;
                self.returns += 1;
                self.since = mark;
            }
        } else if self.is_stalled(mark, seen.ready)
            || self.is_last_moment(mark, mark.at - started, seen.ready)
        {
            self.orders.active = true;
            self.since = mark;
        }
        self.orders
    }

    /// Averages the rate; in the beginning, over all the time.
    fn measure(&mut self, mark: Mark, age: f64) {
        let passed = mark.at - self.last.at;
        if passed <= 0.0 {
            return;
        }
        let rate = mark.data.saturating_sub(self.last.data) as f64 / passed;
        let weight = (1.0 - (-passed / AVERAGED).exp()).max(passed / age.max(passed));
        self.rate += (rate - self.rate) * weight;
        self.best = self.best.max(self.rate);
        self.last = mark;
    }

    /// The time in seconds that may pass without progress.
    fn patience(&self) -> f64 {
        let quarter = self.total as f64 / self.best.max(1.0) / 4.0;
        quarter.clamp(LEAST_PATIENCE, MOST_PATIENCE) * f64::from(1 << self.returns)
    }

    /// Returns true if what is left does not sink as it should.
    fn is_stalled(&mut self, mark: Mark, ready: bool) -> bool {
        if mark.at - self.since.at < self.patience() {
            return false;
        }
        let since = std::mem::replace(&mut self.since, mark);
        let cleaned = mark.cleaned.saturating_sub(since.cleaned);
        let sunk = since.todo.saturating_sub(mark.todo);
        let done = mark.todo == 0 || ready && mark.todo as f64 <= self.best * LITTLE;
        // A target that takes nothing is no reason to have the guest wait for it.
        cleaned > 0 && sunk < cleaned / 2 && !done
    }

    /// Returns true if the mirror, in both cases with the reserved share, is ready in time now but not later.
    fn is_last_moment(&self, mark: Mark, age: f64, ready: bool) -> bool {
        if ready || mark.todo == 0 || self.rate <= 0.0 || age < LEAST_PATIENCE {
            return false;
        }
        let deadline = self.limits.deadline.map(|deadline| deadline.as_secs_f64());
        let own = (!self.limits.latency).then(|| 2.0 * self.total as f64 / self.best);
        let limit = deadline.unwrap_or(f64::INFINITY).min(own.unwrap_or(f64::INFINITY));
        // With a tenth in hand, since a rate is only measured.
        age + 1.1 * mark.todo as f64 / (self.rate * RESERVED) > limit
    }

    fn choose_window(&mut self, late: bool) {
        if !self.limits.latency {
            return;
        }
        let window = self.orders.window;
        self.orders.window = if late {
            (window * 2).clamp(LEAST_WINDOW.min(self.largest_window()), self.largest_window())
        } else if window > LEAST_WINDOW {
            window - window / 8
        } else {
            0
        };
    }

    fn largest_window(&self) -> u64 {
        if self.limits.window == 0 { DEFAULT_WINDOW } else { self.limits.window }
    }

    /// Returns true if the guest's writes were late with the largest window for all of the patience.
    fn may_return(&mut self, mark: Mark, seen: &Seen) -> bool {
        if !self.limits.latency || !seen.late || self.orders.window < self.largest_window() || seen.todo == 0
        {
            self.since = mark;
            return false;
        }
        let age = mark.at - self.started.unwrap_or(mark.at);
        self.returns < RETURNS
            && mark.at - self.since.at >= self.patience()
            && !self.is_last_moment(mark, age + 2.0 * self.patience(), seen.ready)
    }
}

/// The share of the target that is reserved for the copier: a guest's writes to the target wait for it.
///
/// For each byte that the copier has copied, the guest may write half a byte to the target, which is what
/// [`RESERVED`] leaves.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Bytes that the guest may write; less than none after a write that was larger.
    credit: f64,
}

impl Default for Share {
    fn default() -> Self {
        Share { credit: FIRST }
    }
}

impl Share {
    /// Records that the copier has copied this many bytes.
    pub fn copied(&mut self, bytes: u64) {
        self.credit = (self.credit + bytes as f64 * (1.0 - RESERVED) / RESERVED).min(BURST);
    }

    /// Returns true if a write of the guest may go to the target now.
    pub fn may_write(&self) -> bool {
        self.credit > 0.0
    }

    /// Records that the guest writes this many bytes to the target.
    pub fn wrote(&mut self, bytes: u64) {
        self.credit -= bytes as f64;
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
