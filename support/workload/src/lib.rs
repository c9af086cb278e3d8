//! Workloads of block devices: streams of requests that follow from a seed, and traces in and out.
//!
//! Everything here is pure: no clock, no I/O, and the same requests for the same seed on every machine and
//! for ever. Therefore the random numbers (`seeded`), the zipf sampler and the few functions of [`math`] are
//! our own.
//!
//! Modules, in reading order:
//!
//! - [`spec`]: the description of a workload ([`Spec`]), its presets and its checks
//! - [`generator`]: the requests of a workload ([`Requests`])
//! - [`zipf`]: offsets of which few are popular
//! - [`math`]: logarithm and exponential function; random numbers are [`Random`]
//! - [`trace`]: recorded requests as text, as fio's iolog and as the output of blkparse
//!
//! ```
//! use workload::{Op, Requests, Spec};
//!
//! let spec = Spec::preset("oltp").unwrap();
//! let first: Vec<Op> = Requests::new(&spec, 1 << 30, 7).unwrap().take(3).collect();
//! let again: Vec<Op> = Requests::new(&spec, 1 << 30, 7).unwrap().take(3).collect();
//! assert_eq!(first, again);
//! ```
//!
//! Tests: `foo_tests.rs` beside `foo.rs`.

pub mod generator;
pub mod math;
pub mod spec;
pub mod trace;
pub mod zipf;

pub use generator::Requests;
pub use seeded::Random;
pub use spec::{Arrival, Invalid, Offsets, Spec};
pub use zipf::Zipf;

/// The kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Makes everything durable that was written before.
    Flush,
    /// Gives space back.
    Trim,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// Nanoseconds since the start at which it arrives. With a closed loop, the time that the client thinks
    /// before it sends it, counted from the end of the request before.
    pub at: u64,
    /// Its kind.
    pub kind: Kind,
    /// The first byte.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub len: u64,
}
