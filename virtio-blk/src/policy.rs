//! What becomes of a request that its disk has failed: QEMU's `rerror` and `werror`.

use std::fmt;
use std::sync::Arc;

use block::{Error, ErrorKind};

/// What an error of the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The driver is told.
    Report,
    /// The driver is told of success; what it reads are zeros.
    Ignore,
    /// The machine is to stop, and the request is tried again when it goes on.
    Stop,
    /// [`OnError::Stop`] for want of space, else [`OnError::Report`].
    Enospc,
}

/// What was done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The driver was told.
    Report,
    /// The driver was told of success.
    Ignore,
    /// The request is kept until the device is paused and resumed: pause it.
    Stop,
}

/// A request that the disk has failed.
#[derive(Clone, Debug)]
pub struct IoError {
    /// [`crate::Backend::node_name`] at that time.
    pub node_name: Option<String>,
    /// Whether it was anything but a read.
    pub write: bool,
    /// What was done about it.
    pub action: Action,
    /// Whether it failed for want of space (or of quota).
    pub no_space: bool,
    /// Why, in the C library's words and nothing else.
    pub reason: String,
    /// The disk's words, for people: what failed, and where.
    pub detail: String,
}

/// The policy for a disk's errors, and who hears of them.
///
/// Requests that the device itself refuses, and those that the disk says it has no means or no bytes for, are
/// the driver's own fault: they are always answered with an error, and nobody else hears of them.
#[derive(Clone)]
pub struct ErrorPolicy {
    /// For reads.
    pub read: OnError,
    /// For everything else: writes, flushes, discards.
    pub write: OnError,
    /// Called on the disk's thread for each error, at any rate that the driver likes: it must not block, and
    /// has to bound what it keeps.
    pub tell: Arc<dyn Fn(IoError) + Send + Sync>,
}

impl ErrorPolicy {
    /// Everything is reported to the driver and to nobody else.
    pub fn report() -> Self {
        ErrorPolicy { read: OnError::Report, write: OnError::Report, tell: Arc::new(|_| {}) }
    }

    /// What to do about `error`.
    pub(crate) fn action(&self, write: bool, error: &Error) -> Action {
        match if write { self.write } else { self.read } {
            OnError::Ignore => Action::Ignore,
            OnError::Stop => Action::Stop,
            OnError::Enospc if error.kind() == ErrorKind::NoSpace => Action::Stop,
            OnError::Report | OnError::Enospc => Action::Report,
        }
    }
}

impl fmt::Debug for ErrorPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorPolicy")
            .field("read", &self.read)
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}
