//! The metrics that are reported of a run.

use crate::plot::Unit;
use crate::record::RunRecord;

/// A value of a run with its name and unit.
pub struct Metric {
    /// The column of `runs.csv`, or a word for a sum of columns.
    pub column: &'static str,
    /// Its name in tables.
    pub label: &'static str,
    /// A sentence that defines it.
    pub meaning: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Takes it from a run.
    pub of: fn(&RunRecord) -> f64,
}

/// The metrics of the ranking. Smaller is better for all of them.
pub const METRICS: [Metric; 7] = [
    Metric {
        column: "independence_s",
        label: "independence",
        meaning: "from the command until the source may be destroyed without loss",
        unit: Unit::Seconds,
        of: |run| if run.converged { run.independence_s } else { f64::INFINITY },
    },
    Metric {
        column: "total_s",
        label: "total time",
        meaning: "from the command to the last event of completion",
        unit: Unit::Seconds,
        of: |run| if run.converged { run.total_s } else { f64::INFINITY },
    },
    Metric {
        column: "blackout_ms",
        label: "blackout",
        meaning: "the longest time in which no request ended though one waited",
        unit: Unit::Millis,
        of: |run| run.blackout_ms,
    },
    Metric {
        column: "p99_ms",
        label: "p99",
        meaning: "the 99th percentile of the latency of all requests during the migration",
        unit: Unit::Millis,
        of: |run| run.p99_ms,
    },
    Metric {
        column: "amplification",
        label: "amplification",
        meaning: "bytes sent, divided by what differed at the start",
        unit: Unit::Ratio,
        of: |run| run.amplification,
    },
    Metric {
        column: "throttled_s",
        label: "throttled",
        meaning: "seconds of throttling, each weighted with the share of writes that it withheld",
        unit: Unit::Seconds,
        of: |run| run.throttled_s,
    },
    Metric {
        column: "exposure",
        label: "at risk",
        meaning: "seconds in which the death of one party makes the guest start again, or loses what it has flushed; \
                  summed over source, target and link",
        unit: Unit::Seconds,
        of: at_risk,
    },
];

/// The metrics that are compared strategy by strategy.
pub const COMPARED: [usize; 5] = [0, 2, 3, 4, 6];

fn at_risk(run: &RunRecord) -> f64 {
    run.source_reboots_s
        + run.source_loses_s
        + run.target_reboots_s
        + run.target_loses_s
        + run.link_reboots_s
        + run.link_loses_s
}

/// The classes of what a death costs, from harmless to bad.
pub const CLASSES: [&str; 5] = [
    "nothing",
    "the migration restarts",
    "the guest pauses",
    "the guest starts again",
    "flushed data is lost",
];

/// Seconds of each class for the death of the source, of the target, and of the link.
pub fn exposure(run: &RunRecord) -> [(&'static str, [f64; 5]); 3] {
    let r = run;
    [
        (
            "source",
            [
                r.source_nothing_s,
                r.source_restarts_s,
                r.source_pauses_s,
                r.source_reboots_s,
                r.source_loses_s,
            ],
        ),
        (
            "target",
            [
                r.target_nothing_s,
                r.target_restarts_s,
                r.target_pauses_s,
                r.target_reboots_s,
                r.target_loses_s,
            ],
        ),
        ("link", [r.link_nothing_s, r.link_restarts_s, r.link_pauses_s, r.link_reboots_s, r.link_loses_s]),
    ]
}
