//! A virtio device as its author writes it, and the rest of the device, which is the same for all.

use std::io;
use std::sync::Arc;

use executor::{Remote, Reply};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use zerocopy::{Immutable, IntoBytes};

use crate::queue::Queue;
use crate::runner::{Runner, Task};
use crate::{Activation, Device, Interrupt, has};

/// The features that every device offers.
const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The driver of an active device: the features that it accepted, and the way to notify it.
#[derive(Clone)]
pub struct Negotiated {
    /// The features, a subset of those offered.
    pub features: u64,
    /// The device's way to notify the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

impl Negotiated {
    /// Returns true if the driver accepted the feature of a VIRTIO_*_F constant.
    pub fn has(&self, bit: u32) -> bool {
        has(self.features, bit)
    }
}

/// The part of a virtio device that no other device has: its ID, features and config space, and its use of
/// its queues. [`VirtioDevice`] adds the rest.
///
/// The threads of the transport and of the queues share it, so what changes in it is atomic or locked.
/// Everything but [`Model::serve`] may be called on any thread, one call at a time, and must not block.
pub trait Model: Send + Sync + Sized + 'static {
    /// The device ID (virtio 1.2, 5).
    const ID: u32;

    /// The layout of the config space, of little-endian fields; `()` for a device that has none. Bytes behind
    /// it read as zero.
    type Config: IntoBytes + Immutable;

    /// The value that a completed request holds until the driver has been notified of it, such as its
    /// permission to be in flight; `()` for most devices.
    type Keep: 'static;

    /// Returns the device's own features. VIRTIO_F_VERSION_1 and those of the rings are added.
    fn features(&self) -> u64 {
        0
    }

    /// Returns the maximum size of each queue, which also gives the number of queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Returns the content of the config space.
    fn config(&self) -> Self::Config;

    /// See [`Device::config_generation`].
    fn config_generation(&self) -> u32 {
        0
    }

    /// Writes config space, at any offset and of any length. Nothing is writable by default.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    /// Called at DRIVER_OK, before [`Model::serve`].
    fn on_activate(&self, _driver: &Negotiated) {}

    /// Returns the futures that serve the queues which the driver made ready. They run on the thread on which
    /// this is called, the device's own, until the reset.
    ///
    /// # Errors
    /// If it fails, the driver is asked for a reset.
    fn serve(self: Arc<Self>, driver: Negotiated, queues: Vec<Queue<Self::Keep>>) -> io::Result<Vec<Task>>;

    /// Returns to the power-on state. Called when the queues are not used any more, also if they never were
    /// since the last time; or when the device is dropped, and then they may still be.
    fn on_reset(&self) {}
}

/// A virtio device: a [`Model`] whose queues are served on a thread of their own.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting.
pub struct VirtioDevice<M: Model> {
    model: Arc<M>,
    runner: Runner,
}

impl<M: Model> VirtioDevice<M> {
    /// Returns a device that works on the executor behind `remote`.
    pub fn new(remote: Remote, model: M) -> Self {
        VirtioDevice { model: Arc::new(model), runner: Runner::new(remote) }
    }

    /// Returns the model. It may outlive the device.
    pub fn model(&self) -> &Arc<M> {
        &self.model
    }
}

impl<M: Model> Device for VirtioDevice<M> {
    fn id(&self) -> u32 {
        M::ID
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES | self.model.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.model.queue_sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.model.config();
        let rest = usize::try_from(offset).ok().and_then(|offset| config.as_bytes().get(offset..));
        let rest = rest.unwrap_or_default();
        let (inside, behind) = data.split_at_mut(rest.len().min(data.len()));
        inside.copy_from_slice(&rest[..inside.len()]);
        behind.fill(0);
    }

    fn config_generation(&self) -> u32 {
        self.model.config_generation()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.model.write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if self.runner.is_active() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let driver = Negotiated { features: activation.features, interrupt: activation.interrupt.clone() };
        self.model.on_activate(&driver);
        let model = self.model.clone();
        let started = self.runner.start(activation, move |queues| model.serve(driver, queues));
        started.inspect_err(|_| self.model.on_reset())
    }

    fn reset(&mut self) {
        self.runner.reset();
        self.model.on_reset();
    }

    fn pause(&mut self) -> Reply<()> {
        self.runner.pause()
    }

    fn resume(&mut self) {
        self.runner.resume();
    }
}

impl<M: Model> Drop for VirtioDevice<M> {
    fn drop(&mut self) {
        // The model may outlive the device.
        self.model.on_reset();
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
