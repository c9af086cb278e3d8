//! The device as its transport sees it.

use std::io;
use std::sync::Arc;

use executor::{Handle, Reply};
use virtio::{Activation, Device};
use virtio::{Runner, has};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::backend::Backend;
use crate::config::{Config, Options, QUEUE_SIZE, WRITEBACK};
use crate::serve;

/// A virtio block device (virtio 1.2, 5.2) in front of a disk that lives on a thread of its own.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting.
pub struct VirtioBlk<H: Handle<Target: Backend>> {
    handle: H,
    runner: Runner,
    config: Arc<Config>,
    /// The features negotiated, while active.
    active: Option<u64>,
    /// The value that the driver wrote to `writeback`, if any.
    writeback: Option<bool>,
}

impl<H: Handle<Target: Backend>> VirtioBlk<H> {
    /// Returns a device in front of the disk behind `handle`.
    pub fn new(handle: H, options: Options) -> Self {
        VirtioBlk {
            runner: Runner::new(handle.remote().clone()),
            handle,
            config: Arc::new(Config::new(options)),
            active: None,
            writeback: None,
        }
    }

    /// Returns the config space, which must be updated when the disk's size changes. It may outlive the
    /// device.
    pub fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    /// Sets the cache mode of a driver with `features` (virtio 1.2, 5.2.5.2 and 5.2.6.2). Without
    /// CONFIG_WCE, or if `writeback` was not written, a driver that never flushes gets write-through.
    fn apply_cache_mode(&self, features: u64) {
        let flush = has(features, VIRTIO_BLK_F_FLUSH);
        let wish = self.writeback.filter(|_| has(features, VIRTIO_BLK_F_CONFIG_WCE));
        self.config.set_writeback(wish.unwrap_or(flush));
    }

    /// Returns this side's state to power-on.
    fn deactivate(&mut self) {
        self.active = None;
        self.writeback = None;
        self.config.set_writeback(true);
        *self.config.interrupt() = None;
    }
}

impl<H: Handle<Target: Backend>> Device for VirtioBlk<H> {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.config.queues().into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_generation(&self) -> u32 {
        self.config.generation()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = WRITEBACK.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?))
        else {
            return;
        };
        self.writeback = Some(*value != 0);
        match self.active {
            Some(features) => self.apply_cache_mode(features),
            // Negotiation decides later if the driver may write it.
            None => self.config.set_writeback(*value != 0),
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if self.runner.is_active() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.active = Some(activation.features);
        self.apply_cache_mode(activation.features);
        *self.config.interrupt() = Some(activation.interrupt.clone());
        let (handle, config) = (self.handle.clone(), self.config.clone());
        let started = self.runner.start(activation, move |queues| serve::tasks(&handle, &config, queues));
        started.inspect_err(|_| self.deactivate())
    }

    fn reset(&mut self) {
        self.deactivate();
        self.runner.reset();
    }

    fn pause(&mut self) -> Reply<()> {
        self.runner.pause()
    }

    fn resume(&mut self) {
        self.runner.resume();
    }
}

impl<H: Handle<Target: Backend>> Drop for VirtioBlk<H> {
    fn drop(&mut self) {
        // The config space may outlive the device.
        self.deactivate();
    }
}
