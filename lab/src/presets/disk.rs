//! Strategies for disks: mirrors, which differ in their tee, order and pivot, and copies in rounds.

use smallvec::smallvec;

use crate::policy::{Order, Orders, Phase, Plan, Policy, Seen, Stale, Tee};

/// Rounds without progress after which a copy in rounds gives up.
const PATIENCE: u32 = 6;

/// A copy that follows the disk.
#[derive(Clone, Debug)]
pub struct Mirror {
    name: String,
    tee: Tee,
    take: Plan,
    stale: Stale,
    /// Moves when this share was copied, instead of all of it.
    share: Option<f64>,
    throttles: bool,
    throttle: f64,
}

impl Mirror {
    /// Creates a mirror that moves the guest when everything was copied.
    pub fn new(name: &str, tee: Tee, take: Plan, stale: Stale) -> Self {
        Mirror { name: name.to_owned(), tee, take, stale, share: None, throttles: false, throttle: 0.0 }
    }

    /// Has it move the guest when this share was copied.
    pub fn at_share(self, share: f64) -> Self {
        Mirror { share: Some(share), ..self }
    }

    /// Has it slow the guest's writes while they are quicker than a half of the copy.
    pub fn throttling(self) -> Self {
        Mirror { throttles: true, ..self }
    }
}

impl Policy for Mirror {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        let mut orders: Orders = smallvec![Order::Tee(self.tee), Order::Take(self.take)];
        if seen.phase != Phase::Before {
            return orders;
        }
        if self.throttles {
            let wanted = seen.own.copied_rate / 2.0;
            let dirty = seen.own.dirty_rate;
            // Bradford et al. delay writes that exceed a rate.
            self.throttle = match dirty > wanted && dirty > 0.0 {
                true => (self.throttle + 0.02).min(0.95),
                false => (self.throttle - 0.005).max(0.0),
            };
            orders.push(Order::Throttle(self.throttle));
        }
        let left = match self.tee {
            // The snapshot alone is copied.
            Tee::Overlay => seen.own.fresh,
            _ => seen.own.todo,
        };
        let moves = match self.share {
            Some(share) => seen.own.fresh as f64 <= (1.0 - share) * seen.own.size as f64,
            // As ours: a mirror is ready, and completes, when nothing is left.
            None => left == 0,
        };
        if moves {
            orders.push(Order::Pivot { stale: self.stale });
        }
        orders
    }
}

/// A copy in rounds, each over a bitmap that is frozen when it begins.
#[derive(Clone, Debug)]
pub struct Rounds {
    name: String,
    tee: Tee,
    avoids_hot: bool,
    once: bool,
    /// Bytes that the round had to copy when it began.
    begun_with: u64,
    /// The least that a round began with, and the rounds since then.
    least: (u64, u32),
}

impl Rounds {
    /// Creates a copy in rounds until what is left fits the downtime limit.
    pub fn new(name: &str, tee: Tee) -> Self {
        let name = name.to_owned();
        Rounds { name, tee, avoids_hot: false, once: false, begun_with: 0, least: (u64::MAX, 0) }
    }

    /// Has each round end before it has copied what is written most.
    pub fn avoiding_hot(self) -> Self {
        Rounds { avoids_hot: true, ..self }
    }

    /// Has the guest move after the first round, with the rest pulled.
    pub fn once(self) -> Self {
        Rounds { once: true, ..self }
    }
}

impl Policy for Rounds {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        let take = if self.avoids_hot { Plan::ColdFirst } else { Plan::Sequential };
        let mut orders: Orders = smallvec![Order::Tee(self.tee), Order::Take(take)];
        if seen.phase != Phase::Before {
            return orders;
        }
        let own = &seen.own;
        let hot = if self.avoids_hot { self.begun_with / 10 } else { 0 };
        if own.rounds > 0 && own.round > hot {
            return orders;
        }
        let fits = own.todo as f64 <= seen.limits.downtime * own.copied_rate;
        if own.rounds == 0 {
            self.begun_with = own.todo;
            orders.push(Order::FreezeRound);
        } else if self.once {
            orders.push(Order::Pivot { stale: Stale::Pull });
        } else if fits {
            orders.push(Order::Pivot { stale: Stale::Copy });
        } else {
            // A round that begins with hardly less than the best one before is not progress.
            self.least = match (own.todo as f64) < self.least.0 as f64 * 0.95 {
                true => (own.todo, 0),
                false => (self.least.0, self.least.1 + 1),
            };
            if self.least.1 >= PATIENCE && self.tee == Tee::Delta {
                // Deltas have to be merged some time: the guest is stopped for the last one.
                orders.push(Order::Pivot { stale: Stale::Copy });
            } else if self.least.1 >= PATIENCE {
                orders.push(Order::Abort);
            } else {
                self.begun_with = own.todo;
                orders.push(Order::FreezeRound);
            }
        }
        orders
    }
}
