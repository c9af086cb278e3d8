//! The order of a copy after the move: how long a system that starts on the new disk takes, and when the
//! source is free. VMTorrent (CoNEXT 2012) and Hines et al. (OSR 2009) ask for that.

use super::{Check, Figure, median, setup};
use crate::fluid::Run;
use crate::plot::{Axis, Chart, Series, Unit};
use crate::presets::Strategy;
use crate::reader::LabError;
use crate::record::Outcome;

/// Requests of a boot.
const BOOT: f64 = 60_000.0;
const SEEDS: u64 = 5;

const SETUP: &str = "
[disk]
size = \"40G\"
[source]
device = \"sata-ssd\"
[target]
device = \"sata-ssd\"
[link]
rate = \"1Gbit\"
delay = \"0.5ms\"
[workload]
preset = \"boot\"
working-set = \"8G\"
";

/// The time by which the guest had this many requests done.
fn time_of(outcome: &Outcome, requests: f64) -> f64 {
    let mut done = 0.0;
    for two in outcome.series.windows(2) {
        done += two[1].iops * (two[1].t_s - two[0].t_s);
        if done >= requests {
            return two[1].t_s;
        }
    }
    outcome.record.total_s
}

/// Makes the figure.
pub(super) fn figure() -> Result<Figure, LabError> {
    let setup = setup("postcopy-order", SETUP)?;
    let (mut rows, mut seen, mut series) = (Vec::new(), Vec::new(), Vec::new());
    for (colour, name) in ["postcopy-seq", "postcopy-hot", "postcopy-trace"].into_iter().enumerate() {
        let strategy = Strategy { disk: Some(name.to_owned()), ram: None };
        let runs: Vec<Outcome> = (1..=SEEDS).map(|seed| Run::new(&setup, &strategy, seed).finish()).collect();
        let course = runs[0].series.iter().map(|line| (line.t_s, line.p99_ms));
        series.push(Series::line(name, colour, course.collect()));
        let of = |value: &dyn Fn(&Outcome) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
        let values = [
            of(&|run| time_of(run, BOOT)),
            of(&|run| run.record.faults as f64),
            of(&|run| run.record.fault_p99_us / 1e3),
            of(&|run| run.record.brownout2_s),
            of(&|run| run.record.independence_s),
        ];
        let cells = values.iter().map(|value| format!("{value:.1}"));
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
        seen.push(values);
    }
    let [seq, hot, trace] = [seen[0], seen[1], seen[2]];
    let text = |index: usize| format!("{:.1}, {:.1} and {:.1}", seq[index], hot[index], trace[index]);
    let heads = ["strategy", "boot, s", "faults", "fault p99, ms", "brownout x2, s", "independence, s"];
    Ok(Figure {
        name: "postcopy-order",
        title: format!(
            "A boot of {BOOT:.0} requests after the move of 40 GiB over 1 Gbit/s; medians of {SEEDS} seeds."
        ),
        columns: heads.map(String::from).to_vec(),
        rows,
        checks: vec![
            Check::new(
                "a trace and the hottest first have fewer faults than start to end",
                text(1),
                hot[1] < seq[1] && trace[1] < seq[1],
            ),
            Check::new("the boot is no slower with them", text(0), hot[0] <= seq[0] && trace[0] <= seq[0]),
            Check::new(
                "the order hardly changes when the source is free",
                text(4),
                (hot[4] / seq[4] - 1.0).abs() < 0.05 && (trace[4] / seq[4] - 1.0).abs() < 0.05,
            ),
        ],
        svg: Chart::new(
            "Latency after the move, first seed",
            Axis::new("time since the command", Unit::Seconds),
            Axis::new("99th percentile of a second", Unit::Millis).log(),
            series,
        )
        .svg(),
    })
}
