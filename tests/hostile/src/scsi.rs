//! Requests of a guest to a virtio SCSI host, while a monitor acts on its drive.

use std::rc::Rc;
use std::sync::Arc;

use block::sim::SimDir;
use block::tray::Medium;
use block::{Disk, Kind, chain};
use executor::Executor;
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_scsi::{QUEUE_SIZE, VirtioScsi};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chains::{pause, settle};

/// Length of a step, in bytes: its kind, the room for a response (two bytes), a byte of the target, a
/// tag, and a CDB.
const STEP: usize = 21;

/// The number of queues: control, event and request.
const QUEUES: usize = 3;
const CONTROL: usize = 0;
const REQUEST: usize = 2;

/// Guest memory, in bytes. Its lower half holds the rings, the upper half the requests.
const MEMORY: usize = 1 << 20;
const HEAP: u64 = MEMORY as u64 / 2;
const RING: u16 = 16;

/// Length of a response with sense data, in bytes (virtio 1.2, 5.6.6.1).
const RESPONSE: usize = 12 + 96;

/// Performs the steps of the input: requests, and actions on the tray.
pub fn scsi(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move { run(&input).await });
}

async fn run(input: &[u8]) {
    let files = SimDir::new();
    files.add("one", (0..70_000_u32).map(|at| at as u8).collect());
    files.add("two", vec![7; 5000]);
    let Ok(leaf) = chain::open(&*files, "one", Kind::Raw, false).await else { return };
    let Ok(disk) = Disk::removable("cd0", Some(leaf), files, |_| {}).await else { return };
    let mut device = VirtioScsi::device(disk.handle(), "cd0");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let memory = Arc::new(memory);
    let interrupts = Arc::<Interrupts>::default();
    interrupts.clear_used(QUEUES);
    let mut drivers: Vec<_> =
        (1..=QUEUES as u64).map(|n| Driver::new(memory.clone(), n * 0x1_0000, HEAP, RING, true)).collect();
    let activation = activation(&drivers, QUEUE_SIZE, device.features(), &interrupts);
    device.activate(activation).expect("good rings");
    for step in input.chunks_exact(STEP) {
        do_step(step, &mut device, &disk, &mut drivers).await;
        if !settle(&mut drivers, &interrupts).await {
            break;
        }
    }
    // Requests that were published without a kick must not be left over.
    drivers[REQUEST].kick.write(1).expect("an eventfd");
    settle(&mut drivers, &interrupts).await;
    pause(&mut device).await;
    for driver in &mut drivers {
        while driver.pop_used().is_some() {}
    }
    let in_flight = usize::from(RING) - drivers[REQUEST].free_descriptors();
    assert!(in_flight == 0 || interrupts.counts().needs_reset > 0, "requests without an answer");
}

async fn do_step(
    step: &[u8],
    device: &mut VirtioDevice<VirtioScsi<block::Disk>>,
    disk: &Rc<Disk>,
    drivers: &mut [Driver],
) {
    let (&[kind, low, high, target, tag], cdb) = step.split_first_chunk().expect("a whole step");
    let room = usize::from(u16::from_le_bytes([low, high]));
    let lun = [1, target, 0x40, 0, 0, 0, 0, 0];
    match kind % 8 {
        // A monitor's command. Its errors do not matter here.
        5 => {
            let (force, notify) = (cdb[1] & 1 != 0, cdb[1] & 2 != 0);
            let name = if cdb[1] & 4 != 0 { "one" } else { "two" }.to_owned();
            let _ = match cdb[0] % 5 {
                0 => disk.open_tray(force),
                1 => disk.close_tray(),
                2 => disk.remove_medium().await,
                _ => disk.change_medium(&Medium { name, format: Some(Kind::Raw) }, force, notify).await,
            };
        }
        // Task management, or a subscription to events.
        6 => {
            let kind = u32::from(tag % 4).to_le_bytes();
            let body = match tag % 4 {
                0 => [&kind[..], &u32::from(cdb[0] % 10).to_le_bytes(), &lun, &[tag, 0, 0, 0, 0, 0, 0, 0]]
                    .concat(),
                _ => [&kind[..], &lun, &cdb[..4]].concat(),
            };
            send(&mut drivers[CONTROL], &body, 5, true);
        }
        // Sends any bytes to any queue, or writes them to the config space.
        7 if tag & 0x80 != 0 => device.write_config(tag.into(), &cdb[..4]),
        7 => send(&mut drivers[usize::from(target) % QUEUES], cdb, room, true),
        _ => {
            let mut request = [&lun[..], &[tag], &[0; 10], cdb].concat();
            request.resize(19 + 32, 0);
            // Some requests are published without a kick; the device finds them at the next one.
            send(&mut drivers[REQUEST], &request, RESPONSE + room, kind % 8 != 4);
        }
    }
}

