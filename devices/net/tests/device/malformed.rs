//! Chains that no driver may build.

use virtio::Device;

use super::rig::{HEADER, RECEIVE, Rig, TRANSMIT, frame};

/// Checks that a chain breaks the device until a reset.
fn refused(what: &str, queue: usize, pieces: &[(&[u8], bool)]) {
    let mut rig = Rig::new();
    rig.offer(queue, pieces);
    if queue == RECEIVE {
        rig.peer_sends(&frame(100, 1));
    }
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
    assert_eq!(rig.drivers[queue].pop_used(), None, "{what}");
    rig.device.reset();
    rig.activate();
    if queue == RECEIVE {
        // The frame was not at fault.
        let room = rig.room(2000);
        assert_eq!(rig.received(room), frame(100, 1));
    }
    rig.send(&frame(60, 2));
    assert_eq!(rig.peer_receives(), frame(60, 2));
}

#[test]
fn frames_to_send() {
    refused("half a header", TRANSMIT, &[(&[0; HEADER - 1], false)]);
    refused("room behind a frame", TRANSMIT, &[(&[0; HEADER + 60], false), (&[0; 8], true)]);
    refused("room and nothing else", TRANSMIT, &[(&[0; 100], true)]);
}

#[test]
fn room_to_receive() {
    refused("bytes and room", RECEIVE, &[(&[0; HEADER], false), (&[0; 2000], true)]);
    refused("bytes and no room", RECEIVE, &[(&[0; 2000], false)]);
}
