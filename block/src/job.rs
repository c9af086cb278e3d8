//! Jobs: the kinds of background work on a disk, and the copier that those share which copy.
//!
//! The runtime, which is the same for every kind, is [`crate::disk::job`].

pub mod backup;
pub(crate) mod copier;
mod granules;
mod inner;
pub mod mirror;
pub mod stream;
mod verify;

pub use crate::disk::job::{
    Events, Following, Info, IoStatus, Job, JobEvent, JobKind, JobOptions, JobResult, Operation, Status,
    Verb, Verified,
};
