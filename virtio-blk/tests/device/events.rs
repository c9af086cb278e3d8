//! Kicks and interrupts: as few as the two sides agreed on, and no request gets stuck.

use proptest::prelude::*;
use virtio::Device;
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;

use super::rig::{Data, Posted, Rig, Setup};

fn read(rig: &mut Rig, queue: usize) -> Posted {
    rig.add(queue, VIRTIO_BLK_T_IN, 0, Data::In(512))
}

/// Sends `count` reads that the disk holds.
fn hold(rig: &mut Rig, count: usize) {
    rig.disk.with(|disk| disk.hold.set(true));
    for _ in 0..count {
        read(rig, 0);
    }
    rig.drivers[0].publish();
    rig.disk.run(move |disk| disk.wait_held(count));
}

fn drain_used(rig: &mut Rig, queue: usize) -> usize {
    std::iter::from_fn(|| rig.drivers[queue].pop_used()).count()
}

#[test]
fn requests_that_end_together_interrupt_once() {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { ring: 64, event_idx, ..Setup::default() });
        rig.drivers[0].set_used_event(1);
        hold(&mut rig, 20);
        rig.disk.with(|disk| disk.release_all());
        rig.disk.settle();
        assert_eq!(rig.interrupts.counts().used, [1]);
        assert_eq!(drain_used(&mut rig, 0), 20);
    }
}

#[test]
fn the_driver_says_when_to_interrupt() {
    let mut rig = Rig::new(Setup { ring: 64, ..Setup::default() });
    rig.drivers[0].set_used_event(5);
    hold(&mut rig, 8);
    for done in 1..=8 {
        rig.disk.with(|disk| disk.release(0));
        rig.disk.settle();
        assert_eq!(rig.interrupts.counts().used, [u64::from(done >= 5)], "after {done}");
    }
}

#[test]
fn the_driver_turns_interrupts_off_by_a_flag() {
    let mut rig = Rig::new(Setup { event_idx: false, ..Setup::default() });
    rig.drivers[0].set_no_interrupt(true);
    hold(&mut rig, 2);
    rig.disk.with(|disk| disk.release(0));
    rig.disk.settle();
    assert_eq!(rig.interrupts.counts().used, [0]);
    rig.drivers[0].set_no_interrupt(false);
    rig.disk.with(|disk| disk.release(0));
    rig.disk.settle();
    assert_eq!(rig.interrupts.counts().used, [1]);
}

#[test]
fn one_kick_is_asked_for_when_the_ring_is_empty() {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        for _ in 0..100 {
            read(&mut rig, 0);
            assert!(rig.drivers[0].publish(), "an idle device waits for a kick");
            rig.wait_used(0);
            rig.disk.settle();
        }
    }
}

#[test]
fn no_kick_is_asked_for_behind_a_closed_gate() {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        rig.disk.with(|disk| disk.close());
        read(&mut rig, 0);
        assert!(rig.drivers[0].publish());
        rig.disk.settle();
        for _ in 0..4 {
            read(&mut rig, 0);
            assert!(!rig.drivers[0].publish());
        }
        rig.disk.with(|disk| disk.open());
        for _ in 0..5 {
            rig.wait_used(0);
        }
    }
}

#[test]
fn queues_are_independent() {
    let mut rig = Rig::new(Setup { queues: 3, ..Setup::default() });
    for queue in [2, 0, 1, 2] {
        read(&mut rig, queue);
        rig.drivers[queue].publish();
        rig.wait_used(queue);
    }
    assert_eq!(rig.disk.with(|disk| disk.log.borrow().len()), 4);
}

#[test]
fn indices_wrap_around() {
    let mut rig = Rig::new(Setup { ring: 256, ..Setup::default() });
    for _ in 0..900 {
        // Buffers are reused, or guest memory would not suffice.
        rig.drivers[0].heap = 1 << 20;
        for _ in 0..80 {
            read(&mut rig, 0);
        }
        rig.drivers[0].publish();
        for _ in 0..80 {
            rig.wait_used(0);
        }
    }
    assert_eq!(rig.drivers[0].next_avail, (72_000u32 % 65_536) as u16);
}

