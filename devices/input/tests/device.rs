//! The devices driven through mock rings: a driver of our own on one side of guest memory, a feed on the
//! other.

use std::sync::Arc;

use executor::{Thread, yield_now};
use virtio::driver::{Driver, Interrupts, Piece, activation};
use virtio::{Device, VirtioDevice};
use virtio_input::{Axis, Feed, Lamps, QUEUE_SIZE, VirtioInput};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const EVENTS: usize = 0;
const STATUS: usize = 1;
const KEY_A: u16 = 30;
const END: (u16, u16, u32) = (0, 0, 0);

struct Rig {
    device: VirtioDevice<VirtioInput>,
    feed: Arc<Feed>,
    drivers: Vec<Driver>,
    interrupts: Arc<Interrupts>,
    memory: Arc<GuestMemoryMmap>,
    thread: Thread,
    /// Addresses of the buffers that are offered, oldest first.
    offered: std::collections::VecDeque<u64>,
}

impl Rig {
    fn new(make: fn(Arc<Feed>) -> VirtioInput) -> Self {
        let thread = Thread::start("input", std::future::pending).unwrap();
        let feed = Arc::new(Feed::new().unwrap());
        let mut rig = Rig {
            device: VirtioDevice::new(thread.remote().clone(), make(feed.clone())),
            feed,
            drivers: Vec::new(),
            interrupts: Arc::default(),
            memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()),
            thread,
            offered: Default::default(),
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
        self.offered.clear();
        self.interrupts.clear_used(2);
        let activation = activation(&self.drivers, QUEUE_SIZE, self.device.features(), &self.interrupts);
        self.device.activate(activation).unwrap();
    }

    fn offer(&mut self, queue: usize, len: usize, write: bool) -> u64 {
        let driver = &mut self.drivers[queue];
        let address = driver.alloc(&vec![0xee; len]);
        driver.add(&[Piece { address, len: len as u32, write }], false);
        driver.publish();
        address
    }

    fn offer_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let address = self.offer(EVENTS, 8, true);
            self.offered.push_back(address);
        }
    }

    /// Waits for the next used entry by interrupts alone, and returns its length.
    fn used(&mut self, queue: usize) -> u32 {
        loop {
            let before = self.interrupts.counts().used[queue];
            let driver = &mut self.drivers[queue];
            driver.set_used_event(1);
            if let Some((_, len)) = driver.pop_used() {
                return len;
            }
            self.interrupts.wait(|counts| counts.used[queue] > before);
        }
    }

    /// Returns the next event that the guest gets: its kind, code and value.
    fn event(&mut self) -> (u16, u16, u32) {
        assert_eq!(self.used(EVENTS), 8);
        let address = self.offered.pop_front().unwrap();
        let bytes = self.drivers[EVENTS].bytes(address, 8);
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (word(0), word(2), u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }

    fn settle(&self) {
        let turns = || async {
            for _ in 0..50 {
                yield_now().await;
            }
        };
        self.thread.remote().call(turns).wait().unwrap();
    }

    fn is_broken(&self) -> bool {
        self.interrupts.counts().needs_reset == 1
    }
}

#[test]
fn keys_wait_for_buffers_and_buffers_for_keys() {
    let mut rig = Rig::new(VirtioInput::keyboard);
    assert_eq!((rig.device.id(), rig.device.queue_sizes()), (18, vec![64, 64]));
    rig.feed.key(KEY_A, true);
    rig.feed.key(KEY_A, false);
    rig.settle();
    rig.offer_buffers(3);
    assert_eq!([rig.event(), rig.event(), rig.event()], [(1, KEY_A, 1), END, (1, KEY_A, 0)]);
    rig.offer_buffers(4);
    assert_eq!(rig.event(), END);
    rig.settle();
    assert_eq!(rig.drivers[EVENTS].pop_used(), None);
    rig.feed.key(KEY_A, true);
    assert_eq!([rig.event(), rig.event()], [(1, KEY_A, 1), END]);
}

#[test]
fn a_tablet_moves_clicks_and_scrolls() {
    let mut rig = Rig::new(VirtioInput::tablet);
    rig.feed.point(100, 0x7fff);
    rig.feed.key(virtio_input::codes::BTN_LEFT, true);
    rig.feed.wheel(Axis::Vertical, -1);
    rig.offer_buffers(7);
    let events: Vec<_> = (0..7).map(|_| rig.event()).collect();
    assert_eq!(events, [(3, 0, 100), (3, 1, 0x7fff), END, (1, 0x110, 1), END, (2, 8, u32::MAX), END]);
}

