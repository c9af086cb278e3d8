//! Errors of the guest's disks, on their way from the disks' threads to the main loop.

use std::sync::Mutex;

use block::ErrorAction;
use virtio_blk::IoError;

use executor::lock;

use super::reports::Reporter;

/// The errors that the main loop has not taken yet. There is at most one per disk, so that a disk that fails
/// every request does not fill memory: the first one, unless a later one stops the machine and the first
/// does not.
pub(super) struct IoErrors {
    pending: Mutex<Vec<(String, IoError)>>,
    main: Reporter,
}

impl IoErrors {
    /// Returns an empty list, which notifies `main` of new errors.
    pub(super) fn new(main: Reporter) -> Self {
        IoErrors { pending: Mutex::default(), main }
    }

    /// Adds an error of the disk `device`. Any thread may call it.
    pub(super) fn push(&self, device: &str, error: IoError) {
        let mut pending = lock(&self.pending);
        // One message brings the main loop here, however many errors there are by then.
        let is_first = pending.is_empty();
        match pending.iter_mut().find(|(other, _)| other == device) {
            Some((_, other)) if other.action == ErrorAction::Stop || error.action != ErrorAction::Stop => {
                return;
            }
            Some((_, other)) => *other = error,
            None => pending.push((device.to_owned(), error)),
        }
        drop(pending);
        if is_first {
            self.main.send(|reports| reports.io_failed.notify());
        }
    }

    /// Returns the errors since the last call, each with its disk.
    pub(super) fn take(&self) -> Vec<(String, IoError)> {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Returns true if there are errors that were not taken.
    pub(super) fn is_pending(&self) -> bool {
        !lock(&self.pending).is_empty()
    }
}

#[cfg(test)]
#[path = "io_errors_tests.rs"]
mod tests;
