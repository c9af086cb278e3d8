//! The device as its transport sees it.

use std::io;
use std::sync::Arc;

use executor::{Handle, Reply};
use virtio::Runner;
use virtio::{Activation, Device};
use virtio_bindings::virtio_ids::VIRTIO_ID_SCSI;

use crate::backend::Backend;
use crate::config::{Config, FEATURES, QUEUE_SIZE, QUEUES};
use crate::serve;

/// A virtio SCSI host (virtio 1.2, 5.6) whose only target is a CD-ROM, in front of a drive that lives on
/// a thread of its own.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting. A
/// reset unlocks the tray.
pub struct VirtioScsi<H: Handle<Target: Backend>> {
    handle: H,
    runner: Runner,
    config: Arc<Config>,
    serial: String,
}

impl<H: Handle<Target: Backend>> VirtioScsi<H> {
    /// Returns a host with the drive behind `handle`, whose serial number is `serial`, cut to 32 ASCII
    /// characters.
    pub fn new(handle: H, serial: &str) -> Self {
        let serial = serial.chars().filter(char::is_ascii_graphic).take(32).collect();
        VirtioScsi {
            runner: Runner::new(handle.remote().clone()),
            handle,
            config: Arc::new(Config::new()),
            serial,
        }
    }
}

impl<H: Handle<Target: Backend>> Device for VirtioScsi<H> {
    fn id(&self) -> u32 {
        VIRTIO_ID_SCSI
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let (handle, config, serial) = (self.handle.clone(), self.config.clone(), self.serial.clone());
        self.runner.start(activation, move |queues| serve::tasks(&handle, config, &serial, queues))
    }

    fn reset(&mut self) {
        self.runner.reset();
        self.config.reset();
        let handle = self.handle.clone();
        let unlocked = self.runner.remote().call(move || {
            if let Some(drive) = handle.get() {
                drive.set_locked(false);
            }
            std::future::ready(())
        });
        // An error means that the drive's thread has ended.
        let _ = unlocked.wait();
    }

    fn pause(&mut self) -> Reply<()> {
        self.runner.pause()
    }

    fn resume(&mut self) {
        self.runner.resume();
    }
}
