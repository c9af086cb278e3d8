//! What the monitor hears of the guest's failed requests, and how they stop the machine.

use qmp::event::BlockIoError;
use qmp::types::{BlockErrorAction, IoOperationType, IoStatus};
use virtio_blk::{Action, IoError};

use super::Control;

/// An error of the disk `device` in QMP's words. QEMU tells whether it is for want of space only where
/// `query-block` has an `io-status`.
fn event(device: String, error: IoError, has_io_status: bool) -> BlockIoError {
    BlockIoError {
        qom_path: String::new(),
        device,
        node_name: error.node_name,
        operation: if error.write { IoOperationType::Write } else { IoOperationType::Read },
        action: match error.action {
            Action::Report => BlockErrorAction::Report,
            Action::Ignore => BlockErrorAction::Ignore,
            Action::Stop => BlockErrorAction::Stop,
        },
        nospace: has_io_status.then_some(error.no_space),
        reason: error.reason,
        detail: Some(error.detail),
    }
}

/// A disk's `io-status` after an error that stops the machine: the first one counts until it goes on.
fn status_after(before: IoStatus, no_space: bool) -> IoStatus {
    match before {
        IoStatus::Ok if no_space => IoStatus::Nospace,
        IoStatus::Ok => IoStatus::Failed,
        _ => before,
    }
}

impl Control {
    /// Sends `BLOCK_IO_ERROR` for what the guest's disks have failed at since the last call. Answers whether
    /// one of them keeps a request for the machine to stop.
    pub(super) fn tell_io_errors(&self) -> bool {
        let mut stop = false;
        for (device, error) in self.io_errors.take() {
            let Ok(drive) = self.drive(&device) else { continue };
            // As in QEMU, the status first: whoever hears of the event finds it.
            if error.action == Action::Stop {
                stop = true;
                drive.io_status.set(status_after(drive.io_status.get(), error.no_space));
            }
            executor::limited!(warn, "disk '{device}': {}", error.detail);
            let has_io_status = drive.options.has_io_status();
            self.events.emit(&event(device, error, has_io_status));
        }
        stop
    }

    /// Tells of failed requests, then stops the machine where one of them asks for it: `BLOCK_IO_ERROR`, then
    /// `STOP`.
    pub(crate) async fn io_failed(&self) {
        if !self.tell_io_errors() {
            return;
        }
        let Some(machine) = &self.machine else { return };
        // Stopped already, by a person: it stays theirs, as in QEMU, and 'cont' tries again all the same.
        let stopped = machine.stop().await;
        // Those that were in flight meanwhile: none of them may stop the machine a second time, after 'cont'.
        self.tell_io_errors();
        if stopped {
            self.io_stopped.set(true);
        }
        self.tell_run_state();
    }

    /// The machine goes on, and what failed is tried again.
    pub(super) fn forget_io_errors(&self) {
        self.io_stopped.set(false);
        for drive in &self.drives {
            drive.io_status.set(IoStatus::Ok);
        }
    }
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
