//! The device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block::disk::Front;
use executor::Handle;
use virtio::{Model, Negotiated, Queue, Task, VirtioDevice};
use virtio_bindings::virtio_ids::VIRTIO_ID_SCSI;

use crate::config::{Config, QUEUE_SIZE, QUEUES, Sizes};
use crate::serve::{self, Keep};

/// A virtio SCSI host (virtio 1.2, 5.6) whose only target is a CD-ROM, in front of a drive that lives on
/// a thread of its own. A reset unlocks the tray.
pub struct VirtioScsi<F: Front> {
    handle: Handle<F>,
    sizes: Arc<Sizes>,
    serial: String,
    /// True from DRIVER_OK to the reset: only then can the tray have been locked.
    active: AtomicBool,
}

impl<F: Front> VirtioScsi<F> {
    /// Returns a host with the drive behind `handle`, whose serial number is `serial`, cut to 32 ASCII
    /// characters. It works on the drive's thread.
    pub fn device(handle: Handle<F>, serial: &str) -> VirtioDevice<Self> {
        let serial = serial.chars().filter(char::is_ascii_graphic).take(32).collect();
        let remote = handle.remote().clone();
        VirtioDevice::new(
            remote,
            VirtioScsi { handle, sizes: Arc::default(), serial, active: AtomicBool::new(false) },
        )
    }
}

impl<F: Front> Model for VirtioScsi<F> {
    const ID: u32 = VIRTIO_ID_SCSI;
    type Config = Config;
    type Keep = Keep<F>;

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> Config {
        Config::new(&self.sizes)
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.sizes.write(offset, data);
    }

    fn on_activate(&self, _: &Negotiated) {
        self.active.store(true, Ordering::Release);
    }

    fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue<Self::Keep>>) -> io::Result<Vec<Task>> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the drive of a virtio SCSI host is gone");
        let drive = self.handle.get().ok_or_else(gone)?;
        Ok(serve::tasks(drive, self.sizes.clone(), &self.serial, queues))
    }

    fn on_reset(&self) {
        self.sizes.reset();
        // A driver that resets in a loop must not fill the queue of the drive's thread.
        if !self.active.swap(false, Ordering::AcqRel) {
            return;
        }
        // The next DRIVER_OK gets to the drive's thread after this.
        drop(self.handle.submit(|drive| {
            if let Some(tray) = drive.tray() {
                tray.set_locked(false);
            }
            std::future::ready(())
        }));
    }
}
