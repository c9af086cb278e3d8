//! Jobs: background work on a disk, and the runtime that all of them share.
//!
//! A `Strategy` is only the loop of one kind of job. Between its steps it calls its job: `Job::must_rest`
//! and `Job::rest` for pause and cancel, `Job::admit` for the speed, `Job::decide` after an error,
//! `Job::advance` for the progress. States, events and commands belong to the runtime, which is this module.

pub(crate) mod copier;
pub mod mirror;
pub mod stream;
mod verify;

pub use crate::disk::job::{
    Events, Info, IoStatus, Job, JobEvent, JobKind, JobOptions, JobResult, Operation, Status, Verb, Verified,
};
