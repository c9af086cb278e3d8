//! A strategy of one's own beside the shipped ones: a mirror in the background that turns to both sides when
//! the guest's 99th percentile leaves room for it, and back when it does not.
//!
//! Run it by `cargo run --release -p lab --example own-strategy`; `docs/lab.md` explains it line by line.

use lab::Experiment;
use lab::fluid::Run;
use lab::policy::{Order, Orders, Phase, Plan, Policy, Seen, Stale, Tee};

/// The strategy: its state is whether writes go to both sides.
#[derive(Clone)]
struct Polite {
    active: bool,
}

impl Policy for Polite {
    fn name(&self) -> String {
        "polite".to_owned()
    }

    fn fork(&self) -> Box<dyn Policy + Send> {
        Box::new(self.clone())
    }

    fn tick(&mut self, seen: &Seen) -> Orders {
        // At first everything is copied once. From then on, both sides as long as the guest does not suffer.
        self.active = seen.own.fresh == 0 && seen.guest.p99 < seen.limits.p99;
        let tee = if self.active { Tee::Active } else { Tee::Background };
        let mut orders = Orders::from_slice(&[Order::Tee(tee), Order::Take(Plan::Sequential)]);
        if seen.phase == Phase::Before && seen.own.todo == 0 {
            orders.push(Order::Pivot { stale: Stale::Copy });
        }
        orders
    }
}

fn main() -> Result<(), lab::LabError> {
    let text = include_str!("presets.toml");
    let experiment = Experiment::parse("presets.toml", text)?;
    let setup = &experiment.points[0].setup;
    println!(
        "{:<20}{:>10}{:>14}{:>10}{:>16}",
        "strategy", "total, s", "blackout, ms", "p99, ms", "amplification"
    );
    let print = |run: lab::RunRecord| {
        let figures = (run.total_s, run.blackout_ms, run.p99_ms, run.amplification);
        let (total, blackout, p99, sent) = figures;
        println!("{:<20}{total:>10.1}{blackout:>14.1}{p99:>10.3}{sent:>16.3}", run.strategy);
    };
    for strategy in &experiment.strategies {
        print(Run::new(setup, strategy, 1).finish().record);
    }
    print(Run::with(setup, Some(Box::new(Polite { active: false })), None, 1).finish().record);
    Ok(())
}
