//! Every command and its response. The bytes are written by hand, from SPC-3 and MMC-5.

use block::ErrorKind;

use super::rig::{EMPTY, INVALID_FIELD, LUN, POWER_ON, Rig, medium};

const OVERRUN: u8 = 1;
const BAD_TARGET: u8 = 3;

/// Returns the READ command of each length, for `count` blocks at `block`.
fn reads(block: u32, count: u8) -> [Vec<u8>; 4] {
    let [b0, b1, b2, b3] = block.to_be_bytes();
    [
        vec![0x08, b1, b2, b3, count, 0],
        vec![0x28, 0, b0, b1, b2, b3, 0, 0, count, 0],
        vec![0xa8, 0, b0, b1, b2, b3, 0, 0, 0, count, 0, 0],
        vec![0x88, 0, 0, 0, 0, 0, b0, b1, b2, b3, 0, 0, 0, count, 0, 0],
    ]
}

#[test]
fn reads_of_every_length() {
    let mut rig = Rig::new(20);
    for cdb in reads(3, 2) {
        assert_eq!(rig.data(&cdb, 4096), medium(20)[3 * 2048..5 * 2048]);
    }
    // More room than is read.
    assert_eq!(rig.data(&reads(19, 1)[1], 4096).len(), 2048);
    // Reading no blocks is valid, except in six bytes, where 0 means 256 blocks.
    for cdb in &reads(20, 0)[1..] {
        assert!(rig.data(cdb, 0).is_empty());
    }
    assert_eq!(rig.command(&reads(0, 0)[0], 4096).response, OVERRUN);
    assert_eq!(rig.drive.with(|drive| drive.tickets()), 0);
}

#[test]
fn reads_beyond_the_end() {
    let mut rig = Rig::new(20);
    const RANGE: (u8, u8, u8) = (5, 0x21, 0);
    for (block, count) in [(20, 1), (19, 2), (0x1f_ffff, 1)] {
        for cdb in reads(block, count) {
            rig.expect(&cdb, RANGE);
        }
    }
    rig.expect(&[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0], RANGE);
    rig.expect(&[0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1], RANGE);
    // Longer than the room, and longer than any medium.
    assert_eq!(rig.command(&[0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], 4096).response, OVERRUN);
    assert_eq!(rig.command(&reads(0, 2)[1], 2048).response, OVERRUN);
}

#[test]
fn failed_reads() {
    let mut rig = Rig::new(4);
    for kind in [ErrorKind::Io, ErrorKind::Corrupt, ErrorKind::TimedOut] {
        rig.drive.with(move |drive| drive.fail.set(Some(kind)));
        rig.expect(&reads(0, 1)[1], (3, 0x11, 0));
    }
    rig.drive.with(|drive| drive.fail.set(None));
    assert_eq!(rig.data(&reads(0, 1)[1], 2048), medium(1));
}

#[test]
fn identity() {
    let mut rig = Rig::empty();
    let standard = rig.data(&[0x12, 0, 0, 0, 36, 0], 36);
    assert_eq!(standard[..8], [5, 0x80, 5, 2, 31, 0, 0, 2]);
    assert_eq!(&standard[8..], b"MILLRACECD-ROM          1.0 ");
    assert_eq!(rig.data(&[0x12, 0, 0, 0, 5, 0], 36), standard[..5]);
    assert_eq!(rig.data(&[0x12, 1, 0, 1, 0, 0], 256), [5, 0, 0, 3, 0, 0x80, 0x83]);
    assert_eq!(rig.data(&[0x12, 1, 0x80, 1, 0, 0], 256), *b"\x05\x80\0\x03cd0");
    assert_eq!(rig.data(&[0x12, 1, 0x83, 1, 0, 0], 256), *b"\x05\x83\0\x0f\x02\x01\0\x0bMILLRACEcd0");
    for cdb in [[0x12, 0, 0x80, 1, 0, 0], [0x12, 1, 0xb0, 1, 0, 0], [0x12, 2, 0, 1, 0, 0]] {
        rig.expect(&cdb, INVALID_FIELD);
    }
    // None of these has cleared the unit attention.
    rig.expect(&[0], POWER_ON);
}

#[test]
fn one_logical_unit() {
    let mut rig = Rig::new(1);
    let one = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(rig.data(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 256), one);
    assert_eq!(rig.data(&[0xa0, 0, 1, 0, 0, 0, 0, 0, 1, 0], 256), [0; 8]);
    rig.expect(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15], INVALID_FIELD);
    rig.expect(&[0xa0, 0, 3, 0, 0, 0, 0, 0, 1, 0], INVALID_FIELD);
    for lun in [[1, 0, 0, 0, 0, 0, 0, 0], LUN] {
        let posted = rig.post(lun, 1, &[0], 0);
        assert_eq!(rig.finish(posted).response, 0);
    }
    for (at, value) in [(0, 0), (0, 0xc1), (1, 1), (2, 0x80), (2, 0xff), (3, 1), (4, 1), (7, 0xff)] {
        let mut lun = LUN;
        lun[at] = value;
        let posted = rig.post(lun, 1, &[0x12, 0, 0, 0, 36], 36);
        assert_eq!(rig.finish(posted).response, BAD_TARGET, "{lun:?}");
    }
}

