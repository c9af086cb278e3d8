//! ESX's three architectures of live storage migration under a closed loop of growing depth (Mashtizadeh et
//! al., ATC 2011). The paper's tables are not reproduced; the orderings that it states are checked, for each
//! seed.

use super::{Check, Figure, median, setup};
use crate::fluid::Run;
use crate::plot::{Axis, Chart, Series, Unit};
use crate::presets::Strategy;
use crate::reader::LabError;
use crate::record::RunRecord;

const DEPTHS: [u32; 5] = [2, 4, 8, 16, 32];
const STRATEGIES: [&str; 3] = ["snapshot-delta", "dbt", "mirror-io"];

const SETUP: &str = "
[disk]
size = \"32G\"
[source]
device = \"network\"
[target]
device = \"network\"
[link]
rate = \"4Gbit\"
[workload]
zipf = 0.5
request-size = \"8K\"
read = 0.7
working-set = \"16G\"
[limits]
downtime = \"5s\"
deadline = \"6h\"
";

/// Makes the figure from this many seeds.
pub(super) fn figure(seeds: u64) -> Result<Figure, LabError> {
    let mut setups = Vec::new();
    for depth in DEPTHS {
        setups.push(setup("esx-2011", &SETUP.replace("zipf =", &format!("depth = {depth}\nzipf =")))?);
    }
    // For each strategy and depth, the runs of all seeds.
    let runs: Vec<Vec<Vec<RunRecord>>> = STRATEGIES
        .iter()
        .map(|name| {
            let strategy = Strategy { disk: Some((*name).to_owned()), ram: None };
            let run = |setup, seed| Run::new(setup, &strategy, seed).without_series().finish().record;
            setups.iter().map(|setup| (1..=seeds).map(|seed| run(setup, seed)).collect()).collect()
        })
        .collect();
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    for (colour, (name, runs)) in STRATEGIES.iter().zip(&runs).enumerate() {
        let mut points = Vec::new();
        for (depth, runs) in DEPTHS.iter().zip(runs) {
            let of = |value: &dyn Fn(&RunRecord) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
            if runs.iter().all(|run| run.converged) {
                points.push((f64::from(*depth), of(&|run| run.total_s)));
            }
            rows.push(vec![
                (*name).to_owned(),
                depth.to_string(),
                format!("{} of {seeds}", runs.iter().filter(|run| run.converged).count()),
                format!("{:.1}", of(&|run| run.total_s)),
                format!("{:.1}", of(&|run| run.stop_ms)),
                format!("{:.0}", of(&|run| run.iops)),
                format!("{:.3}", of(&|run| run.amplification)),
            ]);
        }
        series.push(Series { signs: true, ..Series::line(name, colour, points) });
    }
    let orderings = [
        "with depth, the total time of mirror-io changes least, and that of dbt grows",
        "with depth, the stop of mirror-io stays, and that of dbt and snapshot-delta grows",
        "at the greatest depth, dbt does not converge, and mirror-io does",
        "mirror-io reads each byte once and sends it once, and the writes besides",
    ];
    let mut checks = Vec::new();
    for (number, text) in orderings.into_iter().enumerate() {
        let holds = (0..seeds as usize).filter(|seed| ordering(number, &runs, *seed)).count();
        checks.push(Check::new(text, format!("{holds} of {seeds} seeds"), holds == seeds as usize));
    }
    let heads = ["strategy", "depth", "converged", "total, s", "stop, ms", "guest's IOPS", "amplification"];
    Ok(Figure {
        name: "esx-2011",
        title: format!(
            "Storage migration of 32 GiB under 2 to 32 outstanding requests; medians of {seeds} seeds."
        ),
        columns: heads.map(String::from).to_vec(),
        rows,
        checks,
        svg: Chart::new(
            "Total time under load, as far as every seed converges",
            Axis::new("outstanding requests", Unit::Plain),
            Axis::new("total time (median)", Unit::Seconds).log(),
            series,
        )
        .svg(),
    })
}

/// Looks whether an ordering holds for a seed.
fn ordering(number: usize, runs: &[Vec<Vec<RunRecord>>], seed: usize) -> bool {
    // Depths at which all of them converge; beyond those there is nothing to compare.
    let all = |depth: &usize| (0..3).all(|strategy| runs[strategy][*depth][seed].converged);
    let depths: Vec<usize> = (0..DEPTHS.len()).filter(all).collect();
    if depths.len() < 3 {
        return false;
    }
    let of = |strategy: usize| -> Vec<&RunRecord> {
        depths.iter().map(|depth| &runs[strategy][*depth][seed]).collect()
    };
    let [delta, dbt, mirror] = [of(0), of(1), of(2)];
    let spread = |runs: &[&RunRecord]| {
        let times = || runs.iter().map(|run| run.total_s);
        times().fold(0.0, f64::max) / times().fold(f64::INFINITY, f64::min)
    };
    let grows = |runs: &[&RunRecord], value: &dyn Fn(&RunRecord) -> f64| {
        value(runs[runs.len() - 1]) > 1.05 * value(runs[0])
    };
    let stop = |run: &RunRecord| run.stop_ms;
    let last = DEPTHS.len() - 1;
    match number {
        0 => {
            spread(&mirror) < spread(&delta)
                && spread(&mirror) < spread(&dbt)
                && grows(&dbt, &|run| run.total_s)
        }
        1 => !grows(&mirror, &|run| run.stop_ms + 10.0) && grows(&dbt, &stop) && grows(&delta, &stop),
        2 => !runs[1][last][seed].converged && runs[2][last][seed].converged,
        _ => runs[2]
            .iter()
            .map(|runs| &runs[seed])
            .all(|run| (run.source_read_bytes as f64 / run.differs_bytes as f64 - 1.0).abs() < 1e-3),
    }
}
