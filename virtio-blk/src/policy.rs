//! The reaction to a request that its disk has failed: QEMU's `rerror` and `werror`.

use std::fmt;
use std::sync::Arc;

use block::{Error, ErrorAction, OnError};

/// A request that the disk has failed.
#[derive(Clone, Debug)]
pub struct IoError {
    /// The name of the image that requests went to at that time.
    pub node_name: Option<String>,
    /// True for anything but a read.
    pub write: bool,
    /// The action that was taken.
    pub action: ErrorAction,
    /// True if space (or quota) was lacking.
    pub no_space: bool,
    /// The reason, in the C library's words only.
    pub reason: String,
    /// The disk's text for people: the operation that failed, and its place.
    pub detail: String,
}

/// The policy for a disk's errors, and the function that gets them.
///
/// Requests that the device itself refuses, and those that the disk reports as unsupported or out of range,
/// are the driver's own fault: the driver always gets an error, and nobody else is notified.
#[derive(Clone)]
pub struct ErrorPolicy {
    /// The reaction for reads.
    pub read: OnError,
    /// The reaction for everything else: writes, flushes, discards.
    pub write: OnError,
    /// Called on the disk's thread for each error, at any rate that the driver chooses. It must not block,
    /// and must limit what it keeps.
    pub listener: Arc<dyn Fn(IoError) + Send + Sync>,
}

impl ErrorPolicy {
    /// Returns a policy that reports every error to the driver only.
    pub fn report() -> Self {
        ErrorPolicy { read: OnError::Report, write: OnError::Report, listener: Arc::new(|_| {}) }
    }

    /// Returns the action for `error`.
    pub(crate) fn action(&self, write: bool, error: &Error) -> ErrorAction {
        let policy = if write { self.write } else { self.read };
        policy.action(error)
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
