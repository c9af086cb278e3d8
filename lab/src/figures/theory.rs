//! The rounds of a copy against their closed form.
//!
//! A round of time `T` leaves `W (1 - e^(-l T / W))` bytes to the next, for writes of `l` bytes a second at
//! random into a working set of `W` bytes. If `l T` is small beside `W` that is `l T`, and the rounds are a
//! geometric series with the factor `l / B`. A round that costs `c` besides its transfer leads to a plateau,
//! which is the fixed point of `T = c + W (1 - e^(-l T / W)) / B`. KubeVirt's VEP 248 rests on the same
//! series.

use workload::math::hit;

use super::{Check, Figure, median, setup};
use crate::experiment::Ram;
use crate::fluid::Run;
use crate::plot::{Axis, Chart, Series, Unit};
use crate::presets::Strategy;
use crate::reader::LabError;
use crate::record::RunRecord;

const GIB: f64 = (1_u64 << 30) as f64;
/// Bytes per second of the link.
const RATE: f64 = 125e6;
/// The most that theory and model may differ.
const WITHIN: f64 = 0.01;

/// A case: what is compared, and its parameters.
struct Case {
    name: &'static str,
    working_set: f64,
    /// The rate of writes, as a share of the link's rate.
    load: f64,
    round_cost: f64,
    limit: f64,
}

/// The result of the theory: rounds, total time and bytes.
struct Theory {
    rounds: f64,
    total: f64,
    sent: f64,
}

const SIZE: f64 = 8.0 * GIB;

/// Sums the series, round by round. The last one is sent while the guest is stopped.
fn series(case: &Case) -> Theory {
    let (mut left, mut total, mut sent, mut rounds) = (SIZE, 0.0, 0.0, 0.0);
    loop {
        let time = case.round_cost + left / RATE;
        (total, sent, rounds) = (total + time, sent + left, rounds + 1.0);
        left = case.working_set * hit(case.load * RATE * time / case.working_set);
        if left / RATE <= case.limit {
            return Theory { rounds, total: total + left / RATE, sent: sent + left };
        }
    }
}

fn model(case: &Case, deadline: f64) -> Result<Vec<RunRecord>, LabError> {
    let mut setup = setup("precopy-theory", "[ram]\nsize = \"8G\"\n")?;
    setup.ram = Some(Ram {
        size: SIZE as u64,
        used: 1.0,
        dirty: case.load * RATE,
        working_set: case.working_set as u64,
        variation: 0.0,
        variation_time: 1.0,
        round_cost: case.round_cost,
        switch_cost: 0.0,
    });
    (setup.link.rate, setup.link.delay) = (RATE, 0.0);
    (setup.limits.downtime, setup.limits.deadline) = (case.limit, deadline);
    let strategy = Strategy { disk: None, ram: Some("precopy".to_owned()) };
    Ok((1..=9).map(|seed| Run::new(&setup, &strategy, seed).without_series().finish().record).collect())
}

fn of(runs: &[RunRecord], value: impl Fn(&RunRecord) -> f64) -> f64 {
    median(&runs.iter().map(value).collect::<Vec<_>>())
}

/// Makes the figure.
pub(super) fn figure() -> Result<Figure, LabError> {
    let case =
        |name, working_set, load, round_cost, limit| Case { name, working_set, load, round_cost, limit };
    let cases = [
        case("all of the RAM is written, slowly", SIZE, 0.012, 0.0, 0.1),
        case("all of the RAM is written, at 60 % of the link", SIZE, 0.6, 0.0, 0.4),
        case("a working set of 512 MiB, at 90 % of the link", 0.5 * GIB, 0.9, 0.0, 0.5),
        case("a working set of 256 MiB, rounds that cost 50 ms", 0.25 * GIB, 0.5, 0.05, 0.12),
    ];
    let (mut rows, mut checks, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let (theory, runs) = (series(case), model(case, 3600.0)?);
        let (total, sent) = (of(&runs, |run| run.total_s), of(&runs, |run| run.sent_bytes as f64));
        rows.push(vec![
            case.name.to_owned(),
            format!("{:.0}", theory.rounds),
            format!("{:.3}", theory.total),
            format!("{total:.3}"),
            format!("{:.3}", theory.sent / GIB),
            format!("{:.3}", sent / GIB),
        ]);
        let error = total / theory.total - 1.0;
        points.push(Series::points(case.name, number, vec![(theory.total, error)]));
        checks.push(Check::near(&format!("{}: total time", case.name), total, theory.total, WITHIN));
        checks.push(Check::near(&format!("{}: GiB sent", case.name), sent / GIB, theory.sent / GIB, WITHIN));
        if case.load < 0.1 {
            // Slow writes: the geometric series itself.
            let geometric = SIZE / RATE / (1.0 - case.load);
            checks.push(Check::near("the sum of the geometric series", total, geometric, WITHIN));
        }
    }
    // A limit that is never reached: the mean time of a round on the plateau.
    let plateau = Case { limit: 0.0, ..case("the plateau", 0.25 * GIB, 0.736, 0.175, 0.0) };
    let mut time = 1.0;
    for _ in 0..1000 {
        time = plateau.round_cost
            + plateau.working_set * hit(plateau.load * RATE * time / plateau.working_set) / RATE;
    }
    let (early, late) = (model(&plateau, 200.0)?, model(&plateau, 600.0)?);
    let rounds = of(&late, |run| f64::from(run.rounds)) - of(&early, |run| f64::from(run.rounds));
    let seen = 400.0 / rounds;
    checks.push(Check::near("seconds of a round on the plateau", seen, time, WITHIN));
    let heads = ["case", "rounds", "total s, theory", "total s, model", "GiB, theory", "GiB, model"];
    Ok(Figure {
        name: "precopy-theory",
        title: "Rounds of a copy of 8 GiB over 1 Gbit/s against the closed form.".to_owned(),
        columns: heads.map(String::from).to_vec(),
        rows,
        checks,
        svg: Chart::new(
            "The model's total time against the closed form",
            Axis::new("total time in theory", Unit::Seconds),
            Axis::new("how much longer the model takes", Unit::Share),
            points,
        )
        .svg(),
    })
}
