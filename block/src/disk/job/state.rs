//! The states of a job, the transitions between them, and the commands that each accepts (QEMU's
//! `qapi/job.json`; its tables are in `job.c`).

/// A job's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Not started.
    Created,
    /// Working.
    Running,
    /// Paused while it was running.
    Paused,
    /// Has done its work and follows changes until it is asked to complete.
    Ready,
    /// Paused while it was ready.
    Standby,
    /// Done; waits for the other jobs of its transaction.
    Waiting,
    /// Done; its result is not final yet.
    Pending,
    /// Failed or cancelled; undoes what it prepared.
    Aborting,
    /// Ended; the result can be queried.
    Concluded,
    /// Removed.
    Null,
}

/// A command to a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Ends the job without a result.
    Cancel,
    /// Pauses it.
    Pause,
    /// Resumes it.
    Resume,
    /// Changes its speed limit.
    SetSpeed,
    /// Changes the way of the guest's writes while it follows its disk.
    Change,
    /// Ends a ready job with its result.
    Complete,
    /// Makes its result final.
    Finalize,
    /// Removes it.
    Dismiss,
}

impl Status {
    /// All states.
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

    /// Returns the state's name on the wire.
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

    /// Returns the states that may follow this one.
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

    /// Returns the commands that a job accepts in this state.
    pub(super) fn verbs(self) -> &'static [Verb] {
        use Status::*;
        match self {
            Created => &[Verb::Cancel, Verb::Pause, Verb::Resume, Verb::SetSpeed],
            Running | Paused | Standby => {
                &[Verb::Cancel, Verb::Pause, Verb::Resume, Verb::SetSpeed, Verb::Change]
            }
            Ready => &[Verb::Cancel, Verb::Pause, Verb::Resume, Verb::SetSpeed, Verb::Change, Verb::Complete],
            Waiting => &[Verb::Cancel],
            Pending => &[Verb::Cancel, Verb::Finalize],
            Aborting | Null => &[],
            Concluded => &[Verb::Dismiss],
        }
    }
}

impl Verb {
    /// Returns the command's name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::SetSpeed => "set-speed",
            Verb::Change => "change",
            Verb::Complete => "complete",
            Verb::Finalize => "finalize",
            Verb::Dismiss => "dismiss",
        }
    }
}
