//! The speed limit of a job: exact over long times, smooth over short ones.

use std::cell::Cell;
use std::time::Duration;

/// Maximum delay that a late job may catch up on.
const SLACK: Duration = Duration::from_millis(100);
/// Steps per second, if the speed allows only small ones.
const STEPS: u64 = 8;

/// The speed limit, and the time at which the next bytes may pass.
#[derive(Default)]
pub(super) struct Pace {
    /// Bytes per second; 0 for no limit.
    speed: Cell<u64>,
    /// Time at which all bytes that have passed are paid for.
    next: Cell<Duration>,
}

impl Pace {
    pub(super) fn speed(&self) -> u64 {
        self.speed.get()
    }

    /// Returns the time from `now` during which no bytes may pass; `None` if they may pass now.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        let wait = self.next.get().checked_sub(now)?;
        (self.speed.get() > 0 && wait > Duration::ZERO).then_some(wait)
    }

    /// Lets bytes pass; those that follow must wait for as long as these take at the limit.
    pub(super) fn take(&self, now: Duration, bytes: u64) {
        let speed = self.speed.get();
        if speed == 0 {
            return;
        }
        let begin = self.next.get().max(now.saturating_sub(SLACK));
        self.next.set(begin.saturating_add(time(bytes, speed)));
    }

    /// Changes the limit. Bytes that are not paid for at the old speed are paid at the new one.
    pub(super) fn set_speed(&self, now: Duration, speed: u64) {
        let old = self.speed.replace(speed);
        let left = self.next.get().saturating_sub(now);
        let owed = left.as_nanos().saturating_mul(old.into()) / 1_000_000_000;
        let owed = u64::try_from(owed).unwrap_or(u64::MAX);
        self.next.set(if speed == 0 { now } else { now.saturating_add(time(owed, speed)) });
    }

    /// Returns the largest step, at most `most` bytes, that passes within a fraction of a second.
    pub(super) fn step(&self, most: u64) -> u64 {
        match self.speed.get() {
            0 => most,
            speed => most.min((speed / STEPS).max(1)),
        }
    }
}

/// Returns the time that `bytes` take at `speed`.
fn time(bytes: u64, speed: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(speed);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
