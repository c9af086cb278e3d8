//! The speed limit of a job: exact over time, smooth in the small.

use std::cell::Cell;
use std::time::Duration;

/// How much of the time that it was late a job may catch up.
const SLACK: Duration = Duration::from_millis(100);
/// Steps a second, where the speed allows only small ones.
const STEPS: u64 = 8;

/// When the next bytes may pass.
#[derive(Default)]
pub(super) struct Pace {
    /// Bytes a second; 0: no limit.
    speed: Cell<u64>,
    /// When all that was taken is paid for.
    next: Cell<Duration>,
}

impl Pace {
    pub(super) fn speed(&self) -> u64 {
        self.speed.get()
    }

    /// How long nothing may pass from `now` on.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        let wait = self.next.get().checked_sub(now)?;
        (self.speed.get() > 0 && wait > Duration::ZERO).then_some(wait)
    }

    /// Lets bytes pass: those that follow wait for as long as these may take.
    pub(super) fn take(&self, now: Duration, bytes: u64) {
        let speed = self.speed.get();
        if speed == 0 {
            return;
        }
        let begin = self.next.get().max(now.saturating_sub(SLACK));
        self.next.set(begin.saturating_add(time(bytes, speed)));
    }

    /// What is owed at the old speed is paid at the new one.
    pub(super) fn set_speed(&self, now: Duration, speed: u64) {
        let old = self.speed.replace(speed);
        let left = self.next.get().saturating_sub(now);
        let owed = left.as_nanos().saturating_mul(old.into()) / 1_000_000_000;
        let owed = u64::try_from(owed).unwrap_or(u64::MAX);
        self.next.set(if speed == 0 { now } else { now.saturating_add(time(owed, speed)) });
    }

    /// The largest step that passes within a part of a second, `most` at the most.
    pub(super) fn step(&self, most: u64) -> u64 {
        match self.speed.get() {
            0 => most,
            speed => most.min((speed / STEPS).max(1)),
        }
    }
}

/// How long `bytes` take.
fn time(bytes: u64, speed: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(speed);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
