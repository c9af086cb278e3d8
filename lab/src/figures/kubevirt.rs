//! KubeVirt VEP 291: a guest whose RAM is written nearly as fast as it can be sent, with a fixed downtime
//! limit and with one that grows.
//!
//! The model is calibrated on the column with the fixed limit alone: the link's rate, what is used of the RAM
//! and the stop's cost follow from it by arithmetic; the cost of a round, the working set and the variation
//! of the guest's writes are fitted to its times and iterations. The other column is then predicted.

use super::{Check, Figure, mean, median, setup};
use crate::experiment::{Ram, Setup};
use crate::fluid::Run;
use crate::presets::Strategy;
use crate::reader::{LabError, Source, Table};
use crate::record::RunRecord;

/// Repetitions of each column.
const REPETITIONS: u64 = 200;
/// Repetitions of each try of the calibration.
const TRIES: u64 = 60;
const MIB: f64 = 1_048_576.0;

/// The parameters that the calibration finds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibrated {
    /// Bytes per second of the link.
    pub rate: f64,
    /// The guest's RAM.
    pub ram: Ram,
    /// The fixed limit, in seconds.
    pub limit: f64,
    /// Repetitions of the publication.
    pub group: usize,
}

/// A file of the figure, by its name.
pub(super) fn file(name: &str) -> &'static str {
    match name {
        "conditions.toml" => include_str!("../../figures/kubevirt-291/conditions.toml"),
        "without.toml" => include_str!("../../figures/kubevirt-291/without.toml"),
        _ => include_str!("../../figures/kubevirt-291/with.toml"),
    }
}

