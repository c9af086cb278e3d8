//! The states of a job, which changes of them there are, and what may be asked of a job in each
//! (QEMU's `qapi/job.json`; its tables are in `job.c`).

/// A job's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Not started.
    Created,
    /// At work.
    Running,
    /// At rest, while it was running.
    Paused,
    /// Has done its work and follows what changes, until it is asked to complete.
    Ready,
    /// At rest, while it was ready.
    Standby,
    /// Done; waits for the others of its transaction.
    Waiting,
    /// Done; its result is not final yet.
    Pending,
    /// Failed or cancelled; undoes what it prepared.
    Aborting,
    /// At its end; the result can be queried.
    Concluded,
    /// Forgotten.
    Null,
}

/// What can be asked of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// To end without a result.
    Cancel,
    /// To rest.
    Pause,
    /// To go on.
    Resume,
    /// To keep to another speed.
    SetSpeed,
    /// To end with its result, once it is ready.
    Complete,
    /// To make its result final.
    Finalize,
    /// To be forgotten.
    Dismiss,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 10] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Ready,
        Status::Standby,
        Status::Waiting,
        Status::Pending,
        Status::Aborting,
        Status::Concluded,
        Status::Null,
    ];

    /// The state's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Standby => "standby",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }

    /// The states that may follow.
    pub(super) fn followers(self) -> &'static [Status] {
        use Status::*;
        match self {
            Created => &[Running, Aborting, Null],
            Running => &[Paused, Ready, Waiting, Aborting],
            Paused => &[Running],
            Ready => &[Standby, Waiting, Aborting],
            Standby => &[Ready],
            Waiting => &[Pending, Aborting],
            Pending => &[Aborting, Concluded],
            Aborting => &[Concluded],
            Concluded => &[Null],
            Null => &[],
        }
    }

    /// What may be asked of a job in this state.
    pub(super) fn verbs(self) -> &'static [Verb] {
        use Status::*;
        match self {
            Created | Running | Paused | Standby => {
                &[Verb::Cancel, Verb::Pause, Verb::Resume, Verb::SetSpeed]
            }
            Ready => &[Verb::Cancel, Verb::Pause, Verb::Resume, Verb::SetSpeed, Verb::Complete],
            Waiting => &[Verb::Cancel],
            Pending => &[Verb::Cancel, Verb::Finalize],
            Aborting | Null => &[],
            Concluded => &[Verb::Dismiss],
        }
    }
}

impl Verb {
    /// The verb's name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::SetSpeed => "set-speed",
            Verb::Complete => "complete",
            Verb::Finalize => "finalize",
            Verb::Dismiss => "dismiss",
        }
    }
}
