//! Gate, pause, reset and capacity changes around requests.

use block::disk::fake::{FakeDisk, Op};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio::driver::Driver;
use virtio::{Device, VirtioDevice};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_MQ, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_blk::{ErrorPolicy, Options, VirtioBlk};

use super::rig::{Data, Posted, Rig, Setup};

fn read(rig: &mut Rig) -> Posted {
    let posted = rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(512));
    rig.drivers[0].publish();
    posted
}

fn used(rig: &mut Rig) -> Option<u16> {
    rig.drivers[0].pop_used().map(|(head, _)| head)
}

#[test]
fn a_closed_gate_leaves_requests_in_the_ring() {
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.hold.set(true));
    let first = read(&mut rig);
    rig.disk.run(|disk| disk.wait_held(1));

    // The drain waits for the request in flight and for its delivery; later ones stay in the ring.
    let drained = Arc::new(AtomicBool::new(false));
    let tell = drained.clone();
    let interrupts = rig.interrupts.clone();
    rig.disk.with(|disk| disk.close());
    rig.drivers[0].set_used_event(1);
    let handle = rig.disk.clone();
    let drain = std::thread::spawn(move || {
        handle.run(|disk| disk.drain());
        tell.store(true, Ordering::SeqCst);
        interrupts.counts().used[0]
    });
    let second = read(&mut rig);
    rig.disk.settle();
    assert!(!drained.load(Ordering::SeqCst));
    assert_eq!(asked(&rig), 1);
    rig.disk.with(|disk| disk.release_all());
    assert_eq!(drain.join().unwrap(), 1, "drained means delivered");
    assert_eq!(used(&mut rig), Some(first.head));
    assert_eq!(used(&mut rig), None);

    // No new kick is needed.
    rig.disk.with(|disk| disk.open());
    assert_eq!(rig.wait_used(0).0, second.head);
}

#[test]
fn paused_devices_deliver_and_then_rest() {
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.hold.set(true));
    let first = read(&mut rig);
    rig.disk.run(|disk| disk.wait_held(1));
    rig.drivers[0].set_used_event(1);
    let paused = rig.device.pause();
    let second = read(&mut rig);
    rig.disk.settle();
    rig.disk.with(|disk| disk.release_all());
    paused.wait().unwrap();
    assert_eq!(rig.interrupts.counts().used, [1]);
    assert_eq!(used(&mut rig), Some(first.head));
    rig.disk.settle();
    assert_eq!(used(&mut rig), None);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);

    // A pause of a paused device has nothing to wait for.
    rig.device.pause().wait().unwrap();
    rig.device.resume();
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, second.head);
    let third = read(&mut rig);
    assert_eq!(rig.wait_used(0).0, third.head);
}

#[test]
fn a_pause_behind_a_closed_gate_loses_no_request() {
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.close());
    let posted = read(&mut rig);
    rig.disk.settle();
    rig.device.pause().wait().unwrap();
    rig.disk.with(|disk| disk.open());
    rig.disk.settle();
    assert_eq!(used(&mut rig), None);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, posted.head);
}

#[test]
fn devices_activated_while_paused_wait() {
    let mut rig = Rig::inactive(Setup::default());
    rig.device.pause().wait().unwrap();
    rig.activate();
    let posted = read(&mut rig);
    rig.disk.settle();
    assert_eq!(used(&mut rig), None);
    rig.device.resume();
    assert_eq!(rig.wait_used(0).0, posted.head);
}

/// Takes the device out of the rig, and leaves one that is never active.
pub fn take_device(rig: &mut Rig) -> VirtioDevice<VirtioBlk<FakeDisk>> {
    let errors = ErrorPolicy::report();
    let options = Options { size: 0, read_only: false, serial: String::new(), queues: 0, errors };
    std::mem::replace(&mut rig.device, VirtioBlk::device(rig.disk.handle(), options))
}

fn asked(rig: &Rig) -> usize {
    rig.disk.with(|disk| disk.log.borrow().len())
}

#[test]
fn a_reset_awaits_what_is_in_flight_and_delivers_nothing() {
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.hold.set(true));
    let write = |rig: &mut Rig| {
        let before = asked(rig);
        let posted = rig.add(0, VIRTIO_BLK_T_OUT, 0, Data::Out(&[0x42; 512]));
        rig.drivers[0].publish();
        rig.disk.settle();
        (posted, asked(rig) > before)
    };
    let (posted, true) = write(&mut rig) else { panic!("not taken") };

    let mut device = take_device(&mut rig);
    let reset = Arc::new(AtomicBool::new(false));
    let done = reset.clone();
    let resetter = std::thread::spawn(move || {
        device.reset();
        done.store(true, Ordering::SeqCst);
        device
    });
    // The reset has arrived when requests are not taken any more. Until then each request makes room for the
    // next.
    let heap = rig.drivers[0].heap;
    rig.drivers[0].set_used_event(0); // no interrupts
    while write(&mut rig).1 {
        rig.disk.with(|disk| disk.release(1));
        rig.disk.settle();
        used(&mut rig);
        rig.drivers[0].heap = heap;
    }
    assert!(!reset.load(Ordering::SeqCst), "a write is still in flight");
    rig.disk.with(|disk| disk.release_all());
    rig.device = resetter.join().unwrap();
    assert_eq!(rig.disk.with(|disk| disk.data.borrow()[0]), 0x42);
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    assert_eq!(rig.status(&posted), 0xff);
    assert_eq!(used(&mut rig), None);
    assert_eq!(rig.interrupts.counts().used, [0]);

    // Kicks have no effect now; a new start begins with empty rings.
    assert!(!write(&mut rig).1);
    rig.device.reset();
    rig.activate();
    let posted = read(&mut rig);
    assert_eq!(rig.wait_used(0).0, posted.head);
}

