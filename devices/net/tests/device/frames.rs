//! Frames in both directions, whatever the driver's buffers look like.

use proptest::prelude::*;
use virtio::Device;
use virtio_net::MOST_FRAME;

use super::rig::{HEADER, MAC, MERGEABLE, RECEIVE, Rig, TRANSMIT, frame};

#[test]
fn config_space_tells_address_and_link() {
    let rig = Rig::new();
    let mut space = [0xff; 16];
    rig.device.read_config(0, &mut space);
    assert_eq!(space[..6], MAC);
    assert_eq!(space[6..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut beyond = [0xff; 8];
    for offset in [4096, u64::MAX] {
        rig.device.read_config(offset, &mut beyond);
        assert_eq!(beyond, [0; 8]);
    }
}

#[test]
fn frames_of_all_lengths_go_both_ways() {
    let mut rig = Rig::new();
    for len in [14, 15, 60, 1514, 9014, MOST_FRAME] {
        let (up, down) = (frame(len, 1), frame(len, 2));
        rig.send(&up);
        assert_eq!(rig.used(TRANSMIT), 0);
        assert_eq!(rig.peer_receives(), up);
        let room = rig.room(HEADER + len + 100);
        rig.peer_sends(&down);
        assert_eq!(rig.received(room), down);
        rig.rewind(RECEIVE);
        rig.rewind(TRANSMIT);
    }
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}

#[test]
fn a_frame_that_is_too_short_or_too_long_is_not_sent() {
    let mut rig = Rig::new();
    for len in [0, 1, 13, MOST_FRAME + 1, 100_000] {
        rig.rewind(TRANSMIT);
        rig.offer(TRANSMIT, &[(&[&[0; HEADER][..], &frame(len, 1)].concat(), false)]);
        assert_eq!(rig.used(TRANSMIT), 0, "it is given back");
    }
    rig.peer_has_nothing();
    rig.send(&frame(20, 2));
    assert_eq!(rig.peer_receives(), frame(20, 2));
}

#[test]
fn a_frame_that_is_too_short_is_not_received() {
    let mut rig = Rig::new();
    let room = rig.room(2000);
    rig.peer_sends(&[]);
    rig.peer_sends(&frame(13, 1));
    rig.peer_sends(&frame(14, 2));
    assert_eq!(rig.received(room), frame(14, 2));
}

#[test]
fn a_long_frame_takes_as_many_buffers_as_it_needs() {
    let mut rig = Rig::new();
    let rooms: Vec<_> = (0..4).map(|_| rig.room(1000)).collect();
    let long = frame(2500, 1);
    rig.peer_sends(&long);
    let lens = [rig.used(RECEIVE), rig.used(RECEIVE), rig.used(RECEIVE)];
    assert_eq!(lens, [1000, 1000, HEADER + 2500 - 2000]);
    let bytes: Vec<u8> =
        rooms.iter().zip(lens).flat_map(|(room, len)| rig.drivers[RECEIVE].bytes(*room, len)).collect();
    assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
    assert_eq!(bytes[HEADER..], long);
    rig.peer_sends(&frame(60, 2));
    assert_eq!(rig.received(rooms[3]), frame(60, 2));
}

#[test]
fn a_long_frame_waits_for_buffers_and_those_behind_it_wait_too() {
    let mut rig = Rig::new();
    let first = rig.room(1000);
    rig.peer_sends(&frame(1500, 1));
    rig.peer_sends(&frame(60, 2));
    rig.settle();
    assert_eq!(rig.drivers[RECEIVE].pop_used(), None);
    let second = rig.room(1000);
    assert_eq!([rig.used(RECEIVE), rig.used(RECEIVE)], [1000, HEADER + 1500 - 1000]);
    let bytes = [rig.drivers[RECEIVE].bytes(first, 1000), rig.drivers[RECEIVE].bytes(second, 512)].concat();
    assert_eq!(bytes[HEADER..], frame(1500, 1));
    let third = rig.room(1000);
    assert_eq!(rig.received(third), frame(60, 2));
}

#[test]
fn a_frame_that_the_whole_ring_cannot_take_is_dropped() {
    let mut rig = Rig::new();
    for _ in 0..16 {
        rig.room(100);
    }
    rig.peer_sends(&frame(1600, 1));
    rig.peer_sends(&frame(60, 2));
    assert_eq!(rig.used(RECEIVE), HEADER + 60);
}

#[test]
fn a_frame_that_the_whole_ring_cannot_take_is_dropped_whatever_the_chains_are() {
    // Header and data are separate: sixteen descriptors make only eight chains.
    let mut rig = Rig::new();
    let rooms: Vec<_> =
        (0..8).map(|_| rig.offer(RECEIVE, &[(&[0xee; HEADER], true), (&[0xee; 100], true)])[1]).collect();
    rig.peer_sends(&frame(2000, 1));
    rig.peer_sends(&frame(60, 2));
    assert_eq!(rig.used(RECEIVE), HEADER + 60);
    assert_eq!(rig.drivers[RECEIVE].bytes(rooms[0], 60), frame(60, 2));
}

#[test]
fn without_mergeable_buffers_a_frame_has_one_or_none() {
    let mut rig = Rig::without(MERGEABLE);
    let rooms = [rig.room(1526), rig.room(1526)];
    rig.peer_sends(&frame(1515, 1));
    rig.peer_sends(&frame(1514, 2));
    rig.peer_sends(&frame(1514, 3));
    assert_eq!(rig.received(rooms[0]), frame(1514, 2));
    assert_eq!(rig.received(rooms[1]), frame(1514, 3));
}

/// Cuts `bytes` at these places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index], write: bool) -> Vec<(&'a [u8], bool)> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(bytes.len())).collect();
    places.push(bytes.len());
    places.sort_unstable();
    let mut from = 0;
    let pieces = places.into_iter().map(|to| {
        let piece = &bytes[from..to];
        from = to;
        (piece, write)
    });
    pieces.filter(|(piece, _)| !piece.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_drivers_cuts_do_not_matter(
        frames in prop::collection::vec((14usize..3000, prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 1..8),
    ) {
        let mut rig = Rig::new();
        for (seed, (len, places)) in frames.iter().enumerate() {
            let sent = frame(*len, seed);
            let bytes = [&[0xaa; HEADER][..], &sent].concat();
            rig.offer(TRANSMIT, &cut(&bytes, places, false));
            prop_assert_eq!(rig.peer_receives(), sent.clone());
            rig.used(TRANSMIT);

            let room = vec![0xee; HEADER + len];
            // The pieces lie one behind the other.
            let start = rig.offer(RECEIVE, &cut(&room, places, true))[0];
            rig.peer_sends(&sent);
            prop_assert_eq!(rig.received(start), sent);
        }
        prop_assert_eq!(rig.interrupts.counts().needs_reset, 0);
    }
}
