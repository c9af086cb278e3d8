//! The two tiers beside each other, at the points of `examples/grid.toml`: the model, and the block layer
//! itself.

use std::collections::BTreeMap;

use super::{Check, Figure, median};
use crate::experiment::{Experiment, Tier};
use crate::plot::{Axis, Chart, Series, Unit};
use crate::reader::LabError;
use crate::record::RunRecord;
use crate::schedule::{Job, Shard, jobs, run_all};

const GRID: &str = include_str!("../../examples/grid.toml");
/// The most that total time and amplification may differ, as a share, and the factor of blackouts.
const WITHIN: f64 = 0.1;
const FACTOR: f64 = 1.5;
/// Blackouts below this many milliseconds are alike: a request takes as long by itself.
const SHORT: f64 = 1.0;
/// The points that must agree, of all of them.
const AGREE: (usize, usize) = (10, 12);

/// Runs everything in a tier. The records are in the order of the jobs.
fn records(experiment: &Experiment, tier: Tier) -> BTreeMap<Job, RunRecord> {
    let experiment = Experiment { tier, ..experiment.clone() };
    let all = jobs(experiment.points.len(), experiment.strategies.len(), &experiment.seeds, Shard::ALL);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = |job: &Job| {
        crate::run_one(&experiment, job.point, &experiment.strategies[job.strategy], job.seed).record
    };
    let mut records = BTreeMap::new();
    let done = run_all(&all, threads, run, |job, record| {
        records.insert(job, record);
        Ok::<(), std::convert::Infallible>(())
    });
    match done {
        Ok(()) => records,
        Err(never) => match never {},
    }
}

/// Makes the figure.
pub(super) fn figure() -> Result<Figure, LabError> {
    let experiment = Experiment::parse("grid.toml", GRID)?;
    let (fluid, event) = (records(&experiment, Tier::Fluid), records(&experiment, Tier::Event));
    let (mut rows, mut series, mut agree) = (Vec::new(), Vec::new(), 0);
    let mut wrong = 0;
    for (strategy, name) in experiment.strategies.iter().enumerate() {
        let mut blackouts = Vec::new();
        for (point, at) in experiment.points.iter().enumerate() {
            let of = |records: &BTreeMap<Job, RunRecord>, value: &dyn Fn(&RunRecord) -> f64| {
                let here = records.iter().filter(|(job, _)| (job.point, job.strategy) == (point, strategy));
                median(&here.map(|(_, record)| value(record)).collect::<Vec<_>>())
            };
            let pair = |value: &dyn Fn(&RunRecord) -> f64| (of(&fluid, value), of(&event, value));
            let total = pair(&|run| run.total_s);
            let sent = pair(&|run| run.amplification);
            let blackout = pair(&|run| run.blackout_ms);
            wrong += of(&event, &|run| run.wrong_blocks as f64) as u64;
            let ratio = |(model, real): (f64, f64)| real / model;
            let stops = (blackout.0.max(SHORT), blackout.1.max(SHORT));
            let near = |pair| (ratio(pair) - 1.0_f64).abs() <= WITHIN;
            let agrees = near(total) && near(sent) && (1.0 / FACTOR..=FACTOR).contains(&ratio(stops));
            agree += usize::from(agrees);
            rows.push(vec![
                name.name(),
                at.label(),
                format!("{:.1}", total.0),
                format!("{:.1}", total.1),
                format!("{:.3}", ratio(total)),
                format!("{:.3}", ratio(sent)),
                format!("{:.1}", blackout.0),
                format!("{:.1}", blackout.1),
                format!("{:.2}", ratio(stops)),
                (if agrees { "yes" } else { "NO" }).to_owned(),
            ]);
            blackouts.push(stops);
        }
        series.push(Series::points(&name.name(), strategy, blackouts));
    }
    let title = format!(
        "The model against the block layer itself in virtual time; medians of {} seeds.",
        experiment.seeds.len()
    );
    let all: Vec<(f64, f64)> = series.iter().flat_map(|series| series.points.clone()).collect();
    let (low, high) =
        all.iter().fold((f64::MAX, 0.0_f64), |(low, high), (x, y)| (low.min(x.min(*y)), high.max(x.max(*y))));
    series.push(Series::line("equal", experiment.strategies.len(), vec![(low, low), (high, high)]));
    let axis = |tier: &str| Axis::new(&format!("blackout in the tier {tier}"), Unit::Millis).log();
    let svg = Chart::new("Blackout by tier", axis("fluid"), axis("event"), series).svg();
    let heads = [
        "strategy",
        "point",
        "total s, fluid",
        "event",
        "event/fluid",
        "amplification",
        "blackout ms, fluid",
        "event",
        "event/fluid",
        "agrees",
    ];
    Ok(Figure {
        name: "tiers",
        title,
        columns: heads.map(String::from).to_vec(),
        checks: vec![
            Check::new(
                format!(
                    "{} of {} points agree: total time and amplification within 10 %, blackout within a factor of 1.5",
                    AGREE.0, AGREE.1
                ),
                format!("{agree} of {}", rows.len()),
                agree >= AGREE.0 && rows.len() == AGREE.1,
            ),
            Check::new("every block holds what the guest wrote last", format!("{wrong} do not"), wrong == 0),
        ],
        rows,
        svg,
    })
}
