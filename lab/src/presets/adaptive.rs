//! The strategy that always arrives: writes go to the source alone as long as that gets somewhere, and to
//! both sides once it stalls. The decisions are those of the mirror job itself
//! ([`block::job::mirror::control`]).

use std::time::Duration;

use block::job::mirror::control::{self, Controller};
use smallvec::smallvec;

use crate::policy::{Order, Orders, Phase, Plan, Policy, Seen, Stale, Tee};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Adaptive {
    /// The controller; none before the first tick, which knows the deadline.
    controller: Option<Controller>,
    active: bool,
}

impl Adaptive {
    /// Creates the strategy, in the background.
    pub fn new() -> Self {
        Adaptive::default()
    }
}

/// Returns a time that is never too large for what is done with it.
fn time(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
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
        if seen.phase == Phase::Before {
            let deadline = Some(time(seen.limits.deadline));
            let limits = control::Limits { deadline, ..control::Limits::default() };
            let controller = self.controller.get_or_insert_with(|| Controller::new(limits));
            let look = control::Seen {
                now: time(seen.now),
                todo: own.todo,
                cleaned: own.copied,
                data: own.copied,
                ..control::Seen::default()
            };
            self.active = controller.tick(&look).active;
        }
        orders.push(Order::Tee(if self.active { Tee::Active } else { Tee::Background }));
        if seen.phase == Phase::Before && self.active && own.todo == 0 {
            orders.push(Order::Pivot { stale: Stale::Copy });
        }
        orders
    }
}
