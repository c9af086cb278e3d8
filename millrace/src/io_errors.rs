//! Errors of the guest's disks, on their way from the disks' threads to the main loop.

use std::io;
use std::sync::Mutex;

use virtio_blk::{Action, IoError};

use executor::lock;
use vmm::notice::{Signal, Waiter};

/// The errors that the main loop has not heard of yet: one a disk at most, so that a guest whose disk fails
/// everything fills no memory. Of several, the first is kept; but one that is to stop the machine takes the
/// place of one that is not.
pub(super) struct IoErrors {
    pending: Mutex<Vec<(String, IoError)>>,
    signal: Signal,
}

impl IoErrors {
    /// No errors.
    ///
    /// # Errors
    /// Where the host has no eventfd left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(IoErrors { pending: Mutex::default(), signal: Signal::new()? })
    }

    /// Tells of an error of the disk `device`, from any thread.
    pub(super) fn push(&self, device: &str, error: IoError) {
        let mut pending = lock(&self.pending);
        match pending.iter_mut().find(|(other, _)| other == device) {
            Some((_, other)) if other.action == Action::Stop || error.action != Action::Stop => return,
            Some((_, other)) => *other = error,
            None => pending.push((device.to_owned(), error)),
        }
        drop(pending);
        self.signal.raise();
    }

    /// The errors since the last call, each with its disk.
    pub(super) fn take(&self) -> Vec<(String, IoError)> {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Wakes one task of the main loop after [`IoErrors::push`].
    pub(super) fn waiter(&self) -> io::Result<Waiter> {
        self.signal.waiter()
    }
}

#[cfg(test)]
#[path = "io_errors_tests.rs"]
mod tests;
