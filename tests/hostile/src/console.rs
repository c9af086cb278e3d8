//! Input of a guest and of the line's other end to the virtio console between them, and requests of a
//! guest to a virtio entropy device.

use std::sync::Arc;

use executor::{Executor, remote};
use virtio::driver::{Driver, Interrupts, activation};
use virtio::{Device, VirtioDevice};
use virtio_console::{KEPT_MAX, Line, VirtioConsole};
use virtio_rng::VirtioRng;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chains::{STEP, offer, pause, settle, step};

/// Guest memory, in bytes. Its lower half holds the rings, the upper half the buffers.
const MEMORY: usize = 1 << 20;
const HEAP: u64 = MEMORY as u64 / 2;
const RING: u16 = 8;

/// Performs the steps of the input on a console.
pub fn console(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move {
        let line = Arc::new(Line::new().expect("eventfds"));
        let mut device = VirtioDevice::new(remote(), VirtioConsole::new(line.clone()));
        run(&mut device, Some(&line), &input).await;
    });
}

/// Performs the steps of the input on an entropy device.
pub fn rng(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move { run(&mut VirtioDevice::new(remote(), VirtioRng), None, &input).await });
}

async fn run(device: &mut dyn Device, line: Option<&Line>, input: &[u8]) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let memory = Arc::new(memory);
    let interrupts = Arc::<Interrupts>::default();
    let sizes = device.queue_sizes();
    interrupts.clear_used(sizes.len());
    let driver =
        |n: u64| Driver::new(memory.clone(), (n + 1) * 0x1_0000, HEAP + n * (MEMORY as u64 / 4), RING, true);
    let mut drivers: Vec<_> = (0..sizes.len() as u64).map(driver).collect();
    // The first byte selects the features that the driver accepts.
    let without = u64::from(input.first().copied().unwrap_or_default() & 1) << 29;
    let activation = activation(&drivers, sizes[0], device.features() & !without, &interrupts);
    device.activate(activation).expect("good rings");
    for step in input.get(1..).unwrap_or_default().chunks_exact(STEP) {
        do_step(step, device, &mut drivers, line).await;
        if !settle(&mut drivers, &interrupts).await {
            break;
        }
    }
    pause(device).await;
}

async fn do_step(step: &[u8], device: &mut dyn Device, drivers: &mut [Driver], line: Option<&Line>) {
    let &[kind, a, b, c, d, e, f, g] = step else { return };
    let (one, two) = (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
    let queue = usize::from(e) % drivers.len();
    match (kind % 6, line) {
        (0, Some(line)) => {
            let taken = line.take_output(one);
            assert!(taken.len() <= one.min(KEPT_MAX), "{} bytes of {one}", taken.len());
            line.return_output(&taken[..taken.len().min(two)]);
        }
        (1, Some(line)) => assert!(line.offer_input(&vec![e; one]) <= one),
        (2, _) => {
            pause(device).await;
            if g & 1 == 0 {
                device.resume();
            }
        }
        (3, _) => device.resume(),
        // Offers many small buffers, or few.
        (4, _) => (0..=g % RING as u8).for_each(|_| offer(&mut drivers[queue], &[(one % 64, f & 1 != 0)])),
        // Offers any chain to any queue.
        _ => offer(&mut drivers[queue], &[(one, f & 1 != 0), (two, f & 2 != 0)]),
    }
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let steps = |features: u8| {
        [
            vec![features],
            // Buffers for input, with more input than they hold, and with less.
            step(4, 32, 0, [0, 1, 3]),
            step(1, 200, 0, [7, 0, 0]),
            step(5, 100, 2000, [0, 3, 0]),
            step(1, 60_000, 0, [9, 0, 0]),
            step(2, 0, 0, [0, 0, 0]),
            // Output in one piece and in two, until the line takes no more.
            step(5, 100, 1000, [1, 0, 0]),
            step(0, 500, 100, [0; 3]),
            step(5, 60_000, 60_000, [1, 0, 0]),
            step(5, 60_000, 60_000, [1, 0, 0]),
            step(5, 60_000, 60_000, [1, 0, 0]),
            step(0, 60_000, 0, [0; 3]),
            step(2, 0, 0, [0, 0, 1]),
            step(4, 8, 0, [1, 0, 7]),
            step(3, 0, 0, [0; 3]),
            // Chains with the wrong direction.
            step(5, 10, 10, [0, 0, 0]),
            step(5, 10, 10, [1, 3, 0]),
        ]
    };
    vec![steps(0).concat(), steps(1).concat()]
}

/// The memory for the data in the line, and for the data taken from it.
pub(crate) fn memory(input: usize) -> usize {
    (2 << 20) + 16 * input
}
