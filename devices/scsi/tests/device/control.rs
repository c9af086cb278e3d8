//! Task management, config space, pause and reset: everything around commands.

use virtio::Device;
use virtio_bindings::virtio_scsi::*;

use super::rig::{CONTROL, INVALID_FIELD, LUN, POWER_ON, Posted, REQUEST, Rig};
use virtio::driver::Piece;

const COMPLETE: u8 = 0;
const SUCCEEDED: u8 = VIRTIO_SCSI_S_FUNCTION_SUCCEEDED as u8;

fn post_read(rig: &mut Rig, tag: u64) -> Posted {
    rig.post(LUN, tag, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 2048)
}

/// The sense of a read beyond the last block.
const BEYOND: (u8, u8, u8) = (5, 0x21, 0);

/// Posts reads with these tags, which the drive holds.
fn held(rig: &mut Rig, tags: &[u64]) -> Vec<Posted> {
    rig.drive.with(|drive| drive.hold.set(true));
    let posted = tags.iter().map(|tag| post_read(rig, *tag)).collect();
    let count = tags.len();
    rig.drive.run(move |drive| drive.wait_held(count));
    posted
}

#[test]
fn aborts_await_what_is_in_flight() {
    let functions = [
        VIRTIO_SCSI_T_TMF_ABORT_TASK,
        VIRTIO_SCSI_T_TMF_ABORT_TASK_SET,
        VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET,
        VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
        VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET,
    ];
    for function in functions {
        let mut rig = Rig::new(4);
        let posted = held(&mut rig, &[5]);
        let (head, room) = rig.post_tmf(function, LUN, 5);
        rig.drive.settle();
        assert_eq!(rig.drivers[CONTROL].pop_used(), None, "{function}: a read is in flight");
        rig.drive.with(|drive| drive.release_all());
        assert_eq!(rig.wait_used(CONTROL).0, head);
        assert_eq!(rig.drivers[CONTROL].get::<u8>(room), COMPLETE);
        assert_eq!(rig.finish(posted[0]).data.len(), 2048, "it came before the answer");
        let is_reset = function >= VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET;
        if is_reset {
            rig.expect(&[0], POWER_ON);
        }
        rig.ready();
    }
}

#[test]
fn an_abort_reaches_what_the_gate_holds_up() {
    let mut rig = Rig::new(4);
    rig.drive.with(|drive| drive.close());
    let posted = post_read(&mut rig, 5);
    rig.post_tmf(VIRTIO_SCSI_T_TMF_ABORT_TASK, LUN, 5);
    rig.drive.settle();
    assert_eq!(rig.drivers[CONTROL].pop_used(), None);
    rig.drive.with(|drive| drive.open());
    rig.wait_used(CONTROL);
    rig.finish(posted);
}

#[test]
fn an_abort_awaits_only_its_task() {
    let mut rig = Rig::new(4);
    held(&mut rig, &[5, 6]);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, LUN, 7), COMPLETE);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_QUERY_TASK, LUN, 6), SUCCEEDED);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_QUERY_TASK, LUN, 7), COMPLETE);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_QUERY_TASK_SET, LUN, 0), SUCCEEDED);
    rig.drive.with(|drive| drive.release_all());
    rig.wait_used(REQUEST);
    rig.wait_used(REQUEST);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_QUERY_TASK_SET, LUN, 0), COMPLETE);
}

#[test]
fn what_task_management_refuses() {
    let mut rig = Rig::new(4);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, [1, 1, 0, 0, 0, 0, 0, 0], 0), 12);
    for function in [VIRTIO_SCSI_T_TMF_CLEAR_ACA, 8, u32::MAX] {
        assert_eq!(rig.manage(function, LUN, 0), 11);
    }
    rig.data(&[0x1e, 0, 0, 0, 1], 0);
    assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, LUN, 0), COMPLETE);
    assert!(!rig.drive.with(|drive| drive.tray.is_locked()), "a reset unlocks");
}

#[test]
fn paused_devices_deliver_and_then_rest() {
    let mut rig = Rig::new(4);
    let posted = held(&mut rig, &[1]);
    let paused = rig.device.pause();
    let later = post_read(&mut rig, 2);
    rig.drive.settle();
    rig.drive.with(|drive| drive.release_all());
    paused.wait().unwrap();
    rig.finish(posted[0]);
    assert_eq!(rig.drivers[REQUEST].pop_used(), None);
    assert_eq!(rig.drive.with(|drive| drive.tickets()), 0);
    rig.device.resume();
    rig.finish(later);
}

