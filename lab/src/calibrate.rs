//! Calibration: parameters of the model of RAM, from the measurements of one column of a table.
//!
//! The link's rate, what is used of the RAM and the stop's cost follow from the measurements by arithmetic;
//! the cost of a round, the working set and the variation of the guest's writes are fitted to its times and
//! rounds. Nothing else is read: a prediction of another column is one only if its numbers were not seen.

use std::fmt::Write;

use crate::experiment::{Ram, Setup};
use crate::figures::{mean, median};
use crate::fluid::Run;
use crate::presets::Strategy;
use crate::reader::{LabError, Source, Table};
use crate::record::RunRecord;

/// Repetitions of each try.
const TRIES: u64 = 60;
/// Bytes of a MiB.
pub(crate) const MIB: f64 = 1_048_576.0;
/// The strategy whose downtime limit is fixed.
const FIXED: &str = "precopy";

/// The measurements of one column: migrations of RAM with a fixed downtime limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// The limit, in seconds.
    pub limit: f64,
    /// The mean time of a migration, in seconds, and that of its first pass over the RAM.
    pub total: f64,
    /// See `total`.
    pub first_pass: f64,
    /// The time from the end of the first pass: its mean, median, least and greatest value.
    pub convergence: [f64; 4],
    /// The mean downtime, in seconds.
    pub downtime: f64,
    /// The mean number of rounds.
    pub iterations: f64,
    /// MiB sent, on average.
    pub sent: f64,
}

impl Measured {
    /// Reads a column from the text of a TOML file.
    ///
    /// # Errors
    /// A value that is missing or impossible, or a key that is not known, with its line.
    pub fn read(source: Source<'_>) -> Result<Measured, LabError> {
        let root = source.parse()?;
        let mut table = Table::new(source, "", 0..0, root.get_ref());
        let mut number = |key: &'static str| {
            let value = table.number(key, 0.0, 1e12)?;
            value.filter(|value| *value > 0.0).ok_or_else(|| table.error(format!("'{key}' is missing, or 0")))
        };
        let measured = Measured {
            limit: number("limit_s")?,
            total: number("total_s")?,
            first_pass: number("first_pass_s")?,
            convergence: [
                number("convergence_mean_s")?,
                number("convergence_median_s")?,
                number("convergence_least_s")?,
                number("convergence_most_s")?,
            ],
            downtime: number("downtime_s")?,
            iterations: number("iterations")?,
            sent: number("sent_mib")?,
        };
        table.finish()?;
        Ok(measured)
    }
}

/// The parameters that a calibration finds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibrated {
    /// Bytes per second of the link.
    pub rate: f64,
    /// The guest's RAM.
    pub ram: Ram,
    /// The fixed limit, in seconds.
    pub limit: f64,
    /// Repetitions of what was measured.
    pub group: usize,
}

/// Results of many runs of a preset: for each run.
pub(crate) struct Column {
    pub total: Vec<f64>,
    pub convergence: Vec<f64>,
    pub downtime: Vec<f64>,
    pub iterations: Vec<f64>,
    pub sent: Vec<f64>,
}

impl Calibrated {
    /// Runs a RAM preset this often in a setup.
    pub(crate) fn run(&self, base: &Setup, preset: &str, repetitions: u64) -> Column {
        let mut setup = base.clone();
        (setup.ram, setup.link.rate, setup.limits.downtime) = (Some(self.ram), self.rate, self.limit);
        let strategy = Strategy { disk: None, ram: Some(preset.to_owned()) };
        let runs: Vec<RunRecord> = (1..=repetitions)
            .map(|seed| Run::new(&setup, &strategy, seed).without_series().finish().record)
            .collect();
        let first = self.ram.size as f64 * self.ram.used / self.rate;
        let of = |value: &dyn Fn(&RunRecord) -> f64| runs.iter().map(value).collect();
        Column {
            total: of(&|run| run.total_s),
            convergence: of(&|run| run.total_s - first),
            downtime: of(&|run| run.stop_ms / 1e3),
            iterations: of(&|run| f64::from(run.rounds)),
            sent: of(&|run| run.sent_bytes as f64 / MIB),
        }
    }

    /// The parameters as sections of an experiment.
    pub fn text(&self) -> String {
        let (ram, mut text) = (&self.ram, String::new());
        let _ = writeln!(text, "# Calibrated. Put these keys into the experiment.");
        let _ = writeln!(text, "[ram]\nsize = \"{}K\"", ram.size >> 10);
        let _ = writeln!(text, "used = {:.4}", ram.used);
        let _ = writeln!(text, "dirty = \"{:.0}K/s\"", ram.dirty / 1024.0);
        let _ = writeln!(text, "working-set = \"{}K\"", ram.working_set >> 10);
        let _ = writeln!(text, "variation = {:.4}", ram.variation);
        let _ = writeln!(text, "round-cost = \"{:.3}ms\"", ram.round_cost * 1e3);
        let _ = writeln!(text, "switch-cost = \"{:.3}ms\"", ram.switch_cost * 1e3);
        let _ = writeln!(text, "[link]\nrate = \"{:.0}K/s\"", self.rate / 1024.0);
        let _ = writeln!(text, "[limits]\ndowntime = \"{:.3}ms\"", self.limit * 1e3);
        text
    }
}

/// The range of a group of repetitions, the least and the most: the median over all groups.
pub(crate) fn range(values: &[f64], group: usize) -> (f64, f64) {
    let of = |pick: fn(f64, f64) -> f64| {
        let groups = values.chunks_exact(group.max(1));
        median(&groups.filter_map(|group| group.iter().copied().reduce(pick)).collect::<Vec<_>>())
    };
    (of(f64::min), of(f64::max))
}

/// Fits the model of RAM in a setup to measurements. `ram` has the size, and the rate at which the guest
/// writes; its other values are not used, but for the time of a variation. `group` is the number of
/// repetitions that were measured.
pub fn fit(base: &Setup, ram: &Ram, measured: &Measured, group: usize) -> Calibrated {
    let rate = measured.sent * MIB / measured.total;
    let ram = Ram {
        used: (measured.first_pass * rate / ram.size as f64).min(1.0),
        working_set: 256 << 20,
        variation: 0.2,
        round_cost: 0.175,
        switch_cost: (measured.downtime - measured.limit).max(0.0),
        ..*ram
    };
    let mut best = Calibrated { rate, ram, limit: measured.limit, group };
    best.ram.working_set = best.ram.working_set.min((ram.size as f64 * ram.used) as u64);
    let error = |tried: &Calibrated| -> f64 {
        let column = tried.run(base, FIXED, TRIES);
        let (low, high) = range(&column.convergence, group);
        let [mean_time, median_time, least, most] = measured.convergence;
        let pairs = [
            (mean(&column.convergence), mean_time),
            (median(&column.convergence), median_time),
            (mean(&column.iterations), measured.iterations),
            (low, least),
            (high, most),
        ];
        pairs.iter().map(|(seen, published)| (seen / published - 1.0).powi(2)).sum()
    };
    let mut least_error = error(&best);
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
                if tried.ram.working_set as f64 > ram.size as f64 * ram.used || tried.ram.variation > 1.0 {
                    continue;
                }
                let found = error(&tried);
                if found < least_error {
                    (best, least_error) = (tried, found);
                }
            }
        }
    }
    // The stop costs what the mean downtime has beyond the transfer of what was left.
    let transfer = mean(&best.run(base, FIXED, TRIES).downtime) - best.ram.switch_cost;
    best.ram.switch_cost = (measured.downtime - transfer).max(0.0);
    best
}
