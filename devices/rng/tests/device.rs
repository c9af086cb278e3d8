//! The device driven through a mock ring: a driver of our own on the other side of guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use executor::{Thread, yield_now};
use virtio::driver::{Driver, Interrupts, Piece, WRITE};
use virtio::{Activation, Device, ReadyQueue, VirtioDevice};
use virtio_rng::{MOST, QUEUE_SIZE, VirtioRng};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RINGS: u64 = 0x1_0000;
const HEAP: u64 = 0x10_0000;
/// The content of room before it is filled.
const OLD: u8 = 0xee;

struct Rig {
    device: VirtioDevice<VirtioRng>,
    driver: Driver,
    interrupts: Arc<Interrupts>,
    thread: Thread,
}

impl Rig {
    fn new() -> Self {
        let thread = Thread::start("entropy", std::future::pending).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let mut rig = Rig {
            device: VirtioDevice::new(thread.remote().clone(), VirtioRng),
            driver: Driver::new(Arc::new(memory), RINGS, HEAP, QUEUE_SIZE, true),
            interrupts: Arc::default(),
            thread,
        };
        rig.activate();
        rig
    }

    /// Makes a new driver, and sets DRIVER_OK.
    fn activate(&mut self) {
        let memory = self.driver.memory.clone();
        memory.write_slice(&[0; 0x1_0000], GuestAddress(RINGS)).unwrap();
        self.driver = Driver::new(memory, RINGS, HEAP, QUEUE_SIZE, true);
        self.interrupts.clear_used(1);
        let kick = self.driver.kick.try_clone().unwrap();
        let activation = Activation {
            memory: self.driver.memory.clone(),
            features: self.device.features(),
            queues: vec![ReadyQueue { index: 0, queue: self.driver.queue(QUEUE_SIZE), kick }],
            interrupt: self.interrupts.clone(),
        };
        self.device.activate(activation).unwrap();
    }

    /// Sends a request with adjacent room in pieces of these lengths. Returns the address of the first.
    fn ask(&mut self, rooms: &[usize]) -> u64 {
        let start = self.driver.alloc(&vec![OLD; rooms.iter().sum()]);
        let mut address = start;
        let piece = |len: &usize| {
            let piece = Piece { address, len: *len as u32, write: true };
            address += *len as u64;
            piece
        };
        let pieces: Vec<_> = rooms.iter().map(piece).collect();
        self.driver.add(&pieces, false);
        self.driver.publish();
        start
    }

    /// Waits for the next reply by interrupts alone, and returns its length.
    fn answered(&mut self) -> usize {
        loop {
            let before = self.interrupts.counts().used[0];
            self.driver.set_used_event(1);
            if let Some((_, len)) = self.driver.pop_used() {
                return len as usize;
            }
            self.interrupts.wait(|counts| counts.used[0] > before);
        }
    }

    /// Returns the bytes of the reply to a request with `room` bytes of room.
    fn bytes(&mut self, room: usize) -> Vec<u8> {
        let start = self.ask(&[room]);
        assert_eq!(self.answered(), room);
        self.driver.bytes(start, room)
    }
}

#[test]
fn each_answer_is_another_one() {
    let mut rig = Rig::new();
    let (first, second) = (rig.bytes(64), rig.bytes(64));
    // Equal by chance in one of 2^512 runs.
    assert_ne!(first, second);
    for answer in [first, second] {
        assert!(answer.iter().any(|byte| *byte != answer[0]), "{answer:x?}");
    }
    assert_eq!(rig.bytes(1).len(), 1);
}

#[test]
fn an_answer_goes_no_further_than_it_says() {
    let mut rig = Rig::new();
    let room = [100, MOST, 10_000];
    let start = rig.ask(&room);
    assert_eq!(rig.answered(), MOST);
    let all = rig.driver.bytes(start, room.iter().sum());
    // 64 random bytes all keep their value by chance in one of 2^512 runs.
    assert!(all[MOST - 64..MOST].iter().any(|byte| *byte != OLD));
    assert!(all[MOST..].iter().all(|byte| *byte == OLD));
    let behind = rig.driver.bytes(start + all.len() as u64, 4096);
    assert!(behind.iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_no_request_needs_a_reset() {
    for (readable, writable) in [(16, 0), (16, 16)] {
        let mut rig = Rig::new();
        let address = rig.driver.alloc(&[OLD; 32]);
        let pieces = [(0, readable, false), (readable, writable, true)];
        let pieces: Vec<_> = pieces
            .into_iter()
            .filter(|(_, len, _)| *len > 0)
            .map(|(at, len, write)| Piece { address: address + u64::from(at), len, write })
            .collect();
        rig.driver.add(&pieces, false);
        rig.driver.publish();
        rig.interrupts.wait(|counts| counts.needs_reset == 1);
        assert_eq!(rig.driver.pop_used(), None);
        rig.device.reset();
        rig.activate();
        assert_eq!(rig.bytes(32).len(), 32);
    }
}

#[test]
fn while_paused_requests_stay_where_they_are() {
    let mut rig = Rig::new();
    assert!(rig.device.pause().wait().is_ok());
    rig.ask(&[16]);
    // When this call ends, the device's thread has had its turn at the kick.
    rig.thread.remote().call(|| async { turns(20).await }).wait().unwrap();
    assert_eq!(rig.driver.pop_used(), None);
    rig.device.resume();
    assert_eq!(rig.answered(), 16);
}

/// Gives everybody else `count` turns.
async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// Sets the flag when dropped.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A guest that offers requests faster than they are served gets its thread for no more than a turn.
#[test]
fn a_guest_that_asks_without_pause_lets_others_work() {
    let rig = Rig::new();
    let driver = &rig.driver;
    for head in 0..QUEUE_SIZE {
        driver.describe(driver.table(), head, HEAP, MOST as u32, WRITE, 0);
        driver.put(head, driver.avail() + 4 + 2 * u64::from(head));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Offers the whole ring again, as soon as some of it is used.
                let used: u16 = driver.get(driver.used() + 2);
                driver.set_avail_index(used.wrapping_add(QUEUE_SIZE));
                driver.kick.write(1).unwrap();
            }
        });
        let _done = AtTheEnd(&done);
        rig.interrupts.wait(|counts| counts.used[0] > 0);
        let (answer, answered) = mpsc::channel();
        rig.thread.remote().spawn(move || async move {
            turns(500).await;
            // Fails if the test has failed and nobody listens any more.
            let _ = answer.send(());
        });
        assert_eq!(answered.recv_timeout(Duration::from_secs(20)), Ok(()));
    });
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}
