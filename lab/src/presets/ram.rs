//! Strategies for RAM: rounds of pages, and the question when to stop the guest for the last one.

use smallvec::smallvec;

use crate::policy::{Order, Orders, Phase, Policy, Seen, Stale, Tee};

/// The time that the last round may take.
#[derive(Clone, Debug)]
pub enum Threshold {
    /// The experiment's downtime limit.
    Limit,
    /// A limit that grows with time (KubeVirt VEP 291).
    Ramp {
        /// The limit in force, in seconds.
        limit: f64,
        /// The time of the last step, or of the end of the third round.
        since: Option<f64>,
    },
}

impl Threshold {
    /// Creates the ramp of VEP 291: 150 ms, and from the third round on 150 ms more every 10 s, up to 1050
    /// ms.
    pub fn ramp() -> Self {
        Threshold::Ramp { limit: RAMP_STEP, since: None }
    }
}

const RAMP_STEP: f64 = 0.15;
const RAMP_END: f64 = 1.05;
const RAMP_TIME: f64 = 10.0;
const RAMP_ROUNDS: u32 = 3;

/// Rounds, and then a stop or a fetch of what is left.
#[derive(Clone, Debug)]
pub struct PreCopy {
    name: String,
    /// Moves after this many rounds, whatever is left.
    after: Option<u32>,
    stale: Stale,
    threshold: Threshold,
}

impl PreCopy {
    /// Creates rounds until what is left can be sent within a time.
    pub fn until(name: &str, threshold: Threshold) -> Self {
        let name = name.to_owned();
        PreCopy { name, after: None, stale: Stale::Copy, threshold }
    }

    /// Creates a fixed number of rounds.
    pub fn after(name: &str, rounds: u32, stale: Stale) -> Self {
        let threshold = Threshold::Limit;
        PreCopy { name: name.to_owned(), after: Some(rounds), stale, threshold }
    }

    /// The time that the last round may take now.
    fn limit(&mut self, seen: &Seen) -> f64 {
        match &mut self.threshold {
            Threshold::Limit => seen.limits.downtime,
            Threshold::Ramp { limit, since } => {
                if let Some(at) = since {
                    while seen.now - *at >= RAMP_TIME && *limit < RAMP_END {
                        *limit = (*limit + RAMP_STEP).min(RAMP_END);
                        *at += RAMP_TIME;
                    }
                } else if seen.own.rounds >= RAMP_ROUNDS {
                    *since = Some(seen.now);
                }
                *limit
            }
        }
    }
}

impl Policy for PreCopy {
    fn name(&self) -> String {
        self.name.clone()
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
        if own.rounds > 0 && own.round > 0 {
            return orders;
        }
        if let Some(rounds) = self.after {
            let order =
                if own.rounds >= rounds { Order::Pivot { stale: self.stale } } else { Order::FreezeRound };
            orders.push(order);
            return orders;
        }
        if own.rounds == 0 || own.copied_rate <= 0.0 {
            orders.push(Order::FreezeRound);
            return orders;
        }
        let estimate = own.todo as f64 / own.copied_rate;
        let limit = self.limit(seen);
        orders.push(match estimate <= limit {
            true => Order::Pivot { stale: self.stale },
            false => Order::FreezeRound,
        });
        orders
    }
}

/// Rounds, with CPUs that are slowed while the guest writes more than half of what is sent.
#[derive(Clone, Debug)]
pub struct AutoConverge {
    rounds: PreCopy,
    throttle: f64,
    /// Rounds in a row in which the guest wrote too much.
    high: u32,
    seen: u32,
}

impl AutoConverge {
    /// Creates the strategy with QEMU's figures: 20 % first, then 10 % more each time, at most 99 %.
    pub fn new() -> Self {
        let rounds = PreCopy::until("auto-converge", Threshold::Limit);
        AutoConverge { rounds, throttle: 0.0, high: 0, seen: 0 }
    }
}

impl Default for AutoConverge {
    fn default() -> Self {
        AutoConverge::new()
    }
}

impl Policy for AutoConverge {
    fn name(&self) -> String {
        self.rounds.name()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        let own = &seen.own;
        if seen.phase == Phase::Before && own.rounds > 1 && own.round == 0 && own.rounds != self.seen {
            self.seen = own.rounds;
            self.high = if own.dirty_rate > own.copied_rate / 2.0 { self.high + 1 } else { 0 };
            if self.high >= 2 {
                self.high = 0;
                self.throttle = if self.throttle == 0.0 { 0.2 } else { (self.throttle + 0.1).min(0.99) };
            }
        }
        let mut orders = self.rounds.tick(seen);
        orders.push(Order::Throttle(self.throttle));
        orders
    }
}
