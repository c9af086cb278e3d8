//! Experiments that compare strategies of live migration: of disks, of RAM, and of both together.
//!
//! An experiment is a TOML file: a disk, its guest's workload, devices, a link, strategies, and values to
//! sweep over. Each of its runs follows from the experiment, the strategy and a seed, and gives one line of
//! `runs.csv`. The same seed gives the same line, on any number of threads and machines.
//!
//! Modules, in reading order:
//!
//! - [`experiment`]: the file, its checks, and the points of its sweep ([`Experiment`])
//! - `setup`: what runs at a point: disk, RAM, devices, link, workload, limits and faults
//! - [`policy`]: what a strategy sees and what it may order ([`Policy`])
//! - [`presets`]: the published strategies
//! - [`fluid`]: the model that runs them ([`fluid::Run`]): regions of a disk by popularity, rates and queues
//! - [`event`]: the tier that runs them on the real block layer, on simulated devices in virtual time
//! - `meter`, `histogram`: metrics that both share
//! - [`calibrate`](mod@calibrate): parameters of the model from measurements
//! - [`figures`]: published figures, reproduced
//! - [`record`]: the results of a run
//! - [`schedule`]: runs shared between threads and machines
//! - [`results`]: tables in a folder, the journal of an experiment that runs, and shards as one
//! - [`statistics`]: medians with intervals, paired differences
//! - [`report`]: the page, and tables for the terminal
//! - [`plot`]: plots as SVG
//! - [`assertion`]: what makes an experiment a test
//! - [`units`], [`reader`]: sizes, rates and times as people write them; errors with a line
//!
//! ```
//! let text = r#"
//! name = "first"
//! [disk]
//! size = "16G"
//! [workload]
//! preset = "oltp"
//! [strategies]
//! disk = ["mirror-io"]
//! [runs]
//! seeds = 1
//! "#;
//! let experiment = lab::Experiment::parse("first.toml", text)?;
//! let outcome = lab::run_one(&experiment, 0, &experiment.strategies[0], 1);
//! assert!(outcome.record.converged);
//! # Ok::<(), lab::LabError>(())
//! ```
//!
//! Tests: `foo_tests.rs` beside `foo.rs`; `tests/` runs the experiments that are shipped.

pub mod assertion;
pub mod calibrate;
pub mod event;
pub mod experiment;
pub mod figures;
pub mod fluid;
mod histogram;
mod meter;
pub mod plot;
pub mod policy;
pub mod presets;
pub mod reader;
pub mod record;
pub mod report;
pub mod results;
pub mod schedule;
mod setup;
pub mod statistics;
pub mod units;

pub use experiment::{Experiment, Point, Setup, Tier};
pub use policy::{Order, Policy, Seen};
pub use presets::Strategy;
pub use reader::LabError;
pub use record::{Outcome, RunInfo, RunRecord, SeriesPoint};

/// Runs one strategy once: at the point of the sweep with this number, with this seed. A pure function: the
/// same arguments give the same outcome.
///
/// # Panics
/// Panics if the experiment has no such point.
pub fn run_one(experiment: &Experiment, point: usize, strategy: &Strategy, seed: u64) -> Outcome {
    run_and_measure(experiment, point, strategy, seed).0
}

/// As [`run_one`], with the processor time that the run took.
///
/// # Panics
/// As [`run_one`].
pub fn run_and_measure(
    experiment: &Experiment,
    point: usize,
    strategy: &Strategy,
    seed: u64,
) -> (Outcome, event::Cost) {
    let at = &experiment.points[point];
    // Without pairs, each strategy has a guest of its own.
    let drawn = match experiment.pair {
        true => seed,
        false => workload::Random::of(seed, &strategy.name()).next_u64(),
    };
    let (mut outcome, cost) = match experiment.tier {
        Tier::Fluid => (fluid::Run::new(&at.setup, strategy, drawn).finish(), event::Cost::default()),
        Tier::Event => event::run(&at.setup, strategy, drawn),
    };
    outcome.record.seed = seed;
    outcome.record.experiment.clone_from(&experiment.name);
    outcome.record.point = point;
    outcome.record.settings = at.label();
    for line in &mut outcome.series {
        line.point = point;
        line.seed = seed;
    }
    (outcome, cost)
}
