//! The device as the driver sees it before the first frame: features and config space (virtio 1.2, 5.1.3,
//! 5.1.4).

use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS};
use zerocopy::little_endian::U16;
use zerocopy::{Immutable, IntoBytes};

/// Maximum size of each queue, in descriptors.
pub const QUEUE_SIZE: u16 = 256;

/// Number of queues: one to the guest, one from it.
pub(crate) const QUEUES: usize = 2;

/// The features offered. A driver with MRG_RXBUF also gets frames that are longer than one of its buffers.
pub(crate) const FEATURES: u64 =
    1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// `struct virtio_net_config`, up to the last field of a feature that is offered.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    pub(crate) mac: [u8; 6],
    /// VIRTIO_NET_S_LINK_UP or 0.
    pub(crate) status: U16,
}
