//! Every command, its result, and the requests that are refused.

use block::ErrorKind;
use block::disk::fake::Op;
use virtio::Device;
use virtio_bindings::virtio_blk::*;

use super::rig::{Data, Rig, Setup};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

fn log(rig: &Rig) -> Vec<Op> {
    rig.disk.with(|disk| disk.log.take())
}

/// One `struct virtio_blk_discard_write_zeroes`.
fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn reads_and_writes() {
    let mut rig = Rig::new(Setup::default());
    let bytes: Vec<u8> = (0..4096).map(|n| (n % 251) as u8).collect();
    let (status, written, _) = rig.request(VIRTIO_BLK_T_OUT, 3, Data::Out(&bytes));
    assert_eq!((status, written), (OK, 1));
    let (status, written, read) = rig.request(VIRTIO_BLK_T_IN, 3, Data::In(4096));
    assert_eq!((status, written), (OK, 4097));
    assert_eq!(read, bytes);
    assert_eq!(log(&rig), [Op::Write(1536, 4096), Op::Read(1536, 4096)]);
}

#[test]
fn the_whole_disk_and_not_a_sector_more() {
    let mut rig = Rig::new(Setup { size: 8192 + 100, ..Setup::default() });
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(8192)).0, OK);
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 15, Data::In(512)).0, OK);
    for (sector, len) in [(16, 512), (15, 1024), (u64::MAX, 512), (u64::MAX / 512, 1024), (1 << 55, 512)] {
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, sector, Data::In(len)).0, IOERR, "{sector} {len}");
        assert_eq!(rig.request(VIRTIO_BLK_T_OUT, sector, Data::Out(&vec![1; len])).0, IOERR);
    }
    assert_eq!(log(&rig).len(), 2, "the disk was asked for nothing outside of it");
}

#[test]
fn lengths_that_are_no_sectors_are_refused() {
    let mut rig = Rig::new(Setup::default());
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(511)), (IOERR, 0, vec![0xee; 511]));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[1; 513])).0, IOERR);
    assert_eq!(log(&rig), []);
}

#[test]
fn flush_and_identity() {
    let mut rig = Rig::new(Setup::default());
    let (status, written, _) = rig.request(VIRTIO_BLK_T_FLUSH, 0, Data::In(0));
    assert_eq!((status, written), (OK, 1));
    let (status, written, id) = rig.request(VIRTIO_BLK_T_GET_ID, 0, Data::In(20));
    assert_eq!((status, written, &id[..]), (OK, 21, &b"a serial of more than twenty bytes"[..20]));
    let (status, written, id) = rig.request(VIRTIO_BLK_T_GET_ID, 0, Data::In(32));
    assert_eq!((status, written, &id[18..22]), (OK, 20, &b"ha\xee\xee"[..]));
    assert_eq!(log(&rig), [Op::Flush]);
}

#[test]
fn discard_and_write_zeroes() {
    let mut rig = Rig::new(Setup::default());
    let two = [segment(8, 8, 0), segment(32, 1, 0)].concat();
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, Data::Out(&two)).0, OK);
    let both = [segment(1, 2, 0), segment(5, 3, 1)].concat();
    assert_eq!(rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, Data::Out(&both)).0, OK);
    let done = [
        Op::Discard(4096, 4096),
        Op::Discard(16384, 512),
        Op::WriteZeroes(512, 1024, false),
        Op::WriteZeroes(2560, 1536, true),
    ];
    assert_eq!(log(&rig), done);

    let far = segment(2048, 1, 0);
    let mixed = [segment(0, 1, 0), far.clone()].concat();
    let wrapping = segment(u64::MAX, 1, 0);
    let long = segment(0, u32::MAX, 0);
    let many = segment(0, 1, 0).repeat(17);
    for bad in [&far[..], &mixed, &wrapping, &long, &many, &far[..15], &[]] {
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(rig.request(kind, 0, Data::Out(bad)).0, IOERR, "{kind} {bad:?}");
        }
    }
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, Data::Out(&segment(0, 1, 1))).0, UNSUPP);
    assert_eq!(rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, Data::Out(&segment(0, 1, 2))).0, UNSUPP);
    assert_eq!(log(&rig), [], "a request with one bad segment does nothing");
}

