//! Writes of a guest to a virtio block device's registers and rings, and to I/O ports.

use std::sync::Arc;
use std::sync::mpsc::channel;

use block::sim::SimDir;
use block::{Disk, DiskHandle, Kind, OnError, chain};
use executor::Thread;
use virtio::mmio::{QUEUE_NOTIFY_OFFSET, Transport};
use virtio_blk::{ErrorPolicy, Options, VirtioBlk};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::layout::{KEYBOARD, POWER, PVPANIC, SERIAL_PORTS};
use vmm::ports::Ports;

/// Length of a step, in bytes: its kind, a detail, a place, a value, and one more number.
const STEP: usize = 16;
/// Size of the guest's memory, in bytes.
const MEMORY: u64 = 1 << 20;
/// Size of the disk, in bytes.
const DISK: usize = 256 << 10;
const QUEUES: u16 = 2;
/// Number of entries of each ring.
const RING: u16 = 8;

/// Registers (virtio 1.2, table 4.1).
const DRIVER_FEATURES_SEL: u64 = 0x24;
const DRIVER_FEATURES: u64 = 0x20;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const STATUS: u64 = 0x70;
const RINGS: [u64; 3] = [0x80, 0x90, 0xa0];
const VERSION_1: u64 = 1 << 32;

/// Performs the steps of the input: accesses to registers, ports and memory.
pub fn machine(input: &[u8]) {
    let Some((thread, disk)) = disk() else { return };
    let listener = Arc::new(|_| ());
    let options = Options {
        size: DISK as u64,
        read_only: false,
        serial: "disk".to_owned(),
        queues: QUEUES,
        errors: ErrorPolicy { read: OnError::Report, write: OnError::Stop, listener },
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).expect("memory");
    let device = Box::new(VirtioBlk::device(disk.clone(), options));
    let transport = Transport::new(device, Arc::new(memory.clone())).expect("a transport");
    let guest = Guest { transport, ports: Ports::new().expect("ports"), memory };
    input.chunks_exact(STEP).for_each(|step| guest.step(step));

    // From any state, a reset must release everything and allow a new start.
    guest.transport.reset();
    assert_eq!(guest.read(STATUS), 0, "a status after a reset");
    // Anything left in the rings would be taken for requests.
    drop(guest.memory.write_slice(&[0; 0x8000], GuestAddress(0)));
    guest.bring_up(0);
    assert_eq!(guest.read(STATUS), 0xf, "it starts after a reset");
    guest.transport.reset();
    let events = std::iter::from_fn(|| guest.ports.event()).count();
    assert!(events <= 3, "{events} events wait");
    drop(guest);
    let closed = disk.remote().call({
        let disk = disk.clone();
        move || async move {
            match disk.get() {
                Some(disk) => disk.close().await,
                None => Ok(()),
            }
        }
    });
    assert!(matches!(closed.wait(), Ok(Ok(()))), "the disk does not close");
    assert!(thread.join(), "the disk's thread panicked");
}

/// A disk on a thread of its own, as in the program.
fn disk() -> Option<(Thread, DiskHandle)> {
    let (sender, receiver) = channel();
    let main = move || async move {
        let files = SimDir::new();
        files.add("disk", vec![0x5a; DISK]);
        if let Ok(leaf) = chain::open(&*files, "disk", Kind::Raw, true).await {
            let disk = Disk::new("disk", leaf, false, files, |_| {});
            let _ = sender.send(disk.handle());
            disk.closed().await;
        }
    };
    let thread = Thread::start("disk", main).ok()?;
    Some((thread, receiver.recv().ok()?))
}

struct Guest {
    transport: Transport,
    ports: Ports,
    memory: GuestMemoryMmap,
}

/// The addresses at which [`Guest::bring_up`] puts a queue's rings: descriptors, available, used.
fn rings(queue: u16) -> [u64; 3] {
    [0, 0x1000, 0x2000].map(|at| at + 0x4000 * u64::from(queue))
}

