//! Reports the guest's failed requests to the monitor's clients, and stops the machine for them.

use block::ErrorAction;
use qmp::event::BlockIoError;
use qmp::types::{BlockErrorAction, IoOperationType, IoStatus};
use virtio_blk::IoError;

use super::Control;

/// Returns the action as it goes over the wire.
pub(super) fn action(action: ErrorAction) -> BlockErrorAction {
    match action {
        ErrorAction::Report => BlockErrorAction::Report,
        ErrorAction::Ignore => BlockErrorAction::Ignore,
        ErrorAction::Stop => BlockErrorAction::Stop,
    }
}

/// Returns the event for an error of the disk `device`. As in QEMU, it says if space was lacking only if
/// `query-block` has an `io-status`.
fn event(device: String, error: IoError, has_io_status: bool) -> BlockIoError {
    BlockIoError {
        qom_path: String::new(),
        device,
        node_name: error.node_name,
        operation: if error.write { IoOperationType::Write } else { IoOperationType::Read },
        action: action(error.action),
        nospace: has_io_status.then_some(error.no_space),
        reason: error.reason,
        detail: Some(error.detail),
    }
}

/// Returns a disk's `io-status` after an error that stops the machine. The first error counts until the
/// machine is resumed.
fn status_after(before: IoStatus, no_space: bool) -> IoStatus {
    match before {
        IoStatus::Ok if no_space => IoStatus::Nospace,
        IoStatus::Ok => IoStatus::Failed,
        _ => before,
    }
}

impl Control {
    /// Sends `BLOCK_IO_ERROR` for the errors of the guest's disks since the last call. Returns true if the
    /// machine must stop for one of them.
    pub(super) fn emit_io_errors(&self) -> bool {
        let mut stop = false;
        for (device, error) in self.io_errors.take() {
            let Ok(drive) = self.drive(&device) else { continue };
            // As in QEMU, the status is set first, so that clients that get the event find it.
            if error.action == ErrorAction::Stop {
                stop = true;
                drive.io_status.set(status_after(drive.io_status.get(), error.no_space));
            }
            executor::limited!(warn, "disk '{device}': {}", error.detail);
            let has_io_status = drive.options.has_io_status();
            self.events.emit(&event(device, error, has_io_status));
        }
        stop
    }

    /// Waits for failed requests and reports them, again and again.
    pub(crate) async fn report_io_errors(&self) {
        loop {
            while !self.io_errors.is_pending() {
                self.reports.io_failed.wait().await;
            }
            // A guest can make disks fail at any rate; the other tasks of the main loop get their turns.
            executor::yield_now().await;
            self.io_failed().await;
        }
    }

    /// Reports failed requests, then stops the machine if one of them requires it: `BLOCK_IO_ERROR`, then
    /// `STOP`.
    async fn io_failed(&self) {
        if !self.emit_io_errors() {
            return;
        }
        let Some(machine) = &self.machine else { return };
        // If a user has stopped it already, its state stays `paused`, as in QEMU; 'cont' retries the
        // requests all the same.
        let stopped = machine.stop().await;
        // Reports the requests that were in flight meanwhile: none of them may stop the machine again after
        // 'cont'.
        self.emit_io_errors();
        if stopped {
            self.io_stopped.set(true);
        }
        self.emit_run_state();
    }

    /// Clears errors when the machine is resumed, which retries the failed requests.
    pub(super) fn clear_io_errors(&self) {
        self.io_stopped.set(false);
        for drive in &self.drives {
            drive.io_status.set(IoStatus::Ok);
        }
    }
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
