//! What the doors of small devices have in common: chains of any shape.

use virtio_device::Device;
use virtqueue::driver::{Driver, Piece};

/// Offers a chain of pieces of these lengths, where there are descriptors for it.
pub(crate) fn offer(driver: &mut Driver, pieces: &[(usize, bool)]) {
    if driver.free_descriptors() < pieces.len() {
        return;
    }
    // Each chain may use the same memory.
    let mut address = driver.heap;
    let pieces: Vec<_> = pieces
        .iter()
        .filter(|(len, _)| *len > 0)
        .map(|(len, write)| {
            let piece = Piece { address, len: *len as u32, write: *write };
            address += *len as u64;
            piece
        })
        .collect();
    if !pieces.is_empty() {
        driver.add(&pieces, false);
        driver.publish();
    }
}

/// Stops a device, which ends only when nothing is in flight, whatever the other side does.
pub(crate) async fn pause(device: &mut dyn Device) {
    assert!(device.pause().await.is_ok(), "the device's task ended by itself");
}