impl Guest {
    fn step(&self, step: &[u8]) {
        let number = |range: std::ops::Range<usize>| {
            step[range].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (kind, detail, place, value, more) =
            (step[0], step[1], number(2..4), number(4..12), number(12..16) as u32);
        let width = 1 << (detail % 4);
        let bytes = &value.to_le_bytes()[..width];
        let queue = place as u16 % QUEUES;
        match kind % 8 {
            // A register, accessed with its width and alignment.
            0 => self.write((place % 0x200) & !3, value as u32),
            // Any access to the window.
            1 if detail & 0x80 != 0 => self.transport.read(place % 0x1000, &mut [0; 8][..width]),
            1 => self.transport.write(place % 0x1000, bytes),
            2 => {
                let ports = [SERIAL_PORTS[0], SERIAL_PORTS[1], KEYBOARD, PVPANIC, POWER];
                let port = u64::from(ports[usize::from(detail >> 2) % ports.len()]) + place % 9;
                match detail & 0x80 != 0 {
                    true => self.ports.bus.read(port, &mut [0; 8][..width]),
                    false => self.ports.bus.write(port, bytes),
                }
            }
            // Writes any bytes to memory; addresses outside of it have no effect.
            3 => drop(self.memory.write_slice(&value.to_le_bytes(), GuestAddress(u64::from(more)))),
            4 => self.bring_up(value),
            // Writes a descriptor: index, flags and next in `place`, then its address and its length.
            5 => {
                let (index, flags, next) = (place & 7, place >> 3 & 7, place >> 6 & 7);
                let at = GuestAddress(rings(u16::from(detail) % QUEUES)[0] + 16 * index);
                let parts = [value, u64::from(more) | flags << 32 | next << 48].map(u64::to_le_bytes);
                drop(self.memory.write_slice(&parts.concat(), at));
            }
            // Offers a head once, or more often than the ring has room.
            6 => {
                let [_, available, _] = rings(queue);
                let index: u16 = self.memory.read_obj(GuestAddress(available + 2)).unwrap_or(0);
                let entry = available + 4 + 2 * u64::from(index % RING);
                drop(self.memory.write_obj(value as u16, GuestAddress(entry)));
                let next = index.wrapping_add(if detail & 0x80 != 0 { u16::from(detail) } else { 1 });
                drop(self.memory.write_obj(next, GuestAddress(available + 2)));
                self.write(QUEUE_NOTIFY_OFFSET, queue.into());
            }
            // Stops the machine, which waits for everything in flight.
            _ => {
                let _ = self.transport.pause().wait();
                self.transport.resume();
            }
        }
    }

    fn read(&self, register: u64) -> u32 {
        let mut value = [0; 4];
        self.transport.read(register, &mut value);
        u32::from_le_bytes(value)
    }

    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Does what a driver does to start the device, and accepts these features in addition.
    fn bring_up(&self, features: u64) {
        for status in [0, 1, 3] {
            self.write(STATUS, status);
        }
        let features = features | VERSION_1;
        for half in [0, 1] {
            self.write(DRIVER_FEATURES_SEL, half);
            self.write(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(STATUS, 0xb);
        for queue in 0..QUEUES {
            self.write(QUEUE_SEL, queue.into());
            self.write(QUEUE_NUM, RING.into());
            for (register, address) in RINGS.into_iter().zip(rings(queue)) {
                self.write(register, address as u32);
                self.write(register + 4, 0);
            }
            self.write(QUEUE_READY, 1);
        }
        self.write(STATUS, 0xf);
    }
}

/// Encodes a step.
fn step(kind: u8, detail: u8, place: u16, value: u64, more: u32) -> Vec<u8> {
    let [low, high] = place.to_le_bytes();
    [&[kind, detail, low, high][..], &value.to_le_bytes(), &more.to_le_bytes()].concat()
}

/// A request with one data descriptor (virtio 1.2, 5.2.6): its kind, the first sector, the length in
/// bytes, and whether the device writes the data.
fn request(queue: u8, kind: u64, sector: u64, len: u32, reads: bool) -> Vec<u8> {
    const NEXT: u16 = 1 << 3;
    const WRITE: u16 = 2 << 3;
    let header = 0x8_0000;
    let data = if reads { WRITE } else { 0 };
    [
        step(3, 0, 0, kind, header),
        step(3, 0, 0, sector, header + 8),
        step(5, queue, NEXT | 1 << 6, header.into(), 16),
        step(5, queue, 1 | NEXT | data | 2 << 6, 0x9_0000, len),
        step(5, queue, 2 | WRITE, 0x8_1000, 1),
        step(6, 0, queue.into(), 0, 0),
        step(7, 0, 0, 0, 0),
    ]
    .concat()
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    const FLUSH: u64 = 1 << 9;
    const DISCARD: u64 = 1 << 13;
    const WRITE_ZEROES: u64 = 1 << 14;
    let work = [
        step(4, 0, 0, FLUSH | DISCARD | WRITE_ZEROES, 0),
        request(0, 0, 8, 4096, true),
        request(1, 1, 16, 4096, false),
        request(0, 4, 0, 0, false),
        request(0, 8, 0, 20, true),
        // A segment of 16 sectors (virtio 1.2, 5.2.6): its start, then its length.
        step(3, 0, 0, 32, 0x9_0000),
        step(3, 0, 0, 16, 0x9_0008),
        request(1, 11, 0, 16, false),
        request(1, 13, 0, 16, false),
    ];
    let again = [
        step(4, 0, 0, FLUSH, 0),
        request(0, 0, 0, 512, true),
        step(0, 0, STATUS as u16, 0, 0),
        step(4, 0, 0, 1 << 29, 0),
        request(0, 0, 0, 512, true),
        step(0, 0, QUEUE_SEL as u16, 1, 0),
        step(0, 0, QUEUE_READY as u16, 0, 0),
        step(4, 0, 0, 0, 0),
        request(1, 0, 511, 512, true),
        request(1, 0, 512, 512, true),
    ];
    let ports = [
        step(2, 0, 0, u64::from(b'K'), 0),
        step(2, 0x80, 5, 0, 0),
        step(2, 0, 1, 0xf, 0),
        step(2, 4, 2, 0xc7, 0),
        step(2, 8, 0, 0xfe, 0),
        step(2, 12, 0, 1, 0),
        step(2, 16, 0, 0x34, 0),
        step(2, 16, 2, 1, 0),
    ];
    vec![work.concat(), again.concat(), ports.concat()]
}

/// The memory of this thread only; a serial port keeps at most 64 KiB of output.
pub(crate) fn memory(input: usize) -> usize {
    (1 << 20) + 16 * input
}
