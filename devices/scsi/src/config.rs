//! The device as the driver sees it before the first request: features and config space (virtio 1.2, 5.6.3,
//! 5.6.4).

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_bindings::virtio_scsi::{
    VIRTIO_SCSI_CDB_DEFAULT_SIZE, VIRTIO_SCSI_SENSE_DEFAULT_SIZE, virtio_scsi_config, virtio_scsi_event,
};

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

const SENSE_SIZE: u64 = offset_of!(virtio_scsi_config, sense_size) as u64;
const CDB_SIZE: u64 = offset_of!(virtio_scsi_config, cdb_size) as u64;

/// The features offered.
pub(crate) const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The config space, which fixes the layout of requests.
pub(crate) struct Config {
    sense_size: AtomicU32,
    cdb_size: AtomicU32,
}

impl Config {
    pub(crate) fn new() -> Self {
        let (sense_size, cdb_size) = (AtomicU32::new(0), AtomicU32::new(0));
        let config = Config { sense_size, cdb_size };
        config.reset();
        config
    }

    /// Sets the sizes to the defaults that a driver finds.
    pub(crate) fn reset(&self) {
        self.sense_size.store(VIRTIO_SCSI_SENSE_DEFAULT_SIZE, Ordering::Release);
        self.cdb_size.store(VIRTIO_SCSI_CDB_DEFAULT_SIZE, Ordering::Release);
    }

    /// Returns the number of bytes of sense data in every response.
    pub(crate) fn sense_size(&self) -> usize {
        self.sense_size.load(Ordering::Acquire) as usize
    }

    /// Returns the number of bytes of the CDB in every request, at most 255.
    pub(crate) fn cdb_size(&self) -> usize {
        self.cdb_size.load(Ordering::Acquire) as usize
    }

    /// Copies config space from `offset`. Bytes outside read as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; size_of::<virtio_scsi_config>()];
        let mut put = |at: usize, value: u32| space[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(offset_of!(virtio_scsi_config, num_queues), QUEUES as u32 - 2);
        // Request and response take one descriptor each.
        put(offset_of!(virtio_scsi_config, seg_max), u32::from(QUEUE_SIZE) - 2);
        put(offset_of!(virtio_scsi_config, max_sectors), SECTORS);
        put(offset_of!(virtio_scsi_config, cmd_per_lun), COMMANDS);
        put(offset_of!(virtio_scsi_config, event_info_size), size_of::<virtio_scsi_event>() as u32);
        put(SENSE_SIZE as usize, self.sense_size() as u32);
        put(CDB_SIZE as usize, self.cdb_size() as u32);
        // One channel, one target, one logical unit: the highest of each is 0.
        let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or(&[]);
        let n = rest.len().min(data.len());
        data[..n].copy_from_slice(&rest[..n]);
        data[n..].fill(0);
    }

    /// Sets the size of sense data or of CDBs. Other writes of the driver are ignored.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(value);
        match offset {
            SENSE_SIZE if value <= MOST_SENSE => self.sense_size.store(value, Ordering::Release),
            CDB_SIZE if value <= MOST_CDB => self.cdb_size.store(value, Ordering::Release),
            _ => {}
        }
    }
}