#[test]
fn the_bytes_in_flight_are_bounded() {
    let mut rig = Rig::new(Setup { ring: 64, size: 8 << 20, ..Setup::default() });
    rig.disk.with(|disk| disk.hold.set(true));
    for _ in 0..12 {
        // All of them use the same memory, since there is not enough for each.
        rig.drivers[0].heap = 1 << 20;
        rig.add(0, VIRTIO_BLK_T_IN, 0, Data::In(8 << 20));
    }
    rig.drivers[0].publish();
    for count in 8..=12 {
        rig.disk.settle();
        assert_eq!(rig.disk.with(|disk| disk.log.borrow().len()), count);
        rig.disk.with(|disk| disk.release(0));
    }
    rig.disk.with(|disk| disk.release_all());
    for _ in 0..12 {
        rig.wait_used(0);
    }
}

/// The actions of a driver, a disk and a monitor, in any order.
#[derive(Clone, Debug)]
enum Step {
    Post { queue: usize, count: usize },
    Publish { queue: usize },
    Reap { queue: usize },
    WantInterrupt { queue: usize, after: u16 },
    Hold,
    Release { index: usize },
    ReleaseAll,
    Gate { open: bool },
    Pause,
    Resume,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..2usize;
    prop_oneof![
        4 => (queue.clone(), 1..6usize).prop_map(|(queue, count)| Step::Post { queue, count }),
        4 => queue.clone().prop_map(|queue| Step::Publish { queue }),
        3 => queue.clone().prop_map(|queue| Step::Reap { queue }),
        2 => (queue, 1..5u16).prop_map(|(queue, after)| Step::WantInterrupt { queue, after }),
        1 => Just(Step::Hold),
        4 => any::<usize>().prop_map(|index| Step::Release { index }),
        1 => Just(Step::ReleaseAll),
        2 => any::<bool>().prop_map(|open| Step::Gate { open }),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_is_ever_stuck(event_idx: bool, steps in prop::collection::vec(step(), 0..60)) {
        let mut rig = Rig::new(Setup { queues: 2, event_idx, ..Setup::default() });
        let (mut posted, mut reaped) = ([0; 2], [0; 2]);
        for step in steps {
            match step {
                Step::Post { queue, count } => {
                    for _ in 0..count {
                        if rig.drivers[queue].free_descriptors() >= 3 {
                            read(&mut rig, queue);
                            posted[queue] += 1;
                        }
                    }
                }
                Step::Publish { queue } => drop(rig.drivers[queue].publish()),
                Step::Reap { queue } => reaped[queue] += drain_used(&mut rig, queue),
                Step::WantInterrupt { queue, after } => rig.drivers[queue].set_used_event(after),
                Step::Hold => rig.disk.with(|disk| disk.hold.set(true)),
                Step::Release { index } => rig.disk.with(move |disk| disk.release(index)),
                Step::ReleaseAll => rig.disk.with(|disk| disk.release_all()),
                Step::Gate { open: true } => rig.disk.with(|disk| disk.open()),
                Step::Gate { open: false } => rig.disk.with(|disk| disk.close()),
                Step::Pause => drop(rig.device.pause()),
                Step::Resume => rig.device.resume(),
                Step::Settle => rig.disk.settle(),
            }
        }
        // Everything is released, and from here on the driver relies on interrupts alone.
        rig.disk.with(|disk| { disk.release_all(); disk.open() });
        rig.device.resume();
        for queue in 0..2 {
            rig.drivers[queue].publish();
            while reaped[queue] < posted[queue] {
                rig.wait_used(queue);
                reaped[queue] += 1;
            }
        }
        rig.disk.settle();
        prop_assert_eq!(rig.interrupts.counts().needs_reset, 0);
        prop_assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
    }
}
