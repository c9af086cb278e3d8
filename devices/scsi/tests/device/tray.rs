//! The tray: the guest's own actions on it, and reports to the guest of the actions of others.

use virtio::Device;

use super::rig::{CHANGED, CONTROL, EMPTY, EVENT, INVALID_FIELD, LUN, OPEN, POWER_ON, REMOVED, Rig, medium};

const LOCK: [u8; 5] = [0x1e, 0, 0, 0, 1];
const UNLOCK: [u8; 5] = [0x1e, 0, 0, 0, 0];
const EJECT: [u8; 5] = [0x1b, 0, 0, 0, 2];
const LOAD: [u8; 5] = [0x1b, 0, 0, 0, 3];
const LOCKED: (u8, u8, u8) = (5, 0x53, 2);

/// Runs GET EVENT STATUS NOTIFICATION for media events. Returns the event and the drive's status.
fn poll(rig: &mut Rig) -> (u8, u8) {
    let data = rig.data(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0], 8);
    assert_eq!((&data[..4], &data[6..]), (&[0, 6, 4, 0x10][..], &[0, 0][..]));
    (data[4], data[5])
}

#[test]
fn a_change_is_told_once() {
    let mut rig = Rig::new(4);
    assert_eq!(poll(&mut rig), (0, 2));
    rig.drive.with(|drive| drive.change(Some(medium(9))));
    // Events and unit attentions are reported separately.
    assert_eq!(poll(&mut rig), (2, 2));
    assert_eq!(poll(&mut rig), (0, 2));
    rig.expect(&[0x25], REMOVED);
    rig.expect(&[0x25], CHANGED);
    assert_eq!(rig.data(&[0x25], 8)[..4], [0, 0, 0, 8]);
}

#[test]
fn a_quiet_change_is_not_told() {
    let mut rig = Rig::new(4);
    rig.drive.with(|drive| drive.put(Some(medium(9))));
    assert_eq!(poll(&mut rig), (0, 2));
    assert_eq!(rig.data(&[0x25], 8)[..4], [0, 0, 0, 8]);
}

#[test]
fn out_and_in_again_by_the_monitor() {
    let mut rig = Rig::new(4);
    rig.drive.with(|drive| drive.tray.set_open(true));
    assert_eq!(poll(&mut rig), (3, 1));
    rig.expect(&[0], REMOVED);
    rig.expect(&[0], OPEN);
    rig.drive.with(|drive| drive.put(None));
    rig.drive.with(|drive| drive.tray.set_open(false));
    rig.expect(&[0], EMPTY);
    assert_eq!(poll(&mut rig), (0, 0));
    rig.drive.with(|drive| drive.change(Some(medium(1))));
    assert_eq!(rig.data(&[0x03, 0, 0, 0, 18, 0], 18)[12], 0x3a, "REQUEST SENSE tells, too");
    assert_eq!(rig.data(&[0x03, 0, 0, 0, 18, 0], 18)[12], 0x28);
    assert_eq!(rig.data(&[0x03, 0, 0, 0, 18, 0], 18)[12], 0);
    rig.ready();
}

#[test]
fn the_guest_opens_and_closes() {
    let mut rig = Rig::new(4);
    rig.data(&EJECT, 0);
    assert!(rig.drive.with(|drive| drive.tray.is_open()));
    // The guest's own actions are not reported.
    assert_eq!(poll(&mut rig), (0, 1));
    rig.expect(&[0], OPEN);
    rig.data(&EJECT, 0);
    rig.data(&LOCK, 0);
    assert!(!rig.drive.with(|drive| drive.tray.is_locked()), "an open tray is not locked");
    assert_eq!(rig.data(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8)[1], 0x10);
    // The medium that is then in the drive is reported.
    rig.data(&LOAD, 0);
    assert_eq!(poll(&mut rig), (2, 2));
    rig.expect(&[0], CHANGED);
    rig.ready();
    rig.data(&LOAD, 0);
    rig.ready();
}

#[test]
fn a_locked_tray_stays_closed() {
    let mut rig = Rig::new(4);
    rig.data(&LOCK, 0);
    rig.expect(&EJECT, LOCKED);
    assert!(!rig.drive.with(|drive| drive.tray.is_open()));
    rig.drive.with(|drive| drive.ask_for_eject());
    assert_eq!(poll(&mut rig), (1, 2));
    assert_eq!(poll(&mut rig), (0, 2));
    rig.ready();
    rig.data(&UNLOCK, 0);
    rig.data(&EJECT, 0);
    rig.expect(&[0x1e, 0, 0, 0, 2], INVALID_FIELD);
}

#[test]
fn a_reset_unlocks_and_tells() {
    let mut rig = Rig::new(4);
    rig.data(&LOCK, 0);
    rig.drive.with(|drive| drive.change(Some(medium(5))));
    rig.expect(&UNLOCK, REMOVED);
    rig.expect(&[0], CHANGED);
    rig.data(&LOCK, 0);
    for _ in 0..5 {
        rig.device.reset();
        assert!(!rig.drive.with(|drive| drive.tray.is_locked()));
        rig.activate();
        rig.expect(&[0], POWER_ON);
        rig.ready();
    }
    assert_eq!(rig.drive.with(|drive| drive.listeners()), 1, "those before the resets are gone");
}

/// Sends a query or subscription of asynchronous notifications. Returns those that exist, and the response.
fn notifications(rig: &mut Rig, kind: u32, lun: [u8; 8], wanted: u32) -> (u32, u8) {
    let request = [&kind.to_le_bytes()[..], &lun, &wanted.to_le_bytes()].concat();
    let (head, room) = rig.offer(CONTROL, &request, 5);
    assert_eq!(rig.wait_used(CONTROL), (head, 5));
    (rig.drivers[CONTROL].get(room), rig.drivers[CONTROL].get(room + 4))
}

#[test]
fn events_for_who_subscribes() {
    const QUERY: u32 = 1;
    const SUBSCRIBE: u32 = 2;
    let mut rig = Rig::new(4);
    let (_, first) = rig.offer(EVENT, &[], 16);
    rig.drive.with(|drive| drive.change(Some(medium(5))));
    rig.drive.settle();
    assert_eq!(rig.drivers[EVENT].pop_used(), None, "nobody has subscribed");
    assert_eq!(notifications(&mut rig, QUERY, LUN, !0), (16, 0));
    assert_eq!(notifications(&mut rig, SUBSCRIBE, LUN, 2), (0, 0));
    assert_eq!(notifications(&mut rig, SUBSCRIBE, [1, 9, 0, 0, 0, 0, 0, 0], 16), (0, 12));
    assert_eq!(notifications(&mut rig, SUBSCRIBE, LUN, 16 | 2), (16, 0));
    rig.drive.with(|drive| drive.change(Some(medium(6))));
    assert_eq!(rig.wait_used(EVENT).1, 16);
    let event = [&2_u32.to_le_bytes()[..], &LUN, &16_u32.to_le_bytes()].concat();
    assert_eq!(rig.drivers[EVENT].bytes(first, 16), event);
    // Without a buffer the event waits for one, and a pause does not wait for it.
    rig.drive.with(|drive| drive.change(None));
    rig.drive.with(|drive| drive.change(Some(medium(6))));
    rig.device.pause().wait().unwrap();
    rig.device.resume();
    rig.offer(EVENT, &[], 20);
    assert_eq!(rig.wait_used(EVENT).1, 16);
    rig.offer(EVENT, &[], 16);
    rig.drive.settle();
    assert_eq!(rig.drivers[EVENT].pop_used(), None, "two changes are one event");
}
