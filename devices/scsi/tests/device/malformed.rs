//! Chains that no driver may build, and valid chains with any bytes in them.

use proptest::prelude::*;
use virtio::Device;

use super::rig::{CONTROL, EVENT, POWER_ON, REQUEST, Rig};

/// Checks that a chain breaks the device until a reset.
fn refused(what: &str, queue: usize, out: &[u8], into: usize) {
    let mut rig = Rig::new(4);
    rig.offer(queue, out, into);
    rig.interrupts.wait(|counts| counts.needs_reset > 0);
    rig.drive.settle();
    assert_eq!(rig.interrupts.counts().needs_reset, 1, "{what}");
    assert_eq!(rig.drivers[queue].pop_used(), None, "{what}");
    rig.device.reset();
    rig.activate();
    rig.expect(&[0], POWER_ON);
}

#[test]
fn requests() {
    refused("half a CDB", REQUEST, &[0; 50], 108);
    refused("no CDB", REQUEST, &[], 108);
    refused("half of the sense data", REQUEST, &[0; 51], 107);
    refused("no response", REQUEST, &[0; 51], 0);
}

#[test]
fn control_requests() {
    refused("no type", CONTROL, &[0; 3], 8);
    refused("half a task management request", CONTROL, &[0; 23], 8);
    refused("no room for a response", CONTROL, &[0; 24], 0);
    refused("half a subscription", CONTROL, &[&[2][..], &[0; 14]].concat(), 8);
    refused("half the room for a subscription's answer", CONTROL, &[&[2][..], &[0; 15]].concat(), 4);
    refused("an unknown type", CONTROL, &[&[3][..], &[0; 40]].concat(), 8);
}

#[test]
fn events() {
    let mut rig = Rig::new(4);
    let subscribe = [&2_u32.to_le_bytes()[..], &super::rig::LUN, &16_u32.to_le_bytes()].concat();
    rig.offer(CONTROL, &subscribe, 5);
    rig.wait_used(CONTROL);
    rig.offer(EVENT, &[], 15);
    rig.drive.with(|drive| drive.change(None));
    rig.interrupts.wait(|counts| counts.needs_reset == 1);
}

#[test]
fn other_sizes_of_cdb_and_sense() {
    let mut rig = Rig::empty();
    rig.device.write_config(20, &4_u32.to_le_bytes());
    rig.device.write_config(24, &6_u32.to_le_bytes());
    // Power-on, then INQUIRY, both in the layout of these sizes.
    for (code, written) in [(0, 16), (0x12, 16 + 36)] {
        let request = [&super::rig::LUN[..], &[0; 11], &[code, 0, 0, 0, 36, 0]].concat();
        let (_, response) = rig.offer(REQUEST, &request, 16 + 36);
        assert_eq!(rig.wait_used(REQUEST).1, written);
        let sense_len: u32 = rig.drivers[REQUEST].get(response);
        assert_eq!(sense_len, if code == 0 { 4 } else { 0 });
        let status: u8 = rig.drivers[REQUEST].get(response + 10);
        assert_eq!(status, if code == 0 { 2 } else { 0 });
    }
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cdb_is_answered(
        cdbs in prop::collection::vec((prop::collection::vec(any::<u8>(), 16), 0usize..5000), 1..30),
        medium in 0usize..70_000,
    ) {
        // Commands that exist are more frequent than others.
        const KNOWN: &[u8] = b"\x00\x03\x08\x12\x1a\x1b\x1e\x25\x28\x35\x43\x46\x4a\x51\x5a\x88\xa0\xa8\xbd";
        let mut rig = Rig::new(1);
        rig.drive.with(move |drive| drive.put(Some(vec![7; medium])));
        for (mut cdb, room) in cdbs {
            if cdb[0] & 1 == 0 {
                cdb[0] = KNOWN[usize::from(cdb[0]) % KNOWN.len()];
                cdb[2..5].fill(0);
            }
            let answer = rig.command(&cdb, room);
            prop_assert!(answer.response <= 1 && answer.data.len() + answer.resid as usize == room);
        }
        prop_assert_eq!(rig.interrupts.counts().needs_reset, 0);
        prop_assert_eq!(rig.drive.with(|drive| drive.tickets()), 0);
    }
}
