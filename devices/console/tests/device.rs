//! The device driven through mock rings: a driver of our own on one side of guest memory, a line on the
//! other.

use std::sync::Arc;
use std::time::Instant;

use executor::{Thread, yield_now};
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_console::{INPUT_MAX, KEPT_MAX, Line, OUTPUT_MAX, PATIENCE, QUEUE_SIZE, VirtioConsole};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A piece of a chain: its bytes, and true if the device writes them.
type Part<'a> = (&'a [u8], bool);

struct Rig {
    device: VirtioDevice<VirtioConsole>,
    line: Arc<Line>,
    drivers: Vec<Driver>,
    interrupts: Arc<Interrupts>,
    memory: Arc<GuestMemoryMmap>,
    thread: Thread,
}

impl Rig {
    fn new() -> Self {
        let thread = Thread::start("console", std::future::pending).unwrap();
        let line = Arc::new(Line::new().unwrap());
        let mut rig = Rig {
            device: VirtioDevice::new(thread.remote().clone(), VirtioConsole::new(line.clone())),
            line,
            drivers: Vec::new(),
            interrupts: Arc::default(),
            memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()),
            thread,
        };
        rig.activate();
        rig
    }

    /// Makes new drivers, and sets DRIVER_OK.
    fn activate(&mut self) {
        let driver = |n: u64| {
            let (base, heap) = (0x1_0000 * (n + 1), (2 << 20) * (n + 1));
            self.memory.write_slice(&[0; 0x1_0000], GuestAddress(base)).unwrap();
            Driver::new(self.memory.clone(), base, heap, 8, true)
        };
        self.drivers = (0..2).map(driver).collect();
        self.interrupts.clear_used(2);
        let activation = activation(&self.drivers, QUEUE_SIZE, self.device.features(), &self.interrupts);
        self.device.activate(activation).unwrap();
    }

    /// Offers a chain of these pieces, and returns the address of the last.
    fn offer(&mut self, queue: usize, pieces: &[Part]) -> u64 {
        let driver = &mut self.drivers[queue];
        driver.heap = (2 << 20) * (queue as u64 + 1);
        let place = |(bytes, write): &Part| {
            let address = driver.alloc(bytes);
            Piece { address, len: bytes.len() as u32, write: *write }
        };
        let pieces: Vec<_> = pieces.iter().map(place).collect();
        driver.add(&pieces, false);
        driver.publish();
        pieces.last().unwrap().address
    }

    /// Waits for the next used entry by interrupts alone, and returns its length.
    fn used(&mut self, queue: usize) -> usize {
        loop {
            let before = self.interrupts.counts().used[queue];
            let driver = &mut self.drivers[queue];
            driver.set_used_event(1);
            if let Some((_, len)) = driver.pop_used() {
                return len as usize;
            }
            self.interrupts.wait(|counts| counts.used[queue] > before);
        }
    }

    /// Writes as the guest.
    fn write(&mut self, bytes: &[u8]) {
        self.offer(TRANSMIT, &[(bytes, false)]);
        assert_eq!(self.used(TRANSMIT), 0);
    }

    /// Reads as the guest, into a buffer of `room` bytes.
    fn read(&mut self, room: usize) -> Vec<u8> {
        let address = self.offer(RECEIVE, &[(&vec![0xee; room], true)]);
        let len = self.used(RECEIVE);
        self.drivers[RECEIVE].bytes(address, len)
    }

    fn settle(&self) {
        let turns = || async {
            for _ in 0..50 {
                yield_now().await;
            }
        };
        self.thread.remote().call(turns).wait().unwrap();
    }
}

#[test]
fn bytes_go_both_ways() {
    let mut rig = Rig::new();
    rig.offer(TRANSMIT, &[(b"hel", false), (b"lo", false)]);
    assert_eq!(rig.used(TRANSMIT), 0);
    assert_eq!(rig.line.take_output(100), b"hello");
    assert_eq!(rig.line.offer_input(b"typed"), 5);
    assert_eq!(rig.read(3), b"typ");
    assert_eq!(rig.read(100), b"ed");
    // A buffer first, and then input.
    let room = rig.offer(RECEIVE, &[(&[0; 10], true)]);
    rig.settle();
    assert_eq!(rig.drivers[RECEIVE].pop_used(), None);
    rig.line.offer_input(b"later");
    assert_eq!(rig.used(RECEIVE), 5);
    assert_eq!(rig.drivers[RECEIVE].bytes(room, 5), b"later");
}

