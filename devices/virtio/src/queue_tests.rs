//! Devices that reply at once, or when the test lets them, on a thread of their own behind a mock ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Activation, ReadyQueue};
use executor::{Remote, Thread};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::Task;
use crate::driver::{Driver, Interrupts, Piece};
use crate::runner::Runner;

const SIZE: u16 = 8;
const ROOM: u64 = 0x10_0000;

thread_local! {
    /// Notified to end the device's thread.
    static STOP: Rc<Event> = Rc::default();
}

pub(crate) struct Rig {
    pub(crate) driver: Driver,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) runner: Runner,
    thread: Option<Thread>,
}

impl Rig {
    /// Returns a rig with an active device that runs `serve`.
    pub(crate) fn new<F: Future<Output = ()> + 'static>(
        event_idx: bool,
        serve: impl FnOnce(Queue) -> F + Send + 'static,
    ) -> Self {
        let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let driver = Driver::new(Arc::new(map), 0x10000, ROOM, SIZE, event_idx);
        let main = || async { STOP.with(Rc::clone).wait().await };
        let thread = Thread::start("device", main).unwrap();
        let mut rig = Rig {
            driver,
            interrupts: Arc::default(),
            runner: Runner::new(thread.remote().clone()),
            thread: Some(thread),
        };
        rig.interrupts.clear_used(1);
        let kick = rig.driver.kick.try_clone().unwrap();
        let activation = Activation {
            memory: rig.driver.memory.clone(),
            features: u64::from(event_idx) << VIRTIO_RING_F_EVENT_IDX,
            queues: vec![ReadyQueue { index: 0, queue: rig.driver.queue(SIZE), kick }],
            interrupt: rig.interrupts.clone(),
        };
        let serve = |queues: Vec<Queue>| -> io::Result<Vec<Task>> {
            Ok(queues
                .into_iter()
                .next()
                .map(|queue| -> Task { Box::pin(serve(queue)) })
                .into_iter()
                .collect())
        };
        rig.runner.start(activation, serve).unwrap();
        rig
    }

    fn remote(&self) -> Remote {
        self.thread.as_ref().unwrap().remote().clone()
    }

    /// Offers a chain with `out` to read and room for `into` bytes. Returns the room's address.
    pub(crate) fn offer(&mut self, out: &[u8], into: usize) -> u64 {
        let from = self.driver.alloc(out);
        let to = self.driver.alloc(&vec![0xee; into]);
        let pieces = [(from, out.len(), false), (to, into, true)].map(|(address, len, write)| Piece {
            address,
            len: len as u32,
            write,
        });
        let pieces: Vec<_> = pieces.into_iter().filter(|piece| piece.len > 0).collect();
        self.driver.add(&pieces, false);
        self.driver.publish();
        to
    }

    pub(crate) fn wait_used(&mut self) -> (u16, u32) {
        loop {
            let before = self.interrupts.counts().used[0];
            self.driver.set_used_event(1);
            if let Some(used) = self.driver.pop_used() {
                return used;
            }
            self.interrupts.wait(|counts| counts.used[0] > before);
        }
    }

    /// Lets the device's thread do all that it can do by now.
    pub(crate) fn settle(&self) {
        let turns = || async {
            for _ in 0..20 {
                yield_now().await;
            }
        };
        self.remote().call(turns).wait().unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.runner.reset();
        let stop = || async { STOP.with(|stop| stop.notify()) };
        self.remote().call(stop).wait().unwrap();
        let healthy = self.thread.take().is_none_or(Thread::join);
        assert!(healthy || std::thread::panicking(), "the device's thread panicked");
    }
}

/// Gives back the bytes that it gets, in upper case.
async fn echo(queue: Queue) {
    loop {
        let Chain { readable, writable, token } = queue.next().await;
        let mut bytes = readable.to_vec();
        bytes.make_ascii_uppercase();
        bytes.truncate(writable.len());
        writable.copy_from(&bytes);
        token.complete(bytes.len() as u32, ());
    }
}