/// Reads numbers of a file in the order of `keys`.
fn numbers<const N: usize>(
    read: &mut dyn FnMut(&str) -> &'static str,
    name: &str,
    keys: [&'static str; N],
) -> Result<[f64; N], LabError> {
    let source = Source { file: name, text: read(name) };
    let root = source.parse()?;
    let mut table = Table::new(source, "", 0..0, root.get_ref());
    let mut values = [0.0; N];
    for (value, key) in values.iter_mut().zip(keys) {
        *value = table.number(key, 0.0, 1e12)?.ok_or_else(|| table.error(format!("'{key}' is missing")))?;
    }
    Ok(values)
}

/// Results of a column: for each repetition.
struct Column {
    total: Vec<f64>,
    convergence: Vec<f64>,
    downtime: Vec<f64>,
    iterations: Vec<f64>,
    sent: Vec<f64>,
}

impl Calibrated {
    fn setup(&self) -> Result<Setup, LabError> {
        let mut setup = setup("kubevirt-291", "[ram]\nsize = \"8G\"\n[limits]\ndeadline = \"1h\"\n")?;
        (setup.ram, setup.link.rate, setup.link.delay) = (Some(self.ram), self.rate, 1e-4);
        setup.limits.downtime = self.limit;
        Ok(setup)
    }

    /// Runs a RAM preset this often.
    fn run(&self, preset: &str, repetitions: u64) -> Result<Column, LabError> {
        let setup = self.setup()?;
        let strategy = Strategy { disk: None, ram: Some(preset.to_owned()) };
        let runs: Vec<RunRecord> = (1..=repetitions)
            .map(|seed| Run::new(&setup, &strategy, seed).without_series().finish().record)
            .collect();
        let first = self.ram.size as f64 * self.ram.used / self.rate;
        let of = |value: &dyn Fn(&RunRecord) -> f64| runs.iter().map(value).collect();
        Ok(Column {
            total: of(&|run| run.total_s),
            convergence: of(&|run| run.total_s - first),
            downtime: of(&|run| run.stop_ms / 1e3),
            iterations: of(&|run| f64::from(run.rounds)),
            sent: of(&|run| run.sent_bytes as f64 / MIB),
        })
    }
}

/// The range of a group of repetitions, the least and the most: the median over all groups.
fn range(values: &[f64], group: usize) -> (f64, f64) {
    let of = |pick: fn(f64, f64) -> f64| {
        let groups = values.chunks_exact(group.max(1));
        median(&groups.filter_map(|group| group.iter().copied().reduce(pick)).collect::<Vec<_>>())
    };
    (of(f64::min), of(f64::max))
}

/// Calibrates the model. `read` returns the text of a file by its name; it is asked for the conditions and
/// for the column with the fixed limit, and for nothing else.
///
/// # Errors
/// If a file lacks a value.
pub fn calibrate(read: &mut dyn FnMut(&str) -> &'static str) -> Result<Calibrated, LabError> {
    let keys = [
        "limit_s",
        "total_s",
        "first_pass_s",
        "convergence_mean_s",
        "convergence_median_s",
        "convergence_least_s",
        "convergence_most_s",
        "downtime_s",
        "iterations",
        "sent_mib",
    ];
    let [limit, total, first, mean_time, median_time, least, most, downtime, iterations, sent] =
        numbers(read, "without.toml", keys)?;
    let (size, dirty, group) = conditions(read)?;
    let rate = sent * MIB / total;
    let ram = Ram {
        size,
        used: (first * rate / size as f64).min(1.0),
        dirty,
        working_set: 256 << 20,
        variation: 0.2,
        variation_time: 1.0,
        round_cost: 0.175,
        switch_cost: downtime - limit,
    };
    let mut best = Calibrated { rate, ram, limit, group };
    let error = |tried: &Calibrated| -> Result<f64, LabError> {
        let column = tried.run("precopy", TRIES)?;
        let (low, high) = range(&column.convergence, group);
        let pairs = [
            (mean(&column.convergence), mean_time),
            (median(&column.convergence), median_time),
            (mean(&column.iterations), iterations),
            (low, least),
            (high, most),
        ];
        Ok(pairs.iter().map(|(seen, published)| (seen / published - 1.0).powi(2)).sum())
    };
    let mut least_error = error(&best)?;
    // Coordinate descent: each parameter up and down, in steps that become smaller.
    for step in [1.4, 1.4, 1.2, 1.1] {
        for parameter in 0..3 {
            for factor in [step, 1.0 / step] {
                let mut tried = best;
                match parameter {
                    0 => tried.ram.round_cost *= factor,
                    1 => tried.ram.working_set = (tried.ram.working_set as f64 * factor) as u64,
                    _ => tried.ram.variation *= factor,
                }
                let found = error(&tried)?;
                if found < least_error {
                    (best, least_error) = (tried, found);
                }
            }
        }
    }
    // The stop costs what the mean downtime has beyond the transfer of what was left.
    let transfer = mean(&best.run("precopy", TRIES)?.downtime) - best.ram.switch_cost;
    best.ram.switch_cost = (downtime - transfer).max(0.0);
    Ok(best)
}

fn conditions(read: &mut dyn FnMut(&str) -> &'static str) -> Result<(u64, f64, usize), LabError> {
    let source = Source { file: "conditions.toml", text: read("conditions.toml") };
    let root = source.parse()?;
    let mut table = Table::new(source, "", 0..0, root.get_ref());
    let missing = |table: &Table<'_>| table.error("a condition is missing");
    let size = table.size("memory")?.ok_or_else(|| missing(&table))?;
    let dirty = table.rate("dirty")?.ok_or_else(|| missing(&table))?;
    let group = table.number("repetitions", 1.0, 100.0)?.ok_or_else(|| missing(&table))? as usize;
    table.finish()?;
    Ok((size, dirty, group))
}

/// Makes the figure.
pub(super) fn figure() -> Result<Figure, LabError> {
    compare(&calibrate(&mut file)?)
}

/// Predicts the column with the ramp, and compares both columns with what was published.
pub(super) fn compare(model: &Calibrated) -> Result<Figure, LabError> {
    let (without, with) = (model.run("precopy", REPETITIONS)?, model.run("precopy-ramp", REPETITIONS)?);
    let keys = [
        "total_s",
        "convergence_mean_s",
        "convergence_median_s",
        "convergence_least_s",
        "convergence_most_s",
        "downtime_s",
        "iterations",
        "sent_mib",
    ];
    let right = numbers(&mut file, "without.toml", keys)?;
    let left = numbers(&mut file, "with.toml", keys)?;
    let seen = |column: &Column| {
        let (least, most) = range(&column.convergence, model.group);
        [
            median(&column.total),
            mean(&column.convergence),
            median(&column.convergence),
            least,
            most,
            median(&column.downtime),
            median(&column.iterations),
            median(&column.sent),
        ]
    };
    let (of_right, of_left) = (seen(&without), seen(&with));
    let rows = (0..keys.len()).map(|n| {
        let number = |value: f64| format!("{value:.3}");
        vec![keys[n].to_owned(), number(right[n]), number(of_right[n]), number(left[n]), number(of_left[n])]
    });
    let tighter = (of_right[4] - of_right[3]) / (of_left[4] - of_left[3]);
    let ram = &model.ram;
    Ok(Figure {
        name: "kubevirt-291",
        title: format!(
            "KubeVirt VEP 291, 8 GiB over 1 Gbit/s. Calibrated on the column without ramp: {:.1} MiB/s, working set \
             {:.0} MiB, a round costs {:.0} ms, writes vary by {:.0} %, a stop costs {:.0} ms. Medians of {REPETITIONS} \
             runs; ranges of {} runs.",
            model.rate / MIB,
            ram.working_set as f64 / MIB,
            ram.round_cost * 1e3,
            ram.variation * 100.0,
            ram.switch_cost * 1e3,
            model.group
        ),
        columns: ["", "without", "model (calibrated)", "with ramp", "model (predicted)"]
            .map(String::from)
            .to_vec(),
        rows: rows.collect(),
        checks: vec![
            Check::near("with the ramp, predicted: total time", of_left[0], left[0], 0.10),
            Check::near("with the ramp, predicted: downtime", of_left[5], left[5], 0.20),
            Check::near("with the ramp, predicted: MiB sent", of_left[7], left[7], 0.10),
            Check::new(
                "the range of convergence is at least 3 times tighter",
                format!("{tighter:.1} times"),
                tighter >= 3.0,
            ),
        ],
    })
}
