//! The device as the driver sees it before the first request: its config space (virtio 1.2, 5.6.4).

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_scsi::{VIRTIO_SCSI_CDB_DEFAULT_SIZE, VIRTIO_SCSI_SENSE_DEFAULT_SIZE};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::request::EventInfo;

/// Maximum size of each queue, in descriptors; also the maximum number of descriptors of one request.
pub const QUEUE_SIZE: u16 = 128;

/// Number of queues: control, event, and one for requests.
pub(crate) const QUEUES: usize = 3;

/// Maximum number of commands that a driver should have in flight.
const COMMANDS: u32 = 32;

/// Maximum size of one command that a driver should send, in 512-byte sectors: 1 MiB.
const SECTORS: u32 = 2048;

/// Maximum sizes that a driver may set. Larger ones would only be a way to use up memory.
const MOST_CDB: u32 = 255;
const MOST_SENSE: u32 = 65_535;

const SENSE_SIZE: u64 = offset_of!(Config, sense_size) as u64;
const CDB_SIZE: u64 = offset_of!(Config, cdb_size) as u64;

/// `struct virtio_scsi_config`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    num_queues: U32,
    seg_max: U32,
    max_sectors: U32,
    cmd_per_lun: U32,
    event_info_size: U32,
    sense_size: U32,
    cdb_size: U32,
    max_channel: U16,
    max_target: U16,
    max_lun: U32,
}

impl Config {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        Config {
            num_queues: (QUEUES as u32 - 2).into(),
            // Request and response take one descriptor each.
            seg_max: (u32::from(QUEUE_SIZE) - 2).into(),
            max_sectors: SECTORS.into(),
            cmd_per_lun: COMMANDS.into(),
            event_info_size: (size_of::<EventInfo>() as u32).into(),
            sense_size: (sizes.sense() as u32).into(),
            cdb_size: (sizes.cdb() as u32).into(),
            // One channel, one target, one logical unit: the highest of each is 0.
            ..FromZeros::new_zeroed()
        }
    }
}

/// The sizes that the driver may set, which fix the layout of requests.
pub(crate) struct Sizes {
    sense: AtomicU32,
    cdb: AtomicU32,
}

impl Default for Sizes {
    fn default() -> Self {
        let sizes = Sizes { sense: AtomicU32::new(0), cdb: AtomicU32::new(0) };
        sizes.reset();
        sizes
    }
}

impl Sizes {
    /// Sets the sizes to the defaults that a driver finds.
    pub(crate) fn reset(&self) {
        self.sense.store(VIRTIO_SCSI_SENSE_DEFAULT_SIZE, Ordering::Release);
        self.cdb.store(VIRTIO_SCSI_CDB_DEFAULT_SIZE, Ordering::Release);
    }

    /// Returns the number of bytes of sense data in every response.
    pub(crate) fn sense(&self) -> usize {
        self.sense.load(Ordering::Acquire) as usize
    }

    /// Returns the number of bytes of the CDB in every request, at most 255.
    pub(crate) fn cdb(&self) -> usize {
        self.cdb.load(Ordering::Acquire) as usize
    }

    /// Sets the size of sense data or of CDBs. Other writes of the driver are ignored.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(value);
        match offset {
            SENSE_SIZE if value <= MOST_SENSE => self.sense.store(value, Ordering::Release),
            CDB_SIZE if value <= MOST_CDB => self.cdb.store(value, Ordering::Release),
            _ => {}
        }
    }
}
