//! Options, errors, events and properties of jobs.

use super::Status;

/// A kind of job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    /// Populates an image from its chain.
    Stream,
}

impl JobKind {
    /// Returns the kind's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Stream => "stream",
        }
    }
}

/// The policy of a job for errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// The job fails.
    #[default]
    Report,
    /// The job pauses, and tries again when it is resumed.
    Stop,
    /// The job skips what it cannot do, and fails at its end.
    Ignore,
    /// `Stop` if there is no space left, else `Report`.
    Enospc,
}

/// The action after an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The job fails.
    Report,
    /// The job pauses.
    Stop,
    /// The job continues.
    Ignore,
}

/// The operation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reading from the source.
    Read,
    /// Writing to the target.
    Write,
}

/// The API that started the job, which determines its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manner {
    /// QEMU's current job API.
    #[default]
    Job,
    /// The API of 2011: a job reports only its states, and [`crate::DiskEvent::StreamCompleted`] at its
    /// end unless it was stopped.
    BlockStream,
}

/// Options of a job.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The job's name. The caller must ensure that no other job has it.
    pub id: String,
    /// Speed limit in bytes per second; 0 for none.
    pub speed: u64,
    /// The policy for errors.
    pub on_error: OnError,
    /// True if its result becomes final by itself, false if it waits for [`super::Job::finalize`].
    pub auto_finalize: bool,
    /// True if it is removed at its end, false if it waits for [`super::Job::dismiss`].
    pub auto_dismiss: bool,
    /// The API whose events it sends.
    pub manner: Manner,
}

impl Wish {
    /// Returns the default options for a job with this name.
    pub fn new(id: impl Into<String>) -> Self {
        Wish {
            id: id.into(),
            speed: 0,
            on_error: OnError::default(),
            auto_finalize: true,
            auto_dismiss: true,
            manner: Manner::default(),
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
    /// See [`Wish::auto_finalize`].
    pub auto_finalize: bool,
    /// See [`Wish::auto_dismiss`].
    pub auto_dismiss: bool,
    /// The reason why it failed or was cancelled, in the C library's words ([`crate::Error::reason`]).
    pub error: Option<String>,
    /// The full message of the error that it failed with or is paused for: the operation, and where it
    /// failed.
    pub detail: Option<String>,
}

/// An event of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobEvent {
    /// Its state changed.
    Status,
    /// It met an error.
    Error(Operation, Action),
    /// It can be completed.
    Ready,
    /// It waits for [`super::Job::finalize`].
    Pending,
    /// It ended; [`Info::error`] is set if it failed.
    Completed,
    /// It was cancelled.
    Cancelled,
}
