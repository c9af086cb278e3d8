//! The device as the driver sees it before the first frame: features and config space (virtio 1.2, 5.1.3,
//! 5.1.4).

use std::mem::offset_of;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP, virtio_net_config,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::mac::Mac;

/// Maximum size of each queue, in descriptors.
pub const QUEUE_SIZE: u16 = 256;

/// Number of queues: one to the guest, one from it.
pub(crate) const QUEUES: usize = 2;

/// The features offered. A driver with MRG_RXBUF also gets frames that are longer than one of its buffers.
pub(crate) const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_STATUS
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Copies config space from `offset`. Bytes outside read as zero.
pub(crate) fn read(mac: Mac, link_is_up: bool, offset: u64, data: &mut [u8]) {
    let mut space = [0; size_of::<virtio_net_config>()];
    space[..6].copy_from_slice(&mac.bytes());
    let status = if link_is_up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
    let at = offset_of!(virtio_net_config, status);
    space[at..at + 2].copy_from_slice(&status.to_le_bytes());
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or(&[]);
    let n = rest.len().min(data.len());
    data[..n].copy_from_slice(&rest[..n]);
    data[n..].fill(0);
}
