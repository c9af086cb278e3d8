//! Latencies by intervals of 100 ms, of the last ten minutes.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::OPS;
use crate::disk::stats::{Ended, Op};

/// The length of an interval.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// The most intervals that are kept: ten minutes of a disk that is never idle.
pub(super) const KEPT: usize = 6000;
/// The longest latency that is recorded, in ns; longer ones count as this.
const LONGEST: u64 = 3_600_000_000_000;
/// Significant decimal digits of quantiles.
const DIGITS: u8 = 1;

/// The requests of one kind that ended in an interval. Latencies are in ns, quantiles are exact to 7 %.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Quantiles {
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Number of requests.
    pub count: u32,
    /// Half of them took no longer.
    pub p50: f32,
    /// 99 of 100 of them took no longer.
    pub p99: f32,
    /// The longest.
    pub max: f32,
}

/// A closed interval.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Interval {
    kinds: [Quantiles; OPS.len()],
    /// Its number: it began this many [`INTERVAL`]s after the executor.
    pub number: u32,
    /// Time for which the gate was closed, in ns.
    pub gate_closed: u32,
    /// The largest number of requests that were in flight when one of them ended.
    pub in_flight: u32,
    /// Number of requests that failed.
    pub failed: u32,
}

impl Interval {
    /// Returns the figures of one kind of request.
    pub fn of(&self, op: Op) -> &Quantiles {
        &self.kinds[op as usize]
    }
}

/// The intervals of a disk, and the one that is open.
pub(super) struct Intervals {
    closed: VecDeque<Interval>,
    open: Interval,
    /// The time at which it ends.
    ends: Duration,
    histograms: [Histogram<u32>; OPS.len()],
    /// The time from which on the gate is closed and not accounted for.
    gate_closed: Option<Duration>,
}

impl Default for Intervals {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .expect("the constants are within the bounds that it accepts")
        };
        Intervals {
            closed: VecDeque::new(),
            open: Interval::default(),
            ends: INTERVAL,
            histograms: std::array::from_fn(|_| histogram()),
            gate_closed: None,
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Intervals {
    pub(super) fn ended(&mut self, now: Duration, request: &Ended, running: u32) {
        self.close_until(now);
        let kind = &mut self.open.kinds[request.op as usize];
        let latency = nanos(request.latency).clamp(1, LONGEST);
        kind.count = kind.count.saturating_add(1);
        kind.max = kind.max.max(latency as f32);
        if request.failed {
            self.open.failed = self.open.failed.saturating_add(1);
        } else {
            kind.bytes = kind.bytes.saturating_add(request.len);
        }
        self.open.in_flight = self.open.in_flight.max(running);
        self.histograms[request.op as usize].saturating_record(latency);
    }

    pub(super) fn gate(&mut self, now: Duration, closed: bool) {
        self.close_until(now);
        self.account_gate(now);
        self.gate_closed = closed.then_some(now);
    }

    /// Counts the time until `until`, which is in the open interval, as closed if the gate is.
    fn account_gate(&mut self, until: Duration) {
        if let Some(since) = &mut self.gate_closed {
            let time = nanos(until.saturating_sub(*since)) as u32;
            self.open.gate_closed = self.open.gate_closed.saturating_add(time);
            *since = until;
        }
    }

    /// Closes the intervals that end at `now` or before.
    pub(super) fn close_until(&mut self, now: Duration) {
        if now < self.ends {
            return;
        }
        self.account_gate(self.ends);
        self.close();
        let number = (nanos(now) / nanos(INTERVAL)) as u32;
        // Nothing happened in those between, but the gate may have been closed throughout.
        if self.gate_closed.is_some() {
            let kept = number.saturating_sub(KEPT as u32);
            for number in (self.open.number + 1).max(kept)..number {
                self.open = Interval { number, gate_closed: INTERVAL.as_nanos() as u32, ..self.open };
                self.close();
            }
            self.gate_closed = Some(INTERVAL * number);
        }
        self.open.number = number;
        self.ends = INTERVAL * number.saturating_add(1);
    }

    /// Closes the open interval and empties it, with its number as it is.
    fn close(&mut self) {
        for (kind, histogram) in self.open.kinds.iter_mut().zip(&mut self.histograms) {
            if kind.count > 0 {
                (kind.p50, kind.p99) =
                    (histogram.value_at_quantile(0.5) as f32, histogram.value_at_quantile(0.99) as f32);
                (kind.p50, kind.p99) = (kind.p50.min(kind.max), kind.p99.min(kind.max));
                histogram.reset();
            }
        }
        let number = self.open.number;
        if self.open != (Interval { number, ..Interval::default() }) {
            if self.closed.capacity() == 0 {
                self.closed.reserve_exact(KEPT);
            }
            if self.closed.len() == KEPT {
                self.closed.pop_front();
            }
            self.closed.push_back(self.open);
        }
        self.open = Interval { number, ..Interval::default() };
    }

    /// Returns the number of the open interval.
    pub(super) fn open(&self) -> u64 {
        self.open.number.into()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gate_closed.is_some()
    }

    /// Returns the closed intervals from number `since` on.
    pub(super) fn since(&self, since: u64) -> impl Iterator<Item = &Interval> {
        let first = self.closed.partition_point(|interval| u64::from(interval.number) < since);
        self.closed.range(first..)
    }
}
