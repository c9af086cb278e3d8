//! What the benchmark programs share: two kinds of daemons driven alike, storage prepared alike, and
//! figures with their spread.
//!
//! Ratios are taken round by round, so that what a busy host does to one round, it does to both.

mod daemon;
mod latency;
mod spread;
pub mod storage;

pub use daemon::{Daemon, Disk, Usage, Vmm, run_measured};
pub use latency::Latencies;
pub use spread::Spread;
