//! KubeVirt VEP 291: a guest whose RAM is written nearly as fast as it can be sent, with a fixed downtime
//! limit and with one that grows.
//!
//! The model is calibrated on the column with the fixed limit alone: the link's rate, what is used of the RAM
//! and the stop's cost follow from it by arithmetic; the cost of a round, the working set and the variation
//! of the guest's writes are fitted to its times and iterations. The other column is then predicted.

use super::{Check, Figure, median, setup};
use crate::calibrate::{Calibrated, MIB, Measured, fit, range};
use crate::experiment::{Ram, Setup};
use crate::plot::{Axis, Chart, Series, Unit};
use crate::reader::{LabError, Source, Table};

/// Repetitions of each column.
const REPETITIONS: u64 = 200;

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

/// The setup that both columns share, without its RAM.
fn base() -> Result<Setup, LabError> {
    let mut setup = setup("kubevirt-291", "[ram]\nsize = \"8G\"\n[limits]\ndeadline = \"1h\"\n")?;
    setup.link.delay = 1e-4;
    Ok(setup)
}

/// Calibrates the model. `read` returns the text of a file by its name; it is asked for the conditions and
/// for the column with the fixed limit, and for nothing else.
///
/// # Errors
/// If a file lacks a value.
pub fn calibrate(read: &mut dyn FnMut(&str) -> &'static str) -> Result<Calibrated, LabError> {
    let measured = Measured::read(Source { file: "without.toml", text: read("without.toml") })?;
    let (size, dirty, group) = conditions(read)?;
    let base = base()?;
    let ram = base.ram.map(|ram| Ram { size, dirty, ..ram });
    let ram = ram.ok_or_else(|| Source { file: "kubevirt-291", text: "" }.error(0..0, "[ram] is missing"))?;
    Ok(fit(&base, &ram, &measured, group))
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

/// Draws the share of runs that have converged by a time.
fn distribution(columns: &[(&str, &Vec<f64>)]) -> String {
    let series = columns.iter().enumerate().map(|(colour, (name, times))| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len() as f64;
        let points = sorted.iter().enumerate().map(|(n, time)| (*time, (n + 1) as f64 / count));
        Series::line(name, colour, points.collect())
    });
    let (x, y) =
        (Axis::new("time after the first pass", Unit::Seconds), Axis::new("runs of the model", Unit::Share));
    Chart::new("Runs that have converged by a time", x, y, series.collect()).svg()
}

/// Predicts the column with the ramp, and compares both columns with what was published.
pub(super) fn compare(model: &Calibrated) -> Result<Figure, LabError> {
    let base = base()?;
    let column = |preset| model.run(&base, preset, REPETITIONS);
    let (without, with) = (column("precopy"), column("precopy-ramp"));
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
    let seen = |column: &crate::calibrate::Column| {
        let (least, most) = range(&column.convergence, model.group);
        [
            median(&column.total),
            super::mean(&column.convergence),
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
        svg: distribution(&[("without ramp", &without.convergence), ("with ramp", &with.convergence)]),
    })
}
