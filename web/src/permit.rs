//! The commands that a page may send.

use crate::options::Control;

/// Commands that change nothing.
const QUERIES: &[&str] = &[
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-block-stream",
    "query-blockstats",
    "query-chardev",
    "query-jobs",
    "query-name",
    "query-named-block-nodes",
    "query-status",
    "query-version",
    "query-vnc",
    "x-query-block-map",
    "x-query-flight",
    "x-query-latency",
];

const JOBS: &[&str] = &[
    "block-job-cancel",
    "block-job-change",
    "block-job-complete",
    "block-job-dismiss",
    "block-job-finalize",
    "block-job-pause",
    "block-job-resume",
    "block-job-set-speed",
    "cont",
    "job-cancel",
    "job-complete",
    "job-dismiss",
    "job-finalize",
    "job-pause",
    "job-resume",
    "stop",
    "system_powerdown",
];

const COPY: &[&str] = &["block_stream", "drive-mirror", "x-live-copy"];

const FULL: &[&str] = &["change", "human-monitor-command", "quit"];

/// Returns true if a page may send `command`. Without a group of `control`, it may only look.
pub fn allows(control: Option<Control>, command: &str) -> bool {
    let least = [(Control::Jobs, JOBS), (Control::Copy, COPY), (Control::Full, FULL)];
    QUERIES.contains(&command)
        || least.iter().any(|(group, commands)| control >= Some(*group) && commands.contains(&command))
}

#[cfg(test)]
#[path = "permit_tests.rs"]
mod tests;
