//! The reaction to an I/O error, of a guest's request (`rerror`, `werror`) as of a job (`on-error`).

use crate::{Error, ErrorKind};

/// The policy for errors of a disk's images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// The guest's driver gets the error; a job fails.
    #[default]
    Report,
    /// The driver sees a success, and reads zeros; a job skips what it cannot do, and fails at its end.
    Ignore,
    /// The machine stops, or the job pauses, and what failed is tried again after a resume.
    Stop,
    /// [`OnError::Stop`] if there is no space left, else [`OnError::Report`].
    Enospc,
}

/// The action that was taken for one error: see the [`OnError`] of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorAction {
    /// The error was reported.
    Report,
    /// The error was ignored.
    Ignore,
    /// The machine must stop, or the job pauses.
    Stop,
}

impl OnError {
    /// Returns the action for `error`.
    pub fn action(self, error: &Error) -> ErrorAction {
        match self {
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::Enospc if error.kind() == ErrorKind::NoSpace => ErrorAction::Stop,
            OnError::Report | OnError::Enospc => ErrorAction::Report,
        }
    }
}