#[test]
fn unknown_commands_are_unsupported() {
    let mut rig = Rig::new(Setup::default());
    for kind in [2, 3, 5, VIRTIO_BLK_T_SECURE_ERASE, 0x8000_0000, u32::MAX] {
        let (status, written, data) = rig.request(kind, 0, Data::In(512));
        assert_eq!((status, written, data), (UNSUPP, 0, vec![0xee; 512]));
    }
}

#[test]
fn errors_map_to_statuses() {
    let mut rig = Rig::new(Setup::default());
    use ErrorKind::*;
    for kind in [Io, NoSpace, ReadOnly, OutOfRange, Unsupported, Corrupt, Invalid, InUse, TimedOut, Cancelled]
    {
        rig.disk.with(move |disk| disk.fail.set(Some(kind)));
        let want = if kind == Unsupported { UNSUPP } else { IOERR };
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, want);
        assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[0; 512])).0, want);
        assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, Data::In(0)).0, want);
    }
    rig.disk.with(|disk| disk.fail.set(None));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, OK, "an error leaves no trace");
    assert_eq!(rig.interrupts.counts().needs_reset, 0);
}

#[test]
fn read_only_disks_are_only_read() {
    let mut rig = Rig::new(Setup { read_only: true, ..Setup::default() });
    assert_ne!(rig.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, Data::In(512)).0, OK);
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[0; 512])).0, IOERR);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(rig.request(kind, 0, Data::Out(&segment(0, 1, 0))).0, IOERR);
    }
    assert_eq!(log(&rig), [Op::Read(0, 512)]);

    // A disk may become read-only later, by a switch.
    let mut rig = Rig::new(Setup::default());
    rig.disk.with(|disk| disk.read_only.set(true));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[0; 512])).0, IOERR);
    assert_eq!(log(&rig), []);
}

#[test]
fn drivers_that_never_flush_get_write_through() {
    let mut rig = Rig::new(Setup { without: 1 << VIRTIO_BLK_F_FLUSH, ..Setup::default() });
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[7; 512])).0, OK);
    assert_eq!(rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, Data::Out(&segment(4, 1, 0))).0, OK);
    let expected = [Op::Write(0, 512), Op::Flush, Op::WriteZeroes(2048, 512, false), Op::Flush];
    assert_eq!(log(&rig), expected);
}

#[test]
fn the_driver_chooses_the_cache_mode() {
    let writeback = |rig: &Rig| {
        let mut value = [9];
        rig.device.read_config(32, &mut value);
        value[0]
    };
    let mut rig = Rig::new(Setup::default());
    assert_eq!(writeback(&rig), 1);
    rig.device.write_config(32, &[0]);
    assert_eq!(writeback(&rig), 0);
    rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[7; 512]));
    rig.device.write_config(30, &[0, 0, 1, 0]);
    assert_eq!(writeback(&rig), 1);
    rig.request(VIRTIO_BLK_T_OUT, 0, Data::Out(&[7; 512]));
    assert_eq!(log(&rig), [Op::Write(0, 512), Op::Flush, Op::Write(0, 512)]);

    // Not negotiated: the write is ignored.
    let mut rig = Rig::new(Setup { without: 1 << VIRTIO_BLK_F_CONFIG_WCE, ..Setup::default() });
    rig.device.write_config(32, &[0]);
    assert_eq!(writeback(&rig), 1);
    // A reset forgets the driver's choice.
    let mut rig = Rig::new(Setup::default());
    rig.device.write_config(32, &[0]);
    rig.device.reset();
    assert_eq!(writeback(&rig), 1);
}
