//! The code that the benchmark programs share: two kinds of daemons driven alike, storage prepared
//! alike, and figures with their spread.
//!
//! Ratios are computed round by round, so that the load of a busy host affects both sides of a ratio
//! alike.
//!
//! # Modules, in reading order
//!
//! - `daemon`: `millrace run --machine none` and `qemu-storage-daemon`, given the same images and commands
//! - `mirror`: mirrors of both
//! - [`storage`]: where images lie, and how their files are prepared
//! - [`vnc`]: a client of a VNC server
//! - `latency`: percentiles of requests; `spread`: medians with their spread
//!
//! The programs are in `src/bin/`:
//!
//! - `bench-copy`: live copy against QEMU's block-stream and against copies of the plain file
//! - `bench-rings`: the virtio block device through its rings, against `qemu-storage-daemon`'s
//! - `bench-flight`: the cost of recording each request
//! - `bench-page`: the cost of the page's server beside a guest, and how soon the page shows a map
//! - `bench-guest`: a whole guest against QEMU's microvm, or against another build or form of our machine
//! - `bench-screen`: the VNC server on a screen in memory
//!
//! # Tests
//!
//! Those of the figures are in `latency.rs` and `spread.rs`. The results of the programs are in
//! `docs/measured.md`.

mod daemon;
mod latency;
mod mirror;
mod spread;
pub mod storage;
pub mod vnc;

pub use daemon::{Daemon, Disk, Usage, Vmm, run_measured};
pub use latency::Latencies;
pub use mirror::{Target, blank};
pub use spread::Spread;
