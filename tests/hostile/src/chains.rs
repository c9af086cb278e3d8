//! Code shared by the entry points of virtio devices: steps, and chains of any shape.

use executor::yield_now;
use virtio::Device;
use virtio::driver::{Driver, Interrupts, Piece};

/// Length of a step, in bytes: its kind, two lengths of two bytes each, and three more bytes.
pub(crate) const STEP: usize = 8;

/// The turns of the executor after which everything is done that can be done.
const TURNS: usize = 12;

/// Encodes a step.
pub(crate) fn step(kind: u8, one: u16, two: u16, rest: [u8; 3]) -> Vec<u8> {
    [&[kind][..], &one.to_le_bytes(), &two.to_le_bytes(), &rest].concat()
}

/// Lets a device work, and reclaims the used chains. Returns false if the device asked for a reset.
pub(crate) async fn settle(drivers: &mut [Driver], interrupts: &Interrupts) -> bool {
    for _ in 0..TURNS {
        yield_now().await;
    }
    for driver in drivers {
        while driver.pop_used().is_some() {}
    }
    interrupts.counts().needs_reset == 0
}

/// Offers a chain of pieces of these lengths, if there are descriptors for it.
pub(crate) fn offer(driver: &mut Driver, pieces: &[(usize, bool)]) {
    if driver.free_descriptors() < pieces.len() {
        return;
    }
    // All chains use the same memory.
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

/// Stops a device. Returns when nothing is in flight, whatever the other side does.
pub(crate) async fn pause(device: &mut dyn Device) {
    assert!(device.pause().await.is_ok(), "the device's task ended by itself");
}