#[test]
fn resets_and_starts_in_a_row() {
    let mut rig = Rig::new(Setup::default());
    for _ in 0..50 {
        let posted = read(&mut rig);
        assert_eq!(rig.wait_used(0).0, posted.head);
        read(&mut rig);
        rig.device.reset();
        rig.activate();
    }
    // Requests that nobody waited for may have been served before their reset, or not at all.
    let reads = asked(&rig);
    assert!((50..=100).contains(&reads));
}

#[test]
fn what_cannot_be_activated() {
    let mut rig = Rig::new(Setup::default());
    assert!(rig.start().is_err(), "a second time");
    let mut rig = Rig::inactive(Setup::default());
    rig.drivers.push(Driver::new(rig.memory.clone(), super::rig::END, 0, 16, true));
    assert!(rig.start().is_err(), "rings outside of guest memory");
    rig.device.reset();
}

#[test]
fn devices_may_be_dropped_at_any_time() {
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.hold.set(true));
    read(&mut rig);
    rig.disk.run(|disk| disk.wait_held(1));
    drop(take_device(&mut rig));
    rig.disk.with(|disk| disk.release_all());
    rig.disk.settle();
    assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    assert_eq!(used(&mut rig), None);
}

#[test]
fn the_capacity_changes() {
    let mut rig = Rig::new(Setup { size: 1 << 20, ..Setup::default() });
    let capacity = |rig: &Rig| {
        let mut bytes = [0; 8];
        rig.device.read_config(0, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(capacity(&rig), 2048);
    rig.disk.with(|disk| disk.data.borrow_mut().resize(2 << 20, 0));
    rig.device.model().shared_config().capacity_changed((2 << 20) + 511);
    assert_eq!(capacity(&rig), 4096);
    assert_eq!(rig.interrupts.counts().config, 1);
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 4095, Data::In(512)).0, 0);
    // The disk shrinks: a request that the guest sent too late fails.
    rig.disk.with(|disk| disk.data.borrow_mut().truncate(1 << 20));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 4095, Data::In(512)).0, 1);

    // An inactive device interrupts nobody.
    rig.device.reset();
    rig.device.model().shared_config().capacity_changed(0);
    assert_eq!(capacity(&rig), 0);
    assert_eq!(rig.interrupts.counts().config, 1);
}

/// Whenever the driver reads while the capacity changes, active or not: between two equal generations it has
/// seen one capacity (virtio 1.2, 2.5.3).
#[test]
fn no_driver_sees_half_of_a_new_capacity() {
    let rig = Rig::inactive(Setup::default());
    let word = |offset| {
        let mut bytes = [0; 4];
        rig.device.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let config = rig.device.model().shared_config();
    let before = rig.device.config_generation();
    config.capacity_changed(0);
    assert_ne!(rig.device.config_generation(), before, "nobody has to be told for it to have changed");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let changes = std::thread::spawn(move || {
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            n = (n + 1) % 1000;
            // Both halves of the sectors are n.
            config.capacity_changed((n << 32 | n) * 512);
        }
    });
    let mut whole = 0;
    while whole < 20_000 {
        let generation = rig.device.config_generation();
        let (low, high) = (word(0), word(4));
        if rig.device.config_generation() == generation {
            assert_eq!(low, high);
            whole += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    changes.join().unwrap();
}

#[test]
fn many_queues_are_offered_and_only_those_ready_are_used() {
    let mut rig = Rig::inactive(Setup { queues: 4, ..Setup::default() });
    assert_ne!(rig.device.features() & (1 << VIRTIO_BLK_F_MQ), 0);
    assert_eq!(rig.device.queue_sizes(), [256; 4]);
    rig.activate();
    let posted = rig.add(3, VIRTIO_BLK_T_IN, 1, Data::In(512));
    rig.drivers[3].publish();
    assert_eq!(rig.wait_used(3).0, posted.head);
    assert_eq!(rig.disk.with(|disk| disk.log.take()), [Op::Read(512, 512)]);
}