#[test]
fn a_paused_device_keeps_its_events_and_a_reset_forgets_them() {
    let mut rig = Rig::new(VirtioInput::keyboard);
    rig.offer_buffers(2);
    rig.device.pause().wait().unwrap();
    rig.feed.key(KEY_A, true);
    rig.settle();
    assert_eq!(rig.drivers[EVENTS].pop_used(), None);
    rig.device.resume();
    assert_eq!([rig.event(), rig.event()], [(1, KEY_A, 1), END]);
    rig.feed.key(KEY_A, false);
    rig.device.reset();
    rig.feed.key(KEY_A, true);
    rig.activate();
    rig.offer_buffers(2);
    rig.settle();
    assert_eq!(rig.drivers[EVENTS].pop_used(), None, "nothing of before the driver's start");
    rig.feed.key(2, true);
    assert_eq!(rig.event(), (1, 2, 1));
}

#[test]
fn the_description_is_read_through_the_config_space() {
    let mut rig = Rig::new(VirtioInput::tablet);
    rig.device.write_config(0, &[1]);
    rig.device.write_config(1, &[0]);
    let mut config = [0xee; 140];
    rig.device.read_config(0, &mut config);
    assert_eq!((config[2], &config[8..23]), (15, &b"Millrace Tablet"[..]));
    assert_eq!(config[136..], [0; 4], "zeros behind it");
    rig.device.reset();
    rig.device.read_config(0, &mut config);
    assert_eq!(config[..3], [0; 3]);
}

#[test]
fn the_lamps_are_as_the_guest_reports_them_and_dark_after_a_reset() {
    let mut rig = Rig::new(VirtioInput::keyboard);
    let report = |rig: &mut Rig, event: [u8; 8]| {
        let driver = &mut rig.drivers[STATUS];
        let address = driver.alloc(&event);
        driver.add(&[Piece { address, len: 8, write: false }], false);
        driver.publish();
        assert_eq!(rig.used(STATUS), 0);
    };
    // A sound, and a lamp that no keyboard here has.
    report(&mut rig, [0x12, 0, 1, 0, 1, 0, 0, 0]);
    report(&mut rig, [0x11, 0, 9, 0, 1, 0, 0, 0]);
    assert_eq!(rig.feed.lamps(), None);
    report(&mut rig, [0x11, 0, 1, 0, 1, 0, 0, 0]);
    report(&mut rig, [0x11, 0, 0, 0, 0, 0, 0, 0x80]);
    let lit = |num_lock, caps_lock, scroll_lock| Some(Lamps { num_lock, caps_lock, scroll_lock });
    assert_eq!(rig.feed.lamps(), lit(true, true, false));
    report(&mut rig, [0x11, 0, 1, 0, 0, 0, 0, 0]);
    report(&mut rig, [0x11, 0, 2, 0, 1, 0, 0, 0]);
    assert_eq!(rig.feed.lamps(), lit(true, false, true));
    rig.device.reset();
    assert_eq!(rig.feed.lamps(), lit(false, false, false));
    let mut rig = Rig::new(VirtioInput::tablet);
    report(&mut rig, [0x11, 0, 1, 0, 1, 0, 0, 0]);
    assert_eq!(rig.feed.lamps(), None, "a tablet has no lamps");
}

#[test]
fn status_buffers_come_back_and_malformed_ones_break_the_device() {
    let mut rig = Rig::new(VirtioInput::keyboard);
    rig.offer(STATUS, 8, false);
    assert_eq!(rig.used(STATUS), 0);
    rig.offer(STATUS, 8, true);
    rig.settle();
    assert!(rig.is_broken());
    for (len, write) in [(7, true), (8, false)] {
        let mut rig = Rig::new(VirtioInput::keyboard);
        rig.offer(EVENTS, len, write);
        rig.feed.key(KEY_A, true);
        rig.settle();
        assert!(rig.is_broken(), "a buffer of {len} bytes, written: {write}");
        // Nobody waits for a broken device.
        for _ in 0..2000 {
            rig.feed.wheel(Axis::Horizontal, 1);
        }
        rig.device.reset();
    }
}
