//! The strategy that always arrives: writes go to the source alone as long as that gets somewhere, and to
//! both sides once it stalls.

use smallvec::smallvec;

use crate::policy::{Order, Orders, Phase, Plan, Policy, Seen, Stale, Tee};

/// The longest time without progress, in seconds.
const MOST_PATIENCE: f64 = 10.0;
/// The shortest.
const LEAST_PATIENCE: f64 = 0.2;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Adaptive {
    active: bool,
}

impl Adaptive {
    /// Creates the strategy, in the background.
    pub fn new() -> Self {
        Adaptive::default()
    }
}

impl Policy for Adaptive {
    fn name(&self) -> String {
        "adaptive".to_owned()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        let own = &seen.own;
        let mut orders: Orders = smallvec![Order::Take(Plan::Sequential)];
        if !self.active && seen.phase == Phase::Before && own.copied_rate > 0.0 {
            let quarter = own.size as f64 / own.copied_rate / 4.0;
            let patience = quarter.clamp(LEAST_PATIENCE, MOST_PATIENCE);
            let net = own.copied_rate - own.dirty_rate;
            let late = net > 0.0 && seen.now + own.todo as f64 / net > seen.limits.deadline;
            // What was copied once and is written again is all that a background copy has left at its end.
            self.active = seen.now - own.least_at > patience || late || own.fresh == 0;
        }
        orders.push(Order::Tee(if self.active { Tee::Active } else { Tee::Background }));
        if seen.phase == Phase::Before && self.active && own.todo == 0 {
            orders.push(Order::Pivot { stale: Stale::Copy });
        }
        orders
    }
}