#[test]
fn capacity_and_contents() {
    let mut rig = Rig::new(400);
    assert_eq!(rig.data(&[0x25], 8), [0, 0, 1, 143, 0, 0, 8, 0]);
    // The first track and the lead-out, by block and by minute, second and frame.
    let blocks = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 1, 144];
    assert_eq!(rig.data(&[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256), blocks);
    let times = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 7, 25];
    assert_eq!(rig.data(&[0x43, 2, 0, 0, 0, 0, 0, 1, 0, 0], 256), times);
    assert_eq!(rig.data(&[0x43, 0, 0, 0, 0, 0, 0xaa, 1, 0, 0], 256)[..8], [0, 10, 1, 1, 0, 0x14, 0xaa, 0]);
    let sessions = [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0];
    assert_eq!(rig.data(&[0x43, 0, 1, 0, 0, 0, 0, 0, 12, 0], 12), sessions);
    assert_eq!(rig.data(&[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40], 12), sessions);
    rig.expect(&[0x43, 0, 0, 0, 0, 0, 2, 1, 0, 0], INVALID_FIELD);
    rig.expect(&[0x43, 0, 2, 0, 0, 0, 0, 1, 0, 0], INVALID_FIELD);
    let disc = rig.data(&[0x51, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!((disc.len(), &disc[..8]), (34, &[0, 32, 0x0e, 1, 1, 1, 1, 0x20][..]));
    rig.expect(&[0x51, 1, 0, 0, 0, 0, 0, 1, 0, 0], INVALID_FIELD);
    // A size that is not a multiple of a block, and a medium of size 0.
    rig.drive.with(|drive| drive.data.borrow_mut().truncate(3 * 2048 + 5));
    assert_eq!(rig.data(&[0x25], 8)[..4], [0, 0, 0, 2]);
    rig.drive.with(|drive| drive.data.borrow_mut().clear());
    assert_eq!(rig.data(&[0x25], 8)[..4], [0; 4]);
    rig.expect(&reads(0, 1)[1], (5, 0x21, 0));
}

#[test]
fn modes() {
    let mut rig = Rig::new(1);
    let short = rig.data(&[0x1a, 0, 0x2a, 0, 255, 0], 255);
    assert_eq!((short.len(), &short[..7]), (26, &[25, 0, 0, 0, 0x2a, 20, 0x0b][..]));
    assert_eq!(short[10], 0x29, "a tray that ejects and locks");
    rig.data(&[0x1e, 0, 0, 0, 1, 0], 0);
    let long = rig.data(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!((long.len(), &long[..2], long[14]), (30, &[0, 28][..], 0x2b));
    let all = rig.data(&[0x5a, 0, 0x3f, 0xff, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!((all.len(), all[8], all[20]), (42, 1, 0x2a));
    assert_eq!(
        rig.data(&[0x1a, 0, 0x41, 0, 255, 0], 255),
        [15, 0, 0, 0, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(rig.data(&[0x1a, 0, 0x6a, 0, 255, 0], 255)[6..], [0; 20]);
    rig.expect(&[0x1a, 0, 0x0e, 0, 255, 0], INVALID_FIELD);
    rig.expect(&[0x1a, 0, 0x2a, 1, 255, 0], INVALID_FIELD);
    rig.expect(&[0x1a, 0, 0xea, 0, 255, 0], (5, 0x39, 0));
}

#[test]
fn configuration() {
    let mut rig = Rig::new(10);
    let all = rig.data(&[0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!(all[..12], [0, 0, 0, 48, 0, 0, 0, 8, 0, 0, 3, 8]);
    assert_eq!(all[12..20], [0, 0x10, 0, 0, 0, 8, 1, 0], "a CD is in it");
    assert_eq!(rig.data(&[0x46, 2, 0, 3, 0, 0, 0, 1, 0, 0], 256)[8..], [0, 3, 3, 4, 0x29, 0, 0, 0]);
    assert_eq!(rig.data(&[0x46, 0, 0, 0x11, 0, 0, 0, 1, 0, 0], 256), [0, 0, 0, 4, 0, 0, 0, 8]);
    rig.expect(&[0x46, 3, 0, 0, 0, 0, 0, 1, 0, 0], INVALID_FIELD);
    rig.drive.with(|drive| drive.change(None));
    let current = rig.data(&[0x46, 1, 0, 0, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!((current.len(), &current[..8]), (40, &[0, 0, 0, 36, 0, 0, 0, 0][..]));
}

#[test]
fn what_needs_a_medium_and_what_does_not() {
    let mut rig = Rig::empty();
    rig.expect(&[0], POWER_ON);
    for cdb in
        [&[0][..], &[0x25], &[0x43, 0, 0, 0, 0, 0, 0, 1], &[0x51, 0, 0, 0, 0, 0, 0, 1], &reads(0, 1)[1]]
    {
        rig.expect(cdb, EMPTY);
    }
    for cdb in [&[0x35][..], &[0x1b, 0, 0, 0, 1], &[0x1b, 0, 0, 0, 0x30], &[0x1e]] {
        assert!(rig.data(cdb, 0).is_empty());
    }
    assert_eq!(rig.data(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8), [0; 8]);
    assert_eq!(rig.data(&[0x03, 0, 0, 0, 18, 0], 18)[..3], [0x70, 0, 0]);
}

#[test]
fn unknown_commands() {
    let mut rig = Rig::new(1);
    let known = [
        0x00, 0x03, 0x08, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x35, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0x88, 0xa0,
        0xa8, 0xbd,
    ];
    for code in (0..=255).filter(|code| !known.contains(code)) {
        rig.expect(&[code; 16], (5, 0x20, 0));
    }
}
