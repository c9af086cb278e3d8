//! Requests of a guest to a virtio keyboard and tablet, and what somebody types and points meanwhile.

use std::sync::Arc;

use executor::{Executor, remote};
use virtio::driver::{Driver, Interrupts, activation};
use virtio::{Device, VirtioDevice};
use virtio_input::{Axis, Feed, VirtioInput};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chains::{STEP, offer, pause, settle, step};

/// Guest memory, in bytes. Its lower half holds the rings, the upper half the buffers.
const MEMORY: usize = 1 << 20;
const HEAP: u64 = MEMORY as u64 / 2;
const RING: u16 = 8;

/// Performs the steps of the input on a keyboard or a tablet.
pub fn input(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move {
        let feed = Arc::new(Feed::new().expect("an eventfd"));
        // The first byte selects the device, and the features that the driver accepts.
        let first = input.first().copied().unwrap_or_default();
        let model = match first & 2 {
            0 => VirtioInput::keyboard(feed.clone()),
            _ => VirtioInput::tablet(feed.clone()),
        };
        let mut device = VirtioDevice::new(remote(), model);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let memory = Arc::new(memory);
        let interrupts = Arc::<Interrupts>::default();
        let sizes = device.queue_sizes();
        interrupts.clear_used(sizes.len());
        let driver = |n: u64| {
            Driver::new(memory.clone(), (n + 1) * 0x1_0000, HEAP + n * (MEMORY as u64 / 4), RING, true)
        };
        let mut drivers: Vec<_> = (0..sizes.len() as u64).map(driver).collect();
        let without = u64::from(first & 1) << 29;
        let activation = activation(&drivers, sizes[0], device.features() & !without, &interrupts);
        device.activate(activation).expect("good rings");
        for step in input.get(1..).unwrap_or_default().chunks_exact(STEP) {
            do_step(step, &mut device, &mut drivers, &feed).await;
            if !settle(&mut drivers, &interrupts).await {
                break;
            }
        }
        pause(&mut device).await;
    });
}

async fn do_step(step: &[u8], device: &mut dyn Device, drivers: &mut [Driver], feed: &Feed) {
    let &[kind, a, b, c, d, e, f, g] = step else { return };
    let (one, two) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    let queue = usize::from(e) % drivers.len();
    match kind % 8 {
        0 => _ = feed.key(one, f & 1 != 0),
        1 => _ = (0..two).filter(|n| feed.key(one.wrapping_add(*n), n & 1 != 0)).count(),
        2 => _ = (0..two).filter(|n| feed.point(one.into(), (*n).into())).count(),
        3 => _ = feed.wheel(if f & 1 == 0 { Axis::Vertical } else { Axis::Horizontal }, one.into()),
        4 => {
            device.write_config(one.into(), &[e, f, g]);
            let mut data = vec![0; usize::from(two % 512)];
            device.read_config(one.into(), &mut data);
        }
        5 => {
            pause(device).await;
            if g & 1 == 0 {
                device.resume();
            }
        }
        // Offers many small buffers, or few.
        6 => {
            let len = usize::from(one % 64);
            (0..=g % RING as u8).for_each(|_| offer(&mut drivers[queue], &[(len, f & 1 != 0)]));
        }
        // Offers any chain to any queue.
        _ => offer(&mut drivers[queue], &[(one.into(), f & 1 != 0), (two.into(), f & 2 != 0)]),
    }
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let steps = |first: u8| {
        [
            vec![first],
            // The description.
            step(4, 0, 136, [1, 0, 0]),
            step(4, 0, 136, [0x11, 1, 0]),
            // Buffers for events, then events, then more than there is room for.
            step(6, 8, 0, [0, 1, 7]),
            step(0, 30, 0, [0, 1, 0]),
            step(0, 30, 0, [0, 0, 0]),
            step(2, 100, 3, [0; 3]),
            step(3, 1, 0, [0; 3]),
            step(1, 1, 2000, [0; 3]),
            step(2, 7, 5000, [0; 3]),
            step(5, 0, 0, [0; 3]),
            step(6, 8, 0, [0, 1, 7]),
            // Status, and chains with the wrong direction.
            step(6, 8, 0, [1, 0, 3]),
            step(7, 8, 8, [0, 3, 0]),
            step(7, 10, 10, [1, 3, 0]),
        ]
    };
    (0..4).map(|first| steps(first).concat()).collect()
}

/// The memory for the events that wait.
pub(crate) fn memory(input: usize) -> usize {
    (2 << 20) + 16 * input
}
