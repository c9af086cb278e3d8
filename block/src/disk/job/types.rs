//! Options, errors, events and properties of jobs.

use std::ops::Range;

use super::Status;
use crate::{ErrorAction, OnError};

/// A kind of job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    /// Populates an image from its chain.
    Stream,
    /// Copies a disk and follows it.
    Mirror,
    /// Moves what images hold into one behind them.
    Commit,
    /// Copies a disk as it is at one moment.
    Backup,
    /// Reads everything and compares it with digests.
    Verify,
}

impl JobKind {
    /// Returns the kind's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Stream => "stream",
            JobKind::Mirror => "mirror",
            JobKind::Commit => "commit",
            JobKind::Backup => "backup",
            JobKind::Verify => "x-verify",
        }
    }
}

/// The operation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reading from the source.
    Read,
    /// Writing to the target.
    Write,
}

/// The events that a job sends, besides those of its states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Events {
    /// Those that every job has.
    #[default]
    Job,
    /// One of its kind, at its end, unless it was cancelled: for a stream,
    /// [`crate::DiskEvent::StreamCompleted`].
    Kind,
}

/// Options of a job.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// The job's name. The caller must ensure that no other job has it.
    pub id: String,
    /// Speed limit in bytes per second; 0 for none.
    pub speed: u64,
    /// The policy for errors.
    pub on_error: OnError,
    /// The policy for errors of the target, if that is another.
    pub on_target_error: Option<OnError>,
    /// True if its result becomes final by itself, false if it waits for [`super::Job::finalize`].
    pub auto_finalize: bool,
    /// True if it is removed at its end, false if it waits for [`super::Job::dismiss`].
    pub auto_dismiss: bool,
    /// The events that it sends.
    pub events: Events,
}

impl JobOptions {
    /// Returns the options of a stream that `block_stream` of the 2011 API starts on the disk with this name.
    pub fn block_stream(device: &str) -> Self {
        JobOptions { events: Events::Kind, ..Self::new(device) }
    }

    /// Returns the default options for a job with this name.
    pub fn new(id: impl Into<String>) -> Self {
        JobOptions {
            id: id.into(),
            speed: 0,
            on_error: OnError::default(),
            on_target_error: None,
            auto_finalize: true,
            auto_dismiss: true,
            events: Events::default(),
        }
    }
}

impl JobOptions {
    /// The policy for errors of an operation.
    pub(super) fn policy(&self, operation: Operation) -> OnError {
        match operation {
            Operation::Read => self.on_error,
            Operation::Write => self.on_target_error.unwrap_or(self.on_error),
        }
    }
}

/// The kind of error that paused a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoStatus {
    /// No error.
    Ok,
    /// An I/O error.
    Failed,
    /// No space left.
    NoSpace,
}

/// The properties of a job at one moment.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub kind: JobKind,
    /// Its state.
    pub status: Status,
    /// Its progress, in bytes.
    pub offset: u64,
    /// The value of `offset` at its end, in bytes.
    pub len: u64,
    /// Its speed limit in bytes per second; 0 for none.
    pub speed: u64,
    /// True if it is working right now.
    pub busy: bool,
    /// True if it was asked to pause.
    pub paused: bool,
    /// The kind of error that paused it.
    pub io_status: IoStatus,
    /// See [`JobOptions::auto_finalize`].
    pub auto_finalize: bool,
    /// See [`JobOptions::auto_dismiss`].
    pub auto_dismiss: bool,
    /// The reason why it failed or was cancelled, in the C library's words ([`crate::Error::reason`]).
    pub error: Option<String>,
    /// The full message of the error that it failed with or is paused for: the operation, and where it
    /// failed.
    pub detail: Option<String>,
    /// The result that the job has found out, if its kind has one.
    pub result: Option<JobResult>,
    /// True if a copy that follows the disk equals it and stays so: it is ready, nothing is left to copy, and
    /// a client has chosen that writes go to both sides.
    pub synced: bool,
    /// The way of the guest's writes, if the job follows its disk.
    pub following: Option<Following>,
}

/// The way in which a job follows its disk at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Following {
    /// True if the guest's writes go to both sides, false if they go to the source and are copied later.
    pub active: bool,
    /// Bytes of the guest's writes that are on their way to the target, and that the guest does not wait for.
    pub queued: u64,
}

/// An event of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobEvent {
    /// Its state changed.
    Status,
    /// It met an error.
    Error(Operation, ErrorAction),
    /// It can be completed.
    Ready,
    /// It waits for [`super::Job::finalize`].
    Pending,
    /// It ended; [`Info::error`] is set if it failed.
    Completed,
    /// It was cancelled.
    Cancelled,
}

/// The finding of a job of a kind that looks for something. Shown by `query-jobs` until the job is dismissed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobResult {
    /// The result of a verification.
    Verify(Verified),
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were read.
    pub bytes: u64,
    /// Ranges that could not be read; of many, the first ones.
    pub unreadable: Vec<Range<u64>>,
    /// Ranges whose content has another digest than it should; of many, the first ones.
    pub differing: Vec<Range<u64>>,
}