#[test]
fn a_device_in_a_straight_line() {
    for event_idx in [false, true] {
        let mut rig = Rig::new(event_idx, echo);
        for _ in 0..40 {
            rig.driver.heap = ROOM;
            let to = rig.offer(b"hello", 16);
            assert_eq!(rig.wait_used().1, 5);
            assert_eq!(rig.driver.bytes(to, 6), b"HELLO\xee");
        }
    }
}

#[test]
fn a_device_as_fast_as_its_driver_leaves_others_their_turn() {
    // The ring is never empty: every chain that is given back is offered again at once.
    let rig = Rig::new(true, async |queue: Queue| {
        let memory = queue.0.shared.memory.clone();
        loop {
            let chain = queue.next().await;
            chain.token.complete(0, ());
            let index: u16 = memory.read_obj(GuestAddress(0x14002)).unwrap();
            memory.write_obj(index.wrapping_add(1), GuestAddress(0x14002)).unwrap();
        }
    });
    rig.driver.put(8_u16, rig.driver.avail() + 2);
    rig.driver.describe(rig.driver.table(), 0, ROOM, 1, 0, 0);
    rig.driver.kick.write(1).unwrap();
    // Returns only if others have a turn.
    rig.settle();
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}

#[test]
fn a_look_takes_nothing() {
    let mut rig = Rig::new(true, async |queue: Queue| {
        loop {
            queue.available().await;
            // The device has nothing to send.
            std::future::pending::<()>().await;
        }
    });
    rig.offer(b"", 4);
    rig.settle();
    // Nothing is in flight, so the pause ends.
    rig.runner.pause().wait().unwrap();
    assert_eq!(rig.driver.pop_used(), None);
}

#[test]
fn paused_queues_keep_their_chains() {
    let mut rig = Rig::new(true, echo);
    rig.runner.pause().wait().unwrap();
    rig.offer(b"a", 1);
    rig.settle();
    assert_eq!(rig.driver.pop_used(), None);
    rig.runner.resume();
    assert_eq!(rig.wait_used().1, 1);
}

#[test]
fn chains_that_are_not_given_back_break_the_device() {
    let mut rig = Rig::new(true, async |queue: Queue| {
        loop {
            drop(queue.next().await);
        }
    });
    rig.offer(b"a", 1);
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
    rig.offer(b"a", 1);
    rig.settle();
    assert_eq!(rig.interrupts.counts().needs_reset, 1);
    assert_eq!(rig.driver.pop_used(), None);
    // Nothing is left in flight.
    rig.runner.pause().wait().unwrap();
}

#[test]
fn a_refused_chain_breaks_the_device() {
    let mut rig = Rig::new(true, async |queue: Queue| {
        loop {
            queue.next().await.token.refuse(Malformed("as the test wished"));
        }
    });
    rig.offer(b"a", 1);
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
    assert_eq!(rig.driver.pop_used(), None);
}

#[test]
fn a_reset_silences_what_ends() {
    let wanted = Arc::new(AtomicBool::new(true));
    let saw = wanted.clone();
    let mut rig = Rig::new(true, async move |queue: Queue| {
        let Chain { token, .. } = queue.next().await;
        while token.is_wanted() {
            yield_now().await;
        }
        saw.store(false, Ordering::SeqCst);
        token.complete(0, ());
    });
    rig.offer(b"a", 1);
    rig.settle();
    rig.runner.reset();
    assert!(!wanted.load(Ordering::SeqCst), "the reset awaits what is in flight");
    assert_eq!(rig.driver.pop_used(), None);
    assert_eq!(rig.interrupts.counts().used, [0]);
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let rig = Rig::new(true, echo);
    let mut runner = Runner::new(rig.remote());
    let fail = |_: Vec<Queue>| Err(io::ErrorKind::NotFound.into());
    let activation = || Activation {
        memory: rig.driver.memory.clone(),
        features: 0,
        queues: Vec::new(),
        interrupt: rig.interrupts.clone(),
    };
    runner.start(activation(), fail).unwrap();
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
    assert!(runner.start(activation(), fail).is_err(), "a second time");
    runner.reset();
}
