//! The device.

use std::io;
use std::sync::Arc;

use block::disk::Front;
use executor::Handle;
use virtio::{Model, Negotiated, Queue, Task, VirtioDevice};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::config::{Config, ConfigSpace, Options, QUEUE_SIZE};
use crate::serve;

/// A virtio block device (virtio 1.2, 5.2) in front of a disk that lives on a thread of its own.
pub struct VirtioBlk<F: Front> {
    handle: Handle<F>,
    config: Arc<Config>,
}

impl<F: Front> VirtioBlk<F> {
    /// Returns a device in front of the disk behind `handle`. It works on the disk's thread.
    pub fn device(handle: Handle<F>, options: Options) -> VirtioDevice<Self> {
        let remote = handle.remote().clone();
        VirtioDevice::new(remote, VirtioBlk { handle, config: Arc::new(Config::new(options)) })
    }

    /// Returns the config space, which must be updated when the disk's size changes. It may outlive the
    /// device.
    pub fn shared_config(&self) -> Arc<Config> {
        self.config.clone()
    }
}

impl<F: Front> Model for VirtioBlk<F> {
    const ID: u32 = VIRTIO_ID_BLOCK;
    type Config = ConfigSpace;
    type Keep = F::Ticket;

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.config.queues().into()]
    }

    fn config(&self) -> ConfigSpace {
        self.config.space()
    }

    fn config_generation(&self) -> u32 {
        self.config.generation()
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn on_activate(&self, driver: &Negotiated) {
        self.config.activate(driver);
    }

    fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue<Self::Keep>>) -> io::Result<Vec<Task>> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the disk of a virtio block device is gone");
        let disk = self.handle.get().ok_or_else(gone)?;
        Ok(serve::tasks(&disk, &self.config, queues))
    }

    fn on_reset(&self) {
        self.config.deactivate();
    }
}
