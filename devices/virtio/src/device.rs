//! What a virtio transport and a virtio device agree on: features, queues, config space, interrupts
//! and reset. A transport (virtio-mmio in `vmm`) owns the registers and knows no device; a device
//! (`virtio-blk`) owns its queues while it is active and knows no transport.

use std::io;
use std::sync::Arc;

use executor::Reply;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// A virtqueue as the driver has set it up.
pub struct ReadyQueue {
    /// Its number.
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
    /// How the device reaches the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// How a device reaches its driver. Any thread may call it.
pub trait Interrupt: Send + Sync {
    /// Says that queue `index` has used buffers (virtio 1.2, 2.3).
    fn used(&self, index: u16);
    /// Says that the config space has changed, once it has.
    fn config_changed(&self);
    /// Sets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.1): a ring or a descriptor chain was malformed. The
    /// device stops to process queues until it is reset.
    fn needs_reset(&self);
}

/// A virtio device as its transport sees it. Called from vCPU threads and the main loop, one at a time.
pub trait Device: Send {
    /// The device ID (virtio 1.2, 5): 2 for a block device.
    fn id(&self) -> u32;
    /// The feature bits of the device offered, VIRTIO_F_VERSION_1 and ring features included.
    fn features(&self) -> u64;
    /// The largest size of each queue, which fixes their number.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Copies config space from `offset`; what lies outside of it reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The generation of the config space (virtio 1.2, 2.5.3): another one as soon as a read shows something
    /// else that the driver has not written itself, and not sooner. Between two equal ones a driver has seen
    /// one content, however many reads that took.
    fn config_generation(&self) -> u32 {
        0
    }
    /// Writes config space; what is not writable is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// Starts to process queues. Called at DRIVER_OK, at most once between resets.
    ///
    /// # Errors
    /// Where the device cannot start; the transport sets DEVICE_NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// Returns to the state of power-on: awaits requests in flight and stops to use the queues.
    /// Blocks the calling thread (a vCPU) until that is so; a no-op when not active.
    fn reset(&mut self);
    /// Stops taking requests from the queues (the VM is stopped) and answers when none is in flight
    /// or being delivered. Requests that the driver adds stay in the ring.
    fn pause(&mut self) -> Reply<()>;
    /// Takes requests again, those included that came while paused.
    fn resume(&mut self);
}
