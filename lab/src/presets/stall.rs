//! Rounds of pages that end at a local minimum once they stall (KubeVirt VEP 248).
//!
//! The numbers are the defaults of the VEP's `migration-hyperparameters.md`, and the decisions those of its
//! technical description, for a migration that may neither fetch pages after the move nor stop the guest for
//! long. The VEP looks at a moving average of the bandwidth, and so does this.

use std::collections::VecDeque;

use smallvec::smallvec;

use crate::policy::{Order, Orders, Phase, Policy, Seen, Stale, Tee};

/// Seconds without progress that make a stall (`progressTimeout`).
const PROGRESS_TIMEOUT: f64 = 60.0;
/// The share by which a round may be worse than the best one, and still be as good (`stallMargin`).
const MARGIN: f64 = 0.04;
/// The longest stop after a stall, in seconds (`maxDowntimeMs`).
const MOST_DOWNTIME: f64 = 0.9;
/// The factor of that stop beyond which there is no hope (`precopyPossibleFactor`).
const POSSIBLE: f64 = 1.5;
/// The factor of the patience after each time that it ran out (`patienceWindowDecayFactor`).
const DECAY: f64 = 0.5;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct LocalMinimum {
    /// The least bytes that were left at the end of a round before the last [`PROGRESS_TIMEOUT`] seconds.
    outside: Option<f64>,
    /// Later rounds that may become that: the time of their end, and the bytes that were left.
    inside: VecDeque<(f64, f64)>,
    stall: Option<Stall>,
    /// The time at which it gives up, once the limit is [`MOST_DOWNTIME`].
    until: Option<f64>,
}

/// The search for a good round after a stall.
#[derive(Clone, Debug)]
struct Stall {
    /// The bytes that are wanted.
    best: f64,
    /// The bytes that were left at the ends of rounds since the stall.
    history: Vec<f64>,
    patience: f64,
    /// The time at which `best` becomes the next larger one of `history`.
    deadline: f64,
}

impl LocalMinimum {
    /// Creates the strategy.
    pub fn new() -> Self {
        LocalMinimum::default()
    }

    /// Looks at the end of a round. Returns the bytes of the minimum if this is the time to move.
    fn judge(&mut self, now: f64, left: f64) -> Option<f64> {
        while let Some((_, bytes)) = self.inside.front().filter(|round| round.0 <= now - PROGRESS_TIMEOUT) {
            self.outside = Some(self.outside.map_or(*bytes, |least| least.min(*bytes)));
            self.inside.pop_front();
        }
        if self.outside.is_none_or(|least| left < least) {
            self.inside.push_back((now, left));
        }
        let Some(stall) = &mut self.stall else {
            let outside = self.outside.filter(|least| left >= least * (1.0 - MARGIN))?;
            let samples = || self.inside.iter().map(|round| round.1);
            let (best, most) = (samples().fold(outside, f64::min), samples().fold(outside, f64::max));
            let deadline = now + PROGRESS_TIMEOUT;
            self.stall = Some(Stall { best, history: Vec::new(), patience: PROGRESS_TIMEOUT, deadline });
            // Rounds that are all alike have no better one to wait for.
            return (1.0 - best / most < MARGIN).then_some(best);
        };
        stall.history.push(left);
        if left > stall.best * (1.0 + MARGIN) && now >= stall.deadline {
            let larger = stall.history.iter().copied().filter(|bytes| *bytes > stall.best);
            stall.best = larger.reduce(f64::min).unwrap_or(stall.best);
            stall.patience *= DECAY;
            stall.deadline = now + stall.patience;
        }
        (left <= stall.best * (1.0 + MARGIN)).then_some(stall.best)
    }
}

impl Policy for LocalMinimum {
    fn name(&self) -> String {
        "precopy-localmin".to_owned()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        let mut orders: Orders = smallvec![Order::Tee(Tee::Background)];
        if seen.phase != Phase::Before {
            return orders;
        }
        let own = &seen.own;
        if self.until.is_some_and(|until| seen.now >= until) {
            orders.push(Order::Abort);
            return orders;
        }
        if own.rounds > 0 && own.round > 0 {
            return orders;
        }
        if own.rounds == 0 || own.copied_rate <= 0.0 {
            orders.push(Order::FreezeRound);
            return orders;
        }
        let (left, rate) = (own.todo as f64, own.copied_rate);
        let limit = seen.limits.downtime;
        if self.until.is_none()
            && left > limit * rate
            && let Some(best) = self.judge(seen.now, left)
        {
            if best > MOST_DOWNTIME * POSSIBLE * rate {
                orders.push(Order::Abort);
                return orders;
            }
            self.until = Some(seen.now + PROGRESS_TIMEOUT);
        }
        let limit = if self.until.is_some() { limit.max(MOST_DOWNTIME) } else { limit };
        if left <= limit * rate {
            // The time in which it waits for the disk is not lost.
            self.until = self.until.map(|_| seen.now + PROGRESS_TIMEOUT);
            orders.push(Order::Pivot { stale: Stale::Copy });
        } else {
            orders.push(Order::FreezeRound);
        }
        orders
    }
}

#[cfg(test)]
#[path = "stall_tests.rs"]
mod tests;
