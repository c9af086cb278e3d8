//! The device as the driver sees it before the first request: features and config space (virtio 1.2, 5.2.3,
//! 5.2.4).

use std::mem::offset_of;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use executor::lock;
#[cfg(doc)]
use virtio::Interrupt;
use virtio::Negotiated;
use virtio_bindings::virtio_blk::*;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

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
    driver: Mutex<Driver>,
}

/// The choices of the driver.
#[derive(Default)]
struct Driver {
    /// Present while the device is active.
    negotiated: Option<Negotiated>,
    /// The value that it wrote to `writeback`, if any.
    writeback: Option<bool>,
}

/// `struct virtio_blk_config`, up to the last field of a feature that is offered.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct ConfigSpace {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

impl Config {
    pub(crate) fn new(options: Options) -> Self {
        Config {
            capacity: Mutex::new(Capacity { sectors: options.size / SECTOR, generation: 0 }),
            writeback: AtomicBool::new(true),
            driver: Mutex::default(),
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
        let driver = lock(&self.driver).negotiated.clone();
        if let Some(driver) = driver {
            driver.interrupt.config_changed();
        }
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

    fn set_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::Release);
    }

    /// Sets the cache mode for a driver that sets DRIVER_OK.
    pub(crate) fn activate(&self, negotiated: &Negotiated) {
        let mut driver = lock(&self.driver);
        driver.negotiated = Some(negotiated.clone());
        self.apply_cache_mode(&driver);
    }

    /// Returns to power-on.
    pub(crate) fn deactivate(&self) {
        *lock(&self.driver) = Driver::default();
        self.set_writeback(true);
    }

    /// Writes config space, of which only `writeback` may be written.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Some(value) = WRITEBACK.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?))
        else {
            return;
        };
        let mut driver = lock(&self.driver);
        driver.writeback = Some(*value != 0);
        self.apply_cache_mode(&driver);
    }

    /// Sets the cache mode (virtio 1.2, 5.2.5.2 and 5.2.6.2). Without CONFIG_WCE, or if `writeback` was not
    /// written, a driver that never flushes gets write-through. Before DRIVER_OK, what was written is shown;
    /// negotiation decides later if the driver may write it.
    fn apply_cache_mode(&self, driver: &Driver) {
        let written = driver.writeback;
        let writeback = match &driver.negotiated {
            None => written.unwrap_or(true),
            Some(accepted) => {
                let written = written.filter(|_| accepted.has(VIRTIO_BLK_F_CONFIG_WCE));
                written.unwrap_or(accepted.has(VIRTIO_BLK_F_FLUSH))
            }
        };
        self.set_writeback(writeback);
    }

    /// Returns the features offered.
    pub(crate) fn features(&self) -> u64 {
        let mut bits =
            vec![VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE];
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

    /// Returns the content of the config space.
    pub(crate) fn space(&self) -> ConfigSpace {
        let mut space = ConfigSpace {
            capacity: lock(&self.capacity).sectors.into(),
            // Header and status take one descriptor each.
            seg_max: (u32::from(QUEUE_SIZE) - 2).into(),
            blk_size: (SECTOR as u32).into(),
            writeback: self.writeback().into(),
            num_queues: self.queues().into(),
            ..FromZeros::new_zeroed()
        };
        if !self.read_only() {
            space.max_discard_sectors = MAX_ZEROES_SECTORS.into();
            space.max_discard_seg = MAX_ZEROES_SEGMENTS.into();
            space.discard_sector_alignment = DISCARD_ALIGNMENT.into();
            space.max_write_zeroes_sectors = MAX_ZEROES_SECTORS.into();
            space.max_write_zeroes_seg = MAX_ZEROES_SEGMENTS.into();
            space.write_zeroes_may_unmap = 1;
        }
        space
    }
}

/// Offset of `writeback`, the one field that a driver may write.
const WRITEBACK: u64 = offset_of!(ConfigSpace, writeback) as u64;

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
