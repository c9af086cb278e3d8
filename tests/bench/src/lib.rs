//! The code that the benchmark programs share: two kinds of daemons driven alike, storage prepared
//! alike, and figures with their spread.
//!
//! Ratios are computed round by round, so that the load of a busy host affects both sides of a ratio
//! alike.

mod daemon;
mod latency;
mod spread;
pub mod storage;

pub use daemon::{Daemon, Disk, Usage, Vmm, run_measured};
pub use latency::Latencies;
pub use spread::Spread;
