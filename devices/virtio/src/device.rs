//! The interface between a virtio transport and a virtio device: features, queues, config space, interrupts
//! and reset. A transport ([`crate::mmio`]) owns the registers and knows no particular device; a device
//! (`virtio-blk`) owns its queues while it is active and knows no transport.

use std::io;
use std::sync::Arc;

use executor::Reply;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// A virtqueue as the driver has set it up.
pub struct ReadyQueue {
    /// Number of the queue.
    pub index: u16,
    /// Addresses, size and the ring indices, checked by the transport to lie in guest memory.
    pub queue: Queue,
    /// Written on every notification of this queue by the driver (an ioeventfd).
    pub kick: EventFd,
}

/// Everything that a device gets when the driver sets DRIVER_OK (virtio 1.2, 3.1.1).
pub struct Activation {
    /// The guest's memory. Its content is hostile: it may change at any time.
    pub memory: Arc<GuestMemoryMmap>,
    /// The features that the driver accepted, a subset of [`Device::features`] and the transport's.
    pub features: u64,
    /// The queues that the driver made ready, in order of their index.
    pub queues: Vec<ReadyQueue>,
    /// The device's way to notify the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// The notifications from a device to its driver. Any thread may call them.
pub trait Interrupt: Send + Sync {
    /// Reports that queue `index` has used buffers (virtio 1.2, 2.3).
    fn used(&self, index: u16);
    /// Reports a change of the config space. Must be called after the change.
    fn config_changed(&self);
    /// Sets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.1): a ring or a descriptor chain was malformed. The device
    /// stops processing queues until it is reset.
    fn needs_reset(&self);
}

/// A virtio device as its transport sees it. Called from vCPU threads and the main loop, one call at a time.
pub trait Device: Send {
    /// Returns the device ID (virtio 1.2, 5), such as 2 for a block device.
    fn id(&self) -> u32;
    /// Returns the feature bits that the device offers, including VIRTIO_F_VERSION_1 and ring features.
    fn features(&self) -> u64;
    /// Returns the maximum size of each queue, which also gives the number of queues.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Copies config space from `offset`. Bytes outside read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Returns the generation of the config space (virtio 1.2, 2.5.3). It changes at the moment when reads
    /// begin to show something that the driver has not written itself. Between two equal generations a
    /// driver has seen one content, however many reads that took.
    fn config_generation(&self) -> u32 {
        0
    }
    /// Writes config space. Writes to read-only fields are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// Starts processing queues. Called at DRIVER_OK, at most once between resets.
    ///
    /// # Errors
    /// Fails if the device cannot start; the transport then sets DEVICE_NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// Returns to the power-on state: waits for requests in flight, stops using the queues, and forgets what
    /// was written to config space. Blocks the calling thread (a vCPU) meanwhile.
    ///
    /// A driver may call it at any rate and in any state, so a device that is not active must do it at no
    /// cost for other threads.
    fn reset(&mut self);
    /// Stops taking requests from the queues (the VM is stopped). The reply comes when none is in flight or
    /// being delivered. Requests that the driver adds stay in the ring.
    fn pause(&mut self) -> Reply<()>;
    /// Takes requests again, including those that came while paused.
    fn resume(&mut self);
}
