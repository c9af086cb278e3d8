//! What the doors of virtio devices have in common: steps, and chains of any shape.

use executor::yield_now;
use virtio::Device;
use virtio::driver::{Driver, Interrupts, Piece};

/// Bytes of a step: what it is, two lengths of two bytes, and three more.
pub(crate) const STEP: usize = 8;

/// Turns of the executor in which all is done that can be done.
const TURNS: usize = 12;

/// A step.
pub(crate) fn step(kind: u8, one: u16, two: u16, rest: [u8; 3]) -> Vec<u8> {
    [&[kind][..], &one.to_le_bytes(), &two.to_le_bytes(), &rest].concat()
}

/// Has a device do what it can, and takes back what is used. Whether it goes on: it may want a reset.
pub(crate) async fn settle(drivers: &mut [Driver], interrupts: &Interrupts) -> bool {
    for _ in 0..TURNS {
        yield_now().await;
    }
    for driver in drivers {
        while driver.pop_used().is_some() {}
    }
    interrupts.counts().needs_reset == 0
}

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