/// Offers a chain with the bytes `out` and room for `into` bytes, if there are descriptors for it.
fn send(driver: &mut Driver, out: &[u8], into: usize, kick: bool) {
    if driver.free_descriptors() < 2 {
        return;
    }
    // All steps use the same memory.
    driver.heap = HEAP;
    let from = driver.alloc(out);
    let pieces = [(from, out.len(), false), (from + out.len() as u64, into, true)];
    let pieces: Vec<_> = pieces
        .into_iter()
        .filter(|(_, len, _)| *len > 0)
        .map(|(address, len, write)| Piece { address, len: len as u32, write })
        .collect();
    driver.add(&pieces, false);
    match kick {
        true => drop(driver.publish()),
        false => driver.set_avail_index(driver.next_avail),
    }
}

/// A step that sends a command.
fn command(cdb: &[u8], room: u16) -> Vec<u8> {
    let [low, high] = room.to_le_bytes();
    let mut step = [&[0, low, high, 0, 1], cdb].concat();
    step.resize(STEP, 0);
    step
}

/// A step of another kind.
fn other(head: [u8; 5], body: &[u8]) -> Vec<u8> {
    let mut step = [&head[..], body].concat();
    step.resize(STEP, 0);
    step
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let probe = [
        command(&[0x12, 0, 0, 0, 36], 36),
        command(&[0x12, 1, 0x83, 0, 255], 255),
        command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 256),
        command(&[0x03, 0, 0, 0, 18], 18),
        command(&[0x00], 0),
        command(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 128], 128),
        command(&[0x1a, 0, 0x2a, 0, 128], 128),
        command(&[0x46, 0, 0, 0, 0, 0, 0, 1, 0], 256),
        command(&[0x51, 0, 0, 0, 0, 0, 0, 0, 34], 34),
    ];
    let read = [
        command(&[0x00], 0),
        command(&[0x25], 8),
        command(&[0x43, 2, 0, 0, 0, 0, 0, 1, 0], 256),
        command(&[0x08, 0, 0, 3, 1], 2048),
        command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 4], 8192),
        command(&[0xa8, 0, 0, 0, 0, 2, 0, 0, 0, 1], 2048),
        command(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2], 4096),
        command(&[0x28, 0, 0, 0, 0, 40, 0, 0, 1], 2048),
    ];
    let unseen = [
        command(&[0x00], 0),
        other([4, 0, 0, 0, 9], &[0x12]).repeat(6),
        other([6, 0, 0, 0, 4], &[1]),
        other([4, 0, 16, 0, 9], &[0x28, 0, 0, 0, 0, 0, 0, 0, 2]).repeat(6),
        other([6, 0, 0, 0, 4], &[5]),
    ];
    let tray = [
        command(&[0x00], 0),
        other([6, 0, 0, 0, 2], &[16]),
        other([7, 16, 0, 1, 0], &[]),
        other([5, 0, 0, 0, 0], &[3, 2]),
        command(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8),
        // Two unit attentions.
        command(&[0x00], 0),
        command(&[0x00], 0),
        command(&[0x1e, 0, 0, 0, 1], 0),
        command(&[0x1b, 0, 0, 0, 2], 0),
        command(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8),
        other([5, 0, 0, 0, 0], &[0]),
        other([6, 0, 0, 0, 0], &[5]),
        command(&[0x00], 0),
        command(&[0x1b, 0, 0, 0, 2], 0),
        command(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8),
        command(&[0x1b, 0, 0, 0, 3], 0),
        command(&[0x35], 0),
    ];
    vec![probe.concat(), read.concat(), tray.concat(), unseen.concat()]
}

/// The memory for the two media and the device itself, and the 2 MiB of a disk's records of its latest
/// requests; data that is read goes to guest memory.
pub(crate) fn memory(input: usize) -> usize {
    (3 << 20) + 16 * input
}
