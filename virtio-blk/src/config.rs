//! The device as the driver sees it before the first request: features and config space (virtio 1.2, 5.2.3,
//! 5.2.4).

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio::Interrupt;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::policy::ErrorPolicy;

/// Maximum size of each queue, in descriptors; also the maximum number of descriptors of one request.
pub const QUEUE_SIZE: u16 = 256;

/// Size of a sector in bytes, whatever the block size is (virtio 1.2, 5.2.4).
pub(crate) const SECTOR: u64 = 512;

/// Maximum number of sectors in one segment of a discard or write-zeroes request: 128 MiB. The request is
/// done in pieces, so a drain does not wait for all of it.
pub(crate) const MAX_ZEROES_SECTORS: u32 = (128 << 20) / SECTOR as u32;

/// Maximum number of segments in one discard or write-zeroes request.
pub(crate) const MAX_ZEROES_SEGMENTS: u32 = 16;

/// The best alignment of discards, in sectors: 4 KiB.
const DISCARD_ALIGNMENT: u32 = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The properties of a device that are fixed when it is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the disk in bytes. What exceeds a multiple of 512 is not offered.
    pub size: u64,
    /// True to offer VIRTIO_BLK_F_RO and refuse writes, even if the disk would accept them.
    pub read_only: bool,
    /// The reply to VIRTIO_BLK_T_GET_ID, cut to 20 bytes.
    pub serial: String,
    /// Number of queues; 0 counts as 1. VIRTIO_BLK_F_MQ is offered for more than one.
    pub queues: u16,
    /// The reactions to errors of the disk.
    pub errors: ErrorPolicy,
}

/// The only field that changes by itself, and the number of its changes. They are read together.
#[derive(Clone, Copy)]
struct Capacity {
    sectors: u64,
    generation: u32,
}

/// The device's config space and other state that its threads share. The transport reads it without asking
/// the disk's thread. Whoever changes the disk's size must call [`Config::capacity_changed`].
pub struct Config {
    options: Options,
    capacity: Mutex<Capacity>,
    /// True if completed writes may be volatile until a flush.
    writeback: AtomicBool,
    /// Present while the device is active.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Config {
    pub(crate) fn new(options: Options) -> Self {
        Config {
            capacity: Mutex::new(Capacity { sectors: options.size / SECTOR, generation: 0 }),
            writeback: AtomicBool::new(true),
            interrupt: Mutex::default(),
            options,
        }
    }

    /// Sets the disk's size to `size` bytes: changes the capacity and raises a config change interrupt
    /// (virtio 1.2, 5.2.6.2), even if the size is the same. Any thread may call it, but not while it holds a
    /// lock that [`Interrupt::config_changed`] takes.
    pub fn capacity_changed(&self, size: u64) {
        {
            let mut capacity = lock(&self.capacity);
            capacity.sectors = size / SECTOR;
            capacity.generation = capacity.generation.wrapping_add(1);
        }
        let interrupt = self.interrupt().clone();
        if let Some(interrupt) = interrupt {
            interrupt.config_changed();
        }
    }

    pub(crate) fn interrupt(&self) -> MutexGuard<'_, Option<Arc<dyn Interrupt>>> {
        lock(&self.interrupt)
    }

    /// Returns the generation, as in [`virtio::Device::config_generation`].
    pub(crate) fn generation(&self) -> u32 {
        lock(&self.capacity).generation
    }

    pub(crate) fn read_only(&self) -> bool {
        self.options.read_only
    }

    pub(crate) fn errors(&self) -> &ErrorPolicy {
        &self.options.errors
    }

    pub(crate) fn queues(&self) -> u16 {
        self.options.queues.max(1)
    }

    pub(crate) fn serial(&self) -> &[u8] {
        let serial = self.options.serial.as_bytes();
        &serial[..serial.len().min(VIRTIO_BLK_ID_BYTES as usize)]
    }

    pub(crate) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Acquire)
    }

    pub(crate) fn set_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::Release);
    }

    /// Returns the features offered.
    pub(crate) fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_CONFIG_WCE,
        ];
        if self.queues() > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        if self.read_only() {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        bits.into_iter().fold(0, |features, bit| features | 1 << bit)
    }

    /// Copies config space from `offset`. Bytes outside read as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; size_of::<virtio_blk_config>()];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(virtio_blk_config, capacity), &lock(&self.capacity).sectors.to_le_bytes());
        // Header and status take one descriptor each.
        put(offset_of!(virtio_blk_config, seg_max), &(u32::from(QUEUE_SIZE) - 2).to_le_bytes());
        put(offset_of!(virtio_blk_config, blk_size), &(SECTOR as u32).to_le_bytes());
        put(WRITEBACK as usize, &[self.writeback().into()]);
        put(offset_of!(virtio_blk_config, num_queues), &self.queues().to_le_bytes());
        if !self.read_only() {
            let sectors = MAX_ZEROES_SECTORS.to_le_bytes();
            let segments = MAX_ZEROES_SEGMENTS.to_le_bytes();
            put(offset_of!(virtio_blk_config, max_discard_sectors), &sectors);
            put(offset_of!(virtio_blk_config, max_discard_seg), &segments);
            put(offset_of!(virtio_blk_config, discard_sector_alignment), &DISCARD_ALIGNMENT.to_le_bytes());
            put(offset_of!(virtio_blk_config, max_write_zeroes_sectors), &sectors);
            put(offset_of!(virtio_blk_config, max_write_zeroes_seg), &segments);
            put(offset_of!(virtio_blk_config, write_zeroes_may_unmap), &[1]);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or(&[]);
        let n = rest.len().min(data.len());
        data[..n].copy_from_slice(&rest[..n]);
        data[n..].fill(0);
    }
}

/// Offset of `writeback`, the one field that a driver may write.
pub(crate) const WRITEBACK: u64 = offset_of!(virtio_blk_config, wce) as u64;

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