#[test]
fn a_reset_awaits_what_is_in_flight() {
    let mut rig = Rig::new(4);
    held(&mut rig, &[1, 2, 3]);
    let drive = rig.drive.clone();
    // Released before or after the reset begins: in both cases the reset ends, and nothing is delivered
    // afterwards.
    let release = std::thread::spawn(move || drive.with(|drive| drive.release_all()));
    rig.device.reset();
    release.join().unwrap();
    assert_eq!(rig.drive.with(|drive| drive.tickets()), 0);
    rig.activate();
    rig.expect(&[0], POWER_ON);
}

fn word(rig: &Rig, at: u64) -> u32 {
    let mut bytes = [0xaa; 4];
    rig.device.read_config(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn config_space() {
    let mut rig = Rig::new(4);
    let words: Vec<_> = (0..10).map(|n| word(&rig, 4 * n)).collect();
    assert_eq!(words, [1, 126, 2048, 32, 16, 96, 32, 0, 0, 0]);
    assert_eq!((word(&rig, u64::MAX), word(&rig, 1000)), (0, 0));
    let mut write = |at: u64, bytes: &[u8]| {
        rig.device.write_config(at, bytes);
        (word(&rig, 20), word(&rig, 24))
    };
    assert_eq!(write(20, &18_u32.to_le_bytes()), (18, 32));
    assert_eq!(write(24, &16_u32.to_le_bytes()), (18, 16));
    for (at, bytes) in [(0, &[9; 4][..]), (20, &[0xff; 4]), (24, &[0, 1, 0, 0]), (22, &[0; 4]), (24, &[1])] {
        assert_eq!(write(at, bytes), (18, 16));
    }
    rig.device.reset();
    assert_eq!((word(&rig, 20), word(&rig, 24)), (96, 32));
}

#[test]
fn any_number_of_commands_in_any_number_of_aborts() {
    let mut rig = Rig::new(4);
    rig.drive.settle();
    let request = [&LUN[..], &[0; 43]].concat();
    // The device is never kicked for the commands, only for the aborts, which find them.
    let (mut sent, heap) = (0_u32, rig.drivers[REQUEST].heap);
    while sent < 70_000 {
        for _ in 0..8 {
            let driver = &mut rig.drivers[REQUEST];
            let from = driver.alloc(&request);
            let pieces = [(from, 51, false), (from + 64, 108, true)];
            let pieces = pieces.map(|(address, len, write)| Piece { address, len, write });
            driver.add(&pieces, false);
            driver.set_avail_index(driver.next_avail);
            driver.heap = heap;
            sent += 1;
        }
        assert_eq!(rig.manage(VIRTIO_SCSI_T_TMF_ABORT_TASK_SET, LUN, 0), COMPLETE);
        let mut ended = 0;
        while rig.drivers[REQUEST].pop_used().is_some() {
            ended += 1;
        }
        assert_eq!(ended, 8, "all of them come before the answer");
        rig.drivers[CONTROL].heap = 2 << 20;
    }
    rig.ready();
}

#[test]
fn reads_longer_than_any_that_is_offered_are_refused() {
    let mut rig = Rig::new(4);
    // READ(12) of 16 MiB, and of one block more. The room for it is the same 4 MiB of memory several times.
    for (blocks, sense) in [(0x2000, BEYOND), (0x2001, INVALID_FIELD)] {
        let cdb = [&[0xa8, 0, 0, 0, 0, 0][..], &u32::to_be_bytes(blocks)].concat();
        let mut request = [&LUN[..], &[0; 11], &cdb].concat();
        request.resize(19 + 32, 0);
        let driver = &mut rig.drivers[REQUEST];
        driver.heap = 6 << 20;
        let (from, to) = (driver.alloc(&request), driver.alloc(&[0; 108]));
        let mut pieces = vec![(from, 51, false), (to, 108, true)];
        pieces.extend([(0x40_0000, 4 << 20, true); 5]);
        let pieces: Vec<_> =
            pieces.into_iter().map(|(address, len, write)| Piece { address, len, write }).collect();
        driver.add(&pieces, true);
        driver.publish();
        rig.wait_used(REQUEST);
        let answer = rig.drivers[REQUEST].bytes(to, 26);
        assert_eq!((answer[14], answer[24], answer[25]), sense, "{blocks}");
    }
    // The config space offers less than that, in 512-byte sectors.
    let mut sectors = [0; 4];
    rig.device.read_config(8, &mut sectors);
    assert!(u64::from(u32::from_le_bytes(sectors)) * 512 <= 16 << 20);
    assert_eq!(rig.data(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 4], 4 * 2048).len(), 4 * 2048);
}
