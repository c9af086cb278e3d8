//! A device that writes ten bytes whenever there is room, into chains of any size.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::driver::Piece;
use crate::queue::tests::Rig;

/// Writes ten bytes whenever there is room for them, in at most four chains.
async fn tell(queue: Queue) {
    let mut count = 0;
    loop {
        queue.available_beyond(count).await;
        count = match queue.room(10, 4) {
            Ok(room) => {
                room.write(&[b"0123", b"", b"456789"]);
                0
            }
            Err(NoRoom::NotEnough(count)) => count,
            // Reported to the driver in a way that the test sees.
            Err(NoRoom::CannotFit) => return queue.next().await.token.refuse(Malformed("too small")),
        };
    }
}

#[test]
fn one_chain_is_written_from_its_start() {
    let mut rig = Rig::new(true, tell);
    for room in [10, 12] {
        let to = rig.offer(b"", room);
        assert_eq!(rig.wait_used().1, 10);
        assert_eq!(rig.driver.bytes(to, room), b"0123456789\xee\xee"[..room]);
    }
}

#[test]
fn what_does_not_fit_yet_waits_and_holds_nothing() {
    for event_idx in [false, true] {
        let mut rig = Rig::new(event_idx, tell);
        for _ in 0..5 {
            let first = rig.offer(b"", 3);
            rig.settle();
            let second = rig.offer(b"", 4);
            rig.settle();
            assert_eq!(rig.driver.pop_used(), None);
            // Nothing is in flight, so the pause ends.
            rig.runner.pause().wait().unwrap();
            rig.runner.resume();
            rig.settle();
            let third = rig.offer(b"", 8);
            let lens = [rig.wait_used().1, rig.wait_used().1, rig.wait_used().1];
            assert_eq!(lens, [3, 4, 3]);
            assert_eq!(rig.driver.bytes(first, 3), b"012");
            assert_eq!(rig.driver.bytes(second, 4), b"3456");
            assert_eq!(rig.driver.bytes(third, 4), b"789\xee");
        }
        assert_eq!(rig.interrupts.counts().needs_reset, 0);
    }
}

#[test]
fn chains_of_one_write_are_used_at_one_time() {
    let mut rig = Rig::new(true, tell);
    let mut seen = BTreeSet::new();
    for round in 1..200_u16 {
        rig.driver.heap = 0x10_0000;
        let (used, memory) = (rig.driver.used() + 2, rig.driver.memory.clone());
        let (done, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = Vec::new();
                while !done.load(Ordering::Acquire) {
                    let index = memory.load::<u16>(GuestAddress(used), Ordering::Acquire).unwrap();
                    if seen.last() != Some(&index) {
                        seen.push(index);
                    }
                    ready.store(true, Ordering::Release);
                }
                seen
            });
            while !ready.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            for len in [3, 3, 4] {
                rig.offer(b"", len);
            }
            let lens = [rig.wait_used().1, rig.wait_used().1, rig.wait_used().1];
            assert_eq!(lens, [3, 3, 4]);
            done.store(true, Ordering::Release);
            seen.extend(watcher.join().unwrap().into_iter().map(|index| index % 3));
        });
        assert_eq!(seen, BTreeSet::from([0]), "in round {round}");
    }
}

#[test]
fn the_driver_hears_of_chains_between_those_that_it_asked_about() {
    let mut rig = Rig::new(true, tell);
    // The driver asks about the second of three entries, all of which are written at once.
    rig.driver.set_used_event(2);
    for len in [3, 3, 4] {
        rig.offer(b"", len);
    }
    rig.interrupts.wait(|counts| counts.used[0] == 1);
}

#[test]
fn too_many_small_chains_are_not_waited_for() {
    let mut rig = Rig::new(true, tell);
    for _ in 0..4 {
        assert_eq!(rig.interrupts.counts().needs_reset, 0);
        rig.offer(b"", 2);
        rig.settle();
    }
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
}

#[test]
fn chains_that_take_all_descriptors_are_the_last() {
    // With two of eight descriptors per chain, the fourth chain is the last; with three, the second is.
    for (each, chains) in [(2, 3), (3, 2)] {
        let mut rig = Rig::new(true, async |queue: Queue| {
            let mut count = 0;
            loop {
                queue.available_beyond(count).await;
                match queue.room(100, 8) {
                    Err(NoRoom::NotEnough(there)) => count = there,
                    _ => return queue.next().await.token.refuse(Malformed("too small")),
                }
            }
        });
        let piece = Piece { address: 0x10_0000, len: 1, write: true };
        for n in 0..chains {
            rig.driver.add(&vec![piece; each], false);
            rig.driver.publish();
            rig.settle();
            let is_last = n + 1 == chains && each == 3;
            assert_eq!(rig.interrupts.counts().needs_reset, u64::from(is_last), "{each} {n}");
        }
        if each == 2 {
            rig.driver.add(&[piece; 2], false);
            rig.driver.publish();
            rig.interrupts.wait(|counts| counts.needs_reset == 1);
        }
    }
}

#[test]
fn a_driver_that_takes_chains_back_is_heard_when_it_offers_more() {
    let mut rig = Rig::new(true, tell);
    rig.offer(b"", 2);
    rig.offer(b"", 2);
    rig.settle();
    // A driver must not do this; the two chains are forgotten until it offers more than there were.
    rig.driver.set_avail_index(0);
    rig.driver.kick.write(1).unwrap();
    rig.settle();
    rig.driver.set_avail_index(2);
    let to = rig.offer(b"", 8);
    assert_eq!([rig.wait_used().1, rig.wait_used().1, rig.wait_used().1], [2, 2, 6]);
    assert_eq!(rig.driver.bytes(to, 6), b"456789");
}

#[test]
fn bytes_to_read_break_the_device() {
    let mut rig = Rig::new(true, tell);
    rig.offer(b"", 4);
    rig.offer(b"a", 6);
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
    assert_eq!(rig.driver.pop_used(), None);
    rig.runner.pause().wait().unwrap();
}
