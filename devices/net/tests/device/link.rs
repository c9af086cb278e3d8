//! A link that takes or gives nothing for a while, and one that ends.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::Duration;

use executor::sleep;
use rustix::time::{ClockId, clock_gettime};
use virtio::Device;
use virtio_net::MOST_FRAME;

use super::rig::{HEADER, RECEIVE, Rig, STATUS, TRANSMIT, frame};

#[test]
fn what_the_guest_has_no_room_for_stays_with_the_peer() {
    let mut rig = Rig::new();
    // Fill all that is between the two.
    rig.peer.set_nonblocking(true).unwrap();
    let mut stream = Vec::new();
    let mut count = 0;
    let mut written = 0;
    loop {
        if written == stream.len() {
            stream.extend([&1500_u32.to_be_bytes()[..], &frame(1500, count)].concat());
            count += 1;
        }
        match rig.peer.write(&stream[written..]) {
            Ok(more) => written += more,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                rig.settle();
                // Still full after the device has had its turn.
                match rig.peer.write(&stream[written..]) {
                    Ok(more) => written += more,
                    Err(_) => break,
                }
            }
        }
        assert!(count < 100_000, "the device takes frames without end");
    }
    rig.peer.set_nonblocking(false).unwrap();
    let rest = stream[written..].to_vec();
    let mut peer = rig.peer.try_clone().unwrap();
    let writer = std::thread::spawn(move || peer.write_all(&rest).unwrap());
    for seed in 0..count {
        rig.rewind(RECEIVE);
        let room = rig.room(HEADER + 1500);
        assert_eq!(rig.received(room), frame(1500, seed), "frame {seed} of {count}");
    }
    writer.join().unwrap();
}

/// Sends frames until the peer, which reads nothing, takes no more. Returns the number of chains given back.
fn fill(rig: &mut Rig) -> usize {
    let mut sent = 0;
    loop {
        rig.rewind(TRANSMIT);
        rig.send(&frame(60_000, sent));
        rig.settle();
        rig.settle();
        if rig.drivers[TRANSMIT].pop_used().is_none() {
            return sent;
        }
        sent += 1;
        assert!(sent < 10_000, "the device sends frames to nobody");
    }
}

#[test]
fn nobody_waits_for_a_peer_that_reads_nothing() {
    let mut rig = Rig::new();
    let sent = fill(&mut rig);
    assert!(sent > 0);
    // Neither a stop of the machine nor a reset waits.
    rig.device.pause().wait().unwrap();
    rig.device.resume();
    rig.device.reset();
    rig.activate();
    rig.send(&frame(100, 5));
    // A frame that is half sent is completed, and the stream stays in step.
    for seed in 0..sent {
        assert_eq!(rig.peer_receives(), frame(60_000, seed), "frame {seed} of {sent}");
    }
    assert_eq!(rig.peer_receives(), frame(100, 5));
    rig.used(TRANSMIT);
}

#[test]
fn what_was_half_received_before_a_reset_is_received_after_it() {
    let mut rig = Rig::new();
    let sent = [&1000_u32.to_be_bytes()[..], &frame(1000, 1)].concat();
    rig.peer.write_all(&sent[..500]).unwrap();
    rig.settle();
    rig.device.reset();
    rig.peer.write_all(&sent[500..]).unwrap();
    rig.activate();
    let room = rig.room(HEADER + 1000);
    assert_eq!(rig.received(room), frame(1000, 1));
}

#[test]
fn while_paused_frames_stay_where_they_are() {
    let mut rig = Rig::new();
    rig.device.pause().wait().unwrap();
    let room = rig.room(2000);
    rig.peer_sends(&frame(100, 1));
    rig.send(&frame(100, 2));
    rig.peer_has_nothing();
    assert_eq!(rig.drivers[RECEIVE].pop_used(), None);
    rig.device.resume();
    assert_eq!(rig.received(room), frame(100, 1));
    assert_eq!(rig.peer_receives(), frame(100, 2));
}

/// Checks that the guest is notified once that its link is down, that its frames vanish, and that the thread
/// has nothing to do.
fn is_down(mut rig: Rig) {
    rig.interrupts.wait(|counts| counts.config == 1);
    assert!(!rig.link_is_up());
    for _ in 0..20 {
        rig.rewind(TRANSMIT);
        rig.send(&frame(100, 1));
        assert_eq!(rig.used(TRANSMIT), 0);
    }
    let work = || async {
        let before = clock_gettime(ClockId::ThreadCPUTime);
        sleep(Duration::from_millis(200)).await;
        let after = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(after - before).unwrap()
    };
    let used = rig.thread.remote().call(work).wait().unwrap();
    assert!(used < Duration::from_millis(50), "a dead link takes {used:?} of 200 ms");
    // The link stays down.
    rig.device.reset();
    rig.activate();
    rig.room(2000);
    rig.send(&frame(100, 1));
    assert_eq!(rig.used(TRANSMIT), 0);
    rig.settle();
    assert!(!rig.link_is_up());
    let counts = rig.interrupts.counts();
    assert_eq!((counts.config, counts.needs_reset), (1, 0));
}

#[test]
fn a_peer_that_ends_takes_the_link_down() {
    let mut rig = Rig::new();
    rig.room(2000);
    assert!(rig.link_is_up());
    rig.peer.shutdown(Shutdown::Both).unwrap();
    is_down(rig);
    // The peer ends in the middle of a frame, and with the guest's frames on their way.
    rig = Rig::new();
    fill(&mut rig);
    rig.peer.write_all(&[0, 0, 1, 0, 7]).unwrap();
    rig.peer.shutdown(Shutdown::Both).unwrap();
    rig.used(TRANSMIT);
    is_down(rig);
}

#[test]
fn a_peer_that_is_out_of_step_takes_the_link_down() {
    for length in [MOST_FRAME as u32 + 1, u32::MAX] {
        let mut rig = Rig::new();
        rig.peer.write_all(&length.to_be_bytes()).unwrap();
        is_down(rig);
    }
}

#[test]
fn a_driver_that_does_not_know_of_links_is_not_interrupted() {
    let mut rig = Rig::without(STATUS);
    rig.peer.shutdown(Shutdown::Both).unwrap();
    // A frame to nobody comes back after the device has noticed the end.
    rig.settle();
    rig.send(&frame(100, 1));
    rig.used(TRANSMIT);
    assert!(!rig.link_is_up());
    assert_eq!(rig.interrupts.counts().config, 0);
}
