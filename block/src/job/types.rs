//! What is said of jobs: to start one, of its errors, and what it is like.

use super::Status;

/// What a job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    /// Populates an image from its chain.
    Stream,
}

impl JobKind {
    /// The kind's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Stream => "stream",
        }
    }
}

/// What becomes of a job that meets an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// It fails.
    #[default]
    Report,
    /// It pauses, and tries again when it is resumed.
    Stop,
    /// It leaves out what it cannot do, and fails at its end.
    Ignore,
    /// `Stop` where there is no space left, else `Report`.
    Enospc,
}

/// What followed from an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The job fails.
    Report,
    /// The job pauses.
    Stop,
    /// The job goes on.
    Ignore,
}

/// What failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reading from what is copied.
    Read,
    /// Writing to where it is copied.
    Write,
}

/// Which commands and events the job has been started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manner {
    /// QEMU's of today.
    #[default]
    Job,
    /// Those of 2011: [`crate::DiskEvent::StreamCompleted`] at the end, none where it was stopped.
    BlockStream,
}

/// How a job is to be run.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The job's name. Whoever asks sees to it that no other job has it.
    pub id: String,
    /// Bytes a second; 0: no limit.
    pub speed: u64,
    /// What becomes of it on an error.
    pub on_error: OnError,
    /// Whether its result becomes final by itself; else it waits for [`super::Job::finalize`].
    pub auto_finalize: bool,
    /// Whether it is forgotten at its end; else it waits for [`super::Job::dismiss`].
    pub auto_dismiss: bool,
    /// Which events it sends.
    pub manner: Manner,
}

impl Wish {
    /// A job with this name, and all else as it is by default.
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

/// Whether an error paused a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoStatus {
    /// None did.
    Ok,
    /// One did.
    Failed,
    /// It was a want of space.
    NoSpace,
}

/// What a job is like at one moment.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Its state.
    pub status: Status,
    /// How far it is, in bytes.
    pub offset: u64,
    /// Where that ends, in bytes.
    pub len: u64,
    /// Its limit in bytes a second; 0: none.
    pub speed: u64,
    /// Whether it does something right now.
    pub busy: bool,
    /// Whether it was asked to pause.
    pub paused: bool,
    /// Whether an error paused it.
    pub io_status: IoStatus,
    /// See [`Wish::auto_finalize`].
    pub auto_finalize: bool,
    /// See [`Wish::auto_dismiss`].
    pub auto_dismiss: bool,
    /// Why it failed or was cancelled, in the C library's words ([`crate::Error::reason`]).
    pub error: Option<String>,
    /// The sentence of the error that it failed with or pauses for: what was being done, and where.
    pub detail: Option<String>,
}

/// What a job tells by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobEvent {
    /// Its state is another one.
    Status,
    /// It met an error.
    Error(Operation, Action),
    /// It can be completed.
    Ready,
    /// It waits for [`super::Job::finalize`].
    Pending,
    /// It came to its end; [`Info::error`] says whether to a good one.
    Completed,
    /// It was cancelled.
    Cancelled,
}