#[test]
fn a_guest_that_is_not_heard_goes_on() {
    let mut rig = Rig::new();
    let bytes: Vec<u8> = (0..KEPT_MAX + 4096).map(|at| (at % 251) as u8).collect();
    let start = Instant::now();
    bytes.chunks(4096).for_each(|chunk| rig.write(chunk));
    assert!(start.elapsed() < PATIENCE * 5, "nobody is waited for");
    assert_eq!(rig.line.take_output(usize::MAX), bytes[4096..]);
    // A reader that has gone is waited for once.
    let start = Instant::now();
    bytes.chunks(4096).for_each(|chunk| rig.write(chunk));
    let time = start.elapsed();
    assert!((PATIENCE..PATIENCE * 5).contains(&time), "{time:?} for one wait of {PATIENCE:?}");
}

#[test]
fn a_listener_that_is_slow_loses_nothing() {
    let mut rig = Rig::new();
    rig.write(b"x");
    assert_eq!(rig.line.take_output(100), b"x");
    let bytes: Vec<u8> = (0..4 * KEPT_MAX).map(|at| (at % 251) as u8).collect();
    let line = rig.line.clone();
    let total = bytes.len();
    let listener = std::thread::spawn(move || {
        let mut heard = Vec::new();
        while heard.len() < total {
            let some = line.take_output(1000);
            if some.is_empty() {
                std::thread::yield_now();
            }
            heard.extend(some);
        }
        heard
    });
    bytes.chunks(4096).for_each(|chunk| rig.write(chunk));
    assert!(listener.join().unwrap() == bytes);
}

#[test]
fn a_stop_waits_for_nobody() {
    let mut rig = Rig::new();
    rig.write(b"x");
    rig.line.take_output(1);
    rig.write(&vec![1; OUTPUT_MAX]);
    rig.offer(TRANSMIT, &[(b"waits", false)]);
    rig.settle();
    assert_eq!(rig.drivers[TRANSMIT].pop_used(), None);
    rig.device.pause().wait().unwrap();
    rig.line.take_output(OUTPUT_MAX);
    rig.settle();
    assert_eq!(rig.drivers[TRANSMIT].pop_used(), None, "paused");
    rig.device.resume();
    rig.used(TRANSMIT);
    assert_eq!(rig.line.take_output(100), b"waits");
}

#[test]
fn what_waits_in_the_line_outlives_a_reset() {
    let mut rig = Rig::new();
    rig.line.offer_input(b"typed");
    rig.write(b"said");
    rig.device.reset();
    rig.activate();
    assert_eq!(rig.read(100), b"typed");
    assert_eq!(rig.line.take_output(100), b"said");
}

#[test]
fn much_input_comes_whole_and_in_order() {
    let mut rig = Rig::new();
    let sent: Vec<u8> = (0..3 * INPUT_MAX).map(|at| (at % 253) as u8).collect();
    let (mut offered, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        offered += rig.line.offer_input(&sent[offered..]);
        got.extend(rig.read(4096));
    }
    assert!(got == sent);
}

#[test]
fn chains_that_no_driver_may_build() {
    let cases: [(usize, &[Part]); 3] = [
        (TRANSMIT, &[(b"a", false), (b"b", true)]),
        (RECEIVE, &[(b"a", false), (b"b", true)]),
        (RECEIVE, &[(b"a", false)]),
    ];
    for (queue, pieces) in cases {
        let mut rig = Rig::new();
        rig.line.offer_input(b"typed");
        rig.offer(queue, pieces);
        rig.interrupts.wait(|counts| counts.needs_reset == 1);
        assert_eq!(rig.drivers[queue].pop_used(), None);
        rig.device.reset();
        rig.activate();
        assert_eq!(rig.read(100), b"typed");
        rig.write(b"said");
        assert_eq!(rig.line.take_output(100), b"said");
    }
}
