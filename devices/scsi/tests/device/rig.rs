//! Drive, device and drivers of the three queues, connected.

use std::sync::Arc;

use block::disk::fake::{self, FakeDisk, FakeHandle};
use executor::Thread;
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_scsi::{QUEUE_SIZE, VirtioScsi};
use vm_memory::{GuestAddress, GuestMemoryMmap};

pub const CONTROL: usize = 0;
pub const EVENT: usize = 1;
pub const REQUEST: usize = 2;

/// Offsets and sizes, written by hand from the standard (virtio 1.2, 5.6.6.1).
const SENSE_SIZE: usize = 96;
const RESPONSE: usize = 12 + SENSE_SIZE;

/// The only logical unit.
pub const LUN: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// Sense key, code and qualifier.
pub type Sense = (u8, u8, u8);
pub const POWER_ON: Sense = (6, 0x29, 0);
pub const REMOVED: Sense = (6, 0x3a, 0);
pub const CHANGED: Sense = (6, 0x28, 0);
pub const EMPTY: Sense = (2, 0x3a, 1);
pub const OPEN: Sense = (2, 0x3a, 2);
pub const INVALID_FIELD: Sense = (5, 0x24, 0);

/// The result of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub response: u8,
    pub status: u8,
    pub sense: Option<Sense>,
    pub resid: u32,
    /// The data, as many bytes as the used entry counts.
    pub data: Vec<u8>,
}

#[derive(Clone, Copy)]
pub struct Posted {
    head: u16,
    response: u64,
}

pub struct Rig {
    pub device: VirtioDevice<VirtioScsi<FakeDisk>>,
    pub drive: FakeHandle,
    pub interrupts: Arc<Interrupts>,
    pub drivers: Vec<Driver>,
    memory: Arc<GuestMemoryMmap>,
    thread: Option<Thread>,
}

/// Returns a medium of `blocks` blocks with different content.
pub fn medium(blocks: usize) -> Vec<u8> {
    (0..blocks * 2048).map(|at| (at / 2048) as u8 ^ at as u8).collect()
}

impl Rig {
    /// Returns a rig with a medium of `blocks` blocks, which has reported its power-on.
    pub fn new(blocks: usize) -> Self {
        let mut rig = Self::empty();
        rig.drive.with(move |drive| drive.put(Some(medium(blocks))));
        rig.expect(&[0], POWER_ON);
        rig
    }

    /// Returns a rig with an active device and an empty drive.
    pub fn empty() -> Self {
        let (thread, drive) = fake::start(0);
        drive.with(|drive| drive.put(None));
        let mut rig = Rig {
            device: VirtioScsi::device(drive.handle(), "cd0"),
            drive,
            interrupts: Arc::default(),
            drivers: Vec::new(),
            memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()),
            thread: Some(thread),
        };
        rig.activate();
        rig
    }

    pub fn activate(&mut self) {
        self.drivers = (0..3)
            .map(|n| {
                let (base, heap) = (0x1_0000 * (n + 1), (2 << 20) * (n + 1));
                vm_memory::Bytes::write_slice(&*self.memory, &[0; 0x1_0000], GuestAddress(base)).unwrap();
                Driver::new(self.memory.clone(), base, heap, 16, true)
            })
            .collect();
        self.interrupts.clear_used(3);
        let activation = activation(&self.drivers, QUEUE_SIZE, self.device.features(), &self.interrupts);
        self.device.activate(activation).unwrap();
    }

    /// Offers a chain with `out` and room for `into` bytes. Returns its head and the address of the room.
    pub fn offer(&mut self, queue: usize, out: &[u8], into: usize) -> (u16, u64) {
        let driver = &mut self.drivers[queue];
        let from = driver.alloc(out);
        let to = driver.alloc(&vec![0xee; into]);
        let pieces = [(from, out.len(), false), (to, into, true)];
        let pieces: Vec<_> = pieces
            .into_iter()
            .filter(|(_, len, _)| *len > 0)
            .map(|(address, len, write)| Piece { address, len: len as u32, write })
            .collect();
        let head = driver.add(&pieces, false);
        driver.publish();
        (head, to)
    }

    /// Waits for the next used entry by interrupts alone, and returns its head and length.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        loop {
            let before = self.interrupts.counts().used[queue];
            let driver = &mut self.drivers[queue];
            driver.set_used_event(1);
            if let Some(used) = driver.pop_used() {
                return used;
            }
            self.interrupts.wait(|counts| counts.used[queue] > before);
        }
    }

    pub fn post(&mut self, lun: [u8; 8], tag: u64, cdb: &[u8], room: usize) -> Posted {
        let mut request = [&lun[..], &tag.to_le_bytes(), &[0; 3], cdb].concat();
        request.resize(19 + 32, 0);
        let (head, response) = self.offer(REQUEST, &request, RESPONSE + room);
        Posted { head, response }
    }

    pub fn finish(&mut self, posted: Posted) -> Answer {
        let (head, written) = self.wait_used(REQUEST);
        assert_eq!(head, posted.head);
        let driver = &self.drivers[REQUEST];
        let bytes = driver.bytes(posted.response, RESPONSE);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let len = (written as usize).saturating_sub(RESPONSE);
        let sense = (word(0) > 0).then(|| {
            assert_eq!((word(0), bytes[12]), (18, 0x70));
            (bytes[14], bytes[24], bytes[25])
        });
        Answer {
            response: bytes[11],
            status: bytes[10],
            sense,
            resid: word(4),
            data: driver.bytes(posted.response + RESPONSE as u64, len),
        }
    }

    /// Runs a command from start to end.
    pub fn command(&mut self, cdb: &[u8], room: usize) -> Answer {
        // Buffers are reused, or guest memory would not suffice.
        self.drivers[REQUEST].heap = (2 << 20) * 3;
        let posted = self.post(LUN, 7, cdb, room);
        self.finish(posted)
    }

    /// Runs a command that must succeed, and returns its data.
    pub fn data(&mut self, cdb: &[u8], room: usize) -> Vec<u8> {
        let answer = self.command(cdb, room);
        assert_eq!((answer.response, answer.status, answer.sense), (0, 0, None), "{cdb:x?}");
        assert_eq!(answer.resid as usize + answer.data.len(), room, "{cdb:x?}");
        answer.data
    }

    /// Runs a command that must fail with `sense`.
    pub fn expect(&mut self, cdb: &[u8], sense: Sense) {
        let answer = self.command(cdb, 4096);
        assert_eq!((answer.response, answer.status, answer.sense), (0, 2, Some(sense)), "{cdb:x?}");
        assert!(answer.data.is_empty());
    }

    pub fn ready(&mut self) {
        self.data(&[0], 0);
    }

    /// Runs a task management function and returns its response.
    pub fn manage(&mut self, function: u32, lun: [u8; 8], tag: u64) -> u8 {
        let (head, room) = self.post_tmf(function, lun, tag);
        assert_eq!(self.wait_used(CONTROL), (head, 1));
        self.drivers[CONTROL].get(room)
    }

    pub fn post_tmf(&mut self, function: u32, lun: [u8; 8], tag: u64) -> (u16, u64) {
        let bytes = [&0_u32.to_le_bytes()[..], &function.to_le_bytes(), &lun, &tag.to_le_bytes()].concat();
        self.offer(CONTROL, &bytes, 1)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drive.with(|drive| drive.stop.notify());
        let healthy = self.thread.take().is_none_or(Thread::join);
        assert!(healthy || std::thread::panicking(), "the drive's thread panicked");
    }
}
