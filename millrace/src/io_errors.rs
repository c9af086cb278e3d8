//! Errors of the guest's disks, on their way from the disks' threads to the main loop.

use std::io;
use std::sync::Mutex;

use block::ErrorAction;
use virtio_blk::IoError;

use executor::lock;
use vmm::notice::{Signal, Waiter};

/// The errors that the main loop has not taken yet. There is at most one per disk, so that a disk that fails
/// every request does not fill memory: the first one, unless a later one stops the machine and the first
/// does not.
pub(super) struct IoErrors {
    pending: Mutex<Vec<(String, IoError)>>,
    signal: Signal,
}

impl IoErrors {
    /// Returns an empty queue.
    ///
    /// # Errors
    /// Fails if no eventfd can be created.
    pub(super) fn new() -> io::Result<Self> {
        Ok(IoErrors { pending: Mutex::default(), signal: Signal::new()? })
    }

    /// Adds an error of the disk `device`. Any thread may call it.
    pub(super) fn push(&self, device: &str, error: IoError) {
        let mut pending = lock(&self.pending);
        match pending.iter_mut().find(|(other, _)| other == device) {
            Some((_, other)) if other.action == ErrorAction::Stop || error.action != ErrorAction::Stop => {
                return;
            }
            Some((_, other)) => *other = error,
            None => pending.push((device.to_owned(), error)),
        }
        drop(pending);
        self.signal.raise();
    }

    /// Returns the errors since the last call, each with its disk.
    pub(super) fn take(&self) -> Vec<(String, IoError)> {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Returns a waiter that [`IoErrors::push`] wakes, for one task of the main loop.
    pub(super) fn waiter(&self) -> io::Result<Waiter> {
        self.signal.waiter()
    }
}

#[cfg(test)]
#[path = "io_errors_tests.rs"]
mod tests;
