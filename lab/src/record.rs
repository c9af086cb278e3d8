//! The results of a run: a line of `runs.csv`, lines of `series.csv`, and `run.json`.
//!
//! No value depends on a clock of this machine, so two runs of one seed give the same bytes.

use serde::{Deserialize, Serialize, Serializer};

/// An infinite value in files.
pub const INFINITE: &str = "inf";

/// Writes a number that may be infinite. JSON would have nothing for that.
fn with_infinity<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if *value == f64::INFINITY { to.serialize_str(INFINITE) } else { to.serialize_f64(*value) }
}

/// The results of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The line of `runs.csv`.
    pub record: RunRecord,
    /// The lines of `series.csv`, in the order of time.
    pub series: Vec<SeriesPoint>,
}

/// The end of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The guest moved, and the target has everything.
    #[default]
    Moved,
    /// The strategy gave up.
    Aborted,
    /// The deadline of the experiment passed.
    Late,
    /// A fault ended the migration or the guest.
    Failed,
}

/// A run: a line of `runs.csv`. `docs/lab.md` defines each value. Times are in the unit of the name, counted
/// from the command.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RunRecord {
    /// The experiment's name.
    pub experiment: String,
    /// The number of the point of the sweep, from 0.
    pub point: usize,
    /// The values of the point: `key=value`, joined by blanks; empty without a sweep.
    pub settings: String,
    /// The strategy, as `disk+ram`, or one of the two.
    pub strategy: String,
    /// The seed.
    pub seed: u64,
    /// The tier that ran it: `fluid` or `event`.
    pub tier: String,
    /// The end.
    pub end: End,
    /// True if the guest moved and everything was there before the deadline.
    pub converged: bool,
    /// From the command to the last event of completion.
    pub total_s: f64,
    /// From the command to the time from which the source may be destroyed without loss.
    pub independence_s: f64,
    /// The longest time in which no request of the guest ended though one waited.
    pub blackout_ms: f64,
    /// The time for which the guest's CPUs stood still.
    pub stop_ms: f64,
    /// Time of seconds whose 99th percentile was above twice the idle one.
    pub brownout2_s: f64,
    /// The same, above ten times the idle one.
    pub brownout10_s: f64,
    /// The integral of 99th percentile less the idle one.
    pub brownout_area_s_ms: f64,
    /// The median of all requests during the migration.
    pub p50_ms: f64,
    /// The 99th percentile of all requests during the migration.
    pub p99_ms: f64,
    /// The longest request during the migration.
    pub max_ms: f64,
    /// The 99th percentile before the migration.
    pub idle_p99_ms: f64,
    /// Requests a second before the migration.
    pub idle_iops: f64,
    /// Requests a second during the migration.
    pub iops: f64,
    /// The least requests of a second.
    pub dip_iops: f64,
    /// Requests that were not done, compared with the idle rate.
    pub dip_area_ops: f64,
    /// Bytes that the copy read at the source.
    pub source_read_bytes: u64,
    /// Bytes sent over the link.
    pub sent_bytes: u64,
    /// Bytes written at the target before the guest moved, and by the copy after that.
    pub target_written_bytes: u64,
    /// Bytes of what differs at the start.
    pub differs_bytes: u64,
    /// Bytes sent, divided by what differs at the start.
    pub amplification: f64,
    /// Bytes sent again, as a share of what was sent.
    pub resent_share: f64,
    /// The strategy's end as predicted when half of `total_s` was over. It is infinite if no end was in sight
    /// then.
    #[serde(serialize_with = "with_infinity")]
    pub predicted_s: f64,
    /// The error of that prediction, with its sign.
    #[serde(serialize_with = "with_infinity")]
    pub prediction_error_percent: f64,
    /// Seconds of throttling, each weighted with the share of writes that it withheld.
    pub throttled_s: f64,
    /// Requests or accesses that waited for data of the source after the guest moved.
    pub faults: u64,
    /// The median wait of those.
    pub fault_p50_us: f64,
    /// The 99th percentile of those.
    pub fault_p99_us: f64,
    /// The share of the working set that was fetched by such faults.
    pub faulted_share: f64,
    /// Frozen rounds that were begun.
    pub rounds: u32,
    /// Seconds in which the death of the source costs nothing.
    pub source_nothing_s: f64,
    /// Seconds in which it costs that the migration has to restart.
    pub source_restarts_s: f64,
    /// Seconds in which the guest would pause until the link is back.
    pub source_pauses_s: f64,
    /// Seconds in which the guest has to start again from a durable disk.
    pub source_reboots_s: f64,
    /// Seconds in which data that the guest has flushed would be lost.
    pub source_loses_s: f64,
    /// The same for the death of the target.
    pub target_nothing_s: f64,
    /// See `source_restarts_s`.
    pub target_restarts_s: f64,
    /// See `source_pauses_s`.
    pub target_pauses_s: f64,
    /// See `source_reboots_s`.
    pub target_reboots_s: f64,
    /// See `source_loses_s`.
    pub target_loses_s: f64,
    /// The same for a link that is cut.
    pub link_nothing_s: f64,
    /// See `source_restarts_s`.
    pub link_restarts_s: f64,
    /// See `source_pauses_s`.
    pub link_pauses_s: f64,
    /// See `source_reboots_s`.
    pub link_reboots_s: f64,
    /// See `source_loses_s`.
    pub link_loses_s: f64,
    /// The most space of all images at once, divided by the disk's size.
    pub space_ratio: f64,
    /// CPU seconds of both sides by the model's cost, for each GiB sent.
    pub cpu_s_per_gib: f64,
    /// Requests of the guest during the migration.
    pub requests: u64,
    /// Blocks that did not hold what the guest wrote last, and reads of it that showed that: always 0, unless
    /// there is a defect. The fluid tier has no content.
    pub wrong_blocks: u64,
}

/// The state at an instant of a run: a line of `series.csv`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// The number of the point of the sweep.
    pub point: usize,
    /// The strategy.
    pub strategy: String,
    /// The seed.
    pub seed: u64,
    /// The time.
    pub t_s: f64,
    /// The part of the migration: before, stopped, after or done.
    pub phase: String,
    /// Bytes that the target lacks or has stale, of disk and RAM.
    pub todo_bytes: u64,
    /// Bytes sent so far.
    pub sent_bytes: u64,
    /// The rate of the copy.
    pub copy_bytes_per_s: f64,
    /// The rate at which copied data becomes stale.
    pub dirty_bytes_per_s: f64,
    /// Requests of the guest each second.
    pub iops: f64,
    /// The median latency.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest since the line before, or in the second that the percentiles are of.
    pub max_ms: f64,
}

/// The surroundings of the runs of a folder: `run.json`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RunInfo {
    /// The experiment's name.
    pub experiment: String,
    /// The text of the experiment file.
    pub text: String,
    /// The version of the lab.
    pub version: String,
    /// The tier.
    pub tier: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The strategies.
    pub strategies: Vec<String>,
    /// The values of each point of the sweep.
    pub points: Vec<String>,
    /// The shard, `K/N`; `1/1` for all runs.
    pub shard: String,
    /// The number of runs of this shard.
    pub runs: usize,
    /// The host's processor, kernel and clock source, for runs that measure.
    pub host: Vec<(String, String)>,
}
