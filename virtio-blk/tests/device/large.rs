//! Requests of any size: one that is longer than a piece is done in pieces, and between two of them nobody
//! waits for the request.

use block::ErrorKind;
use block::disk::PIECE;
use block::disk::fake::Op;
use block::{ErrorAction, OnError};
use virtio::Device;
use virtio::driver::Piece;
use virtio_bindings::virtio_blk::*;

use super::rig::{BORDER, Posted, Rig, Setup, header};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const DISK: usize = 80 << 20;

/// Guest memory that all data descriptors may name.
const PAGE: u64 = BORDER;

fn rig(on_error: OnError) -> Rig {
    let setup = Setup { size: DISK, ring: 64, on_read: on_error, on_write: on_error, ..Setup::default() };
    Rig::new(setup)
}

/// Posts a read or write of `len` bytes whose descriptors all name the same 2 MiB.
fn post(rig: &mut Rig, kind: u32, sector: u64, len: u64) -> Posted {
    const PART: u64 = 2 << 20;
    let driver = &mut rig.drivers[0];
    let header = driver.alloc(&header(kind, sector));
    let status = driver.alloc(&[0xff]);
    let write = kind == VIRTIO_BLK_T_IN;
    let parts = (0..len).step_by(PART as usize);
    let data = parts.map(|at| Piece { address: PAGE, len: PART.min(len - at) as u32, write });
    let mut pieces = vec![Piece { address: header, len: 16, write: false }];
    pieces.extend(data);
    pieces.push(Piece { address: status, len: 1, write: true });
    let head = driver.add(&pieces, true);
    driver.publish();
    Posted { queue: 0, head, data: PAGE, status }
}

/// Posts a discard or write-zeroes request with segments of (sector, sectors).
fn post_ranges(rig: &mut Rig, kind: u32, ranges: &[(u64, u32)]) -> Posted {
    let segment = |(sector, sectors): &(u64, u32)| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &[0; 4]].concat()
    };
    let bytes: Vec<u8> = ranges.iter().flat_map(segment).collect();
    let posted = rig.add(0, kind, 0, super::rig::Data::Out(&bytes));
    rig.drivers[0].publish();
    posted
}

fn finish(rig: &mut Rig, posted: &Posted) -> (u8, u32) {
    let (head, written) = rig.wait_used(0);
    assert_eq!(head, posted.head);
    (rig.status(posted), written)
}

fn log(rig: &Rig) -> Vec<Op> {
    rig.disk.with(|disk| disk.log.take())
}

fn most_carried(rig: &Rig) -> u64 {
    rig.disk.with(|disk| disk.most_carried.get())
}

#[test]
fn reads_and_writes_of_any_length_are_served_in_pieces() {
    let mut rig = rig(OnError::Report);
    for len in [512, PIECE - 512, PIECE, PIECE + 512, 3 * PIECE, 5 * PIECE] {
        for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
            for sector in [0, 1, (DISK as u64 - len) / 512] {
                if sector * 512 + len > DISK as u64 {
                    continue;
                }
                rig.drivers[0].heap = 1 << 20;
                let posted = post(&mut rig, kind, sector, len);
                let written = if kind == VIRTIO_BLK_T_IN { len as u32 + 1 } else { 1 };
                assert_eq!(finish(&mut rig, &posted), (OK, written), "{kind} {sector} {len}");
                let mut at = sector * 512;
                for op in log(&rig) {
                    let (Op::Read(offset, n) | Op::Write(offset, n)) = op else { panic!("{op:?}") };
                    assert_eq!(offset, at);
                    assert!(n as u64 <= PIECE);
                    at += n as u64;
                }
                assert_eq!(at, sector * 512 + len);
            }
        }
    }
    assert_eq!(most_carried(&rig), PIECE);
    // One sector beyond the disk's end: nothing is done.
    let posted = post(&mut rig, VIRTIO_BLK_T_IN, 1, DISK as u64);
    assert_eq!(finish(&mut rig, &posted).0, IOERR);
    assert_eq!(log(&rig), []);
}

#[test]
fn long_ranges_are_zeroed_in_pieces_and_short_ones_together() {
    let mut rig = rig(OnError::Report);
    let mib = |n: u64| n << 20;
    let sectors = |n: u64| (n << 20) as u32 / 512;
    let posted = post_ranges(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, &[(mib(1) / 512, sectors(40))]);
    assert_eq!(finish(&mut rig, &posted).0, OK);
    let zeroed = |at, len| Op::WriteZeroes(mib(at), mib(len), false);
    assert_eq!(log(&rig), [zeroed(1, 15), zeroed(16, 16), zeroed(32, 9)]);
    // Four short ranges with one ticket, and a long one.
    let short = |n: u64| (mib(2 * n) / 512, sectors(1));
    let ranges = [short(0), short(1), short(2), short(3), (mib(16) / 512, sectors(32))];
    let posted = post_ranges(&mut rig, VIRTIO_BLK_T_DISCARD, &ranges);
    rig.disk.settle();
    assert_eq!(finish(&mut rig, &posted).0, OK);
    let gone = |at, len| Op::Discard(mib(at), mib(len));
    assert_eq!(log(&rig), [gone(0, 1), gone(2, 1), gone(4, 1), gone(6, 1), gone(16, 16), gone(32, 16)]);
    assert_eq!(most_carried(&rig), PIECE);
}

#[test]
fn a_pause_waits_for_a_piece_and_the_rest_comes_after_it() {
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        let mut rig = rig(OnError::Report);
        rig.disk.with(|disk| disk.hold.set(true));
        let posted = post(&mut rig, kind, 0, 4 * PIECE);
        rig.disk.run(|disk| disk.wait_held(1));
        let paused = rig.device.pause();
        rig.disk.with(|disk| disk.release_all());
        paused.wait().unwrap();
        rig.disk.settle();
        assert_eq!(log(&rig).len(), 1, "nothing more while it is stopped");
        assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
        assert_eq!(rig.status(&posted), 0xff);
        rig.device.resume();
        assert_eq!(finish(&mut rig, &posted).0, OK);
        assert_eq!(log(&rig).len(), 3);
        assert_eq!(rig.interrupts.counts().needs_reset, 0);
    }
}

#[test]
fn a_switch_waits_for_a_piece_and_the_rest_goes_to_what_is_then_there() {
    let mut rig = rig(OnError::Report);
    rig.disk.with(|disk| disk.hold.set(true));
    let posted = post_ranges(&mut rig, VIRTIO_BLK_T_DISCARD, &[(0, 4 * PIECE as u32 / 512)]);
    rig.disk.run(|disk| disk.wait_held(1));
    rig.disk.with(|disk| {
        disk.close();
        disk.release_all();
    });
    rig.disk.run(|disk| disk.drain());
    rig.disk.settle();
    assert_eq!(log(&rig).len(), 1);
    // A stop while the gate is closed has nothing to wait for either.
    rig.device.pause().wait().unwrap();
    rig.disk.with(|disk| disk.open());
    rig.disk.settle();
    assert_eq!(log(&rig), []);
    rig.device.resume();
    assert_eq!(finish(&mut rig, &posted).0, OK);
    assert_eq!(log(&rig).len(), 3);
}

#[test]
fn a_reset_waits_for_a_piece_and_forgets_the_rest() {
    let mut rig = rig(OnError::Report);
    for settle in [false, true] {
        rig.disk.with(|disk| disk.hold.set(true));
        let posted = post(&mut rig, VIRTIO_BLK_T_OUT, 0, 5 * PIECE);
        rig.disk.run(|disk| disk.wait_held(1));
        if settle {
            // Between two pieces.
            rig.disk.with(|disk| disk.close());
            rig.disk.with(|disk| disk.release_all());
            rig.disk.settle();
        }
        let disk = rig.disk.clone();
        let release = std::thread::spawn(move || {
            while !settle && disk.with(|disk| disk.tickets()) > 0 {
                disk.with(|disk| disk.release(0));
            }
        });
        rig.device.reset();
        release.join().unwrap();
        rig.disk.with(|disk| {
            disk.open();
            disk.release_all();
        });
        rig.disk.settle();
        assert!(log(&rig).len() < 5, "its rest is done with");
        assert_eq!(rig.status(&posted), 0xff);
        assert_eq!(rig.disk.with(|disk| disk.tickets()), 0);
        assert_eq!(rig.interrupts.counts().needs_reset, 0);
        rig.activate();
        let posted = post(&mut rig, VIRTIO_BLK_T_IN, 0, 512);
        assert_eq!(finish(&mut rig, &posted).0, OK);
        log(&rig);
    }
}

#[test]
fn each_piece_has_the_errors_of_its_own() {
    let fail = |rig: &Rig, kind| rig.disk.with(move |disk| disk.fail.set(kind));
    let told = |rig: &Rig| std::mem::take(&mut *rig.errors.lock().unwrap()).len();

    let mut reporting = rig(OnError::Report);
    fail(&reporting, Some(ErrorKind::Io));
    let posted = post(&mut reporting, VIRTIO_BLK_T_IN, 0, 3 * PIECE);
    assert_eq!(finish(&mut reporting, &posted).0, IOERR);
    assert_eq!((log(&reporting).len(), told(&reporting)), (1, 1), "the rest is not tried");

    let mut ignoring = rig(OnError::Ignore);
    fail(&ignoring, Some(ErrorKind::Io));
    ignoring.drivers[0].put(0x77_u8, PAGE);
    let posted = post(&mut ignoring, VIRTIO_BLK_T_IN, 0, 3 * PIECE);
    assert_eq!(finish(&mut ignoring, &posted), (OK, 3 * PIECE as u32 + 1));
    assert_eq!(ignoring.drivers[0].get::<u8>(PAGE), 0);
    assert_eq!(log(&ignoring).len(), 3, "each has its attempt");

    let mut stopping = rig(OnError::Stop);
    let posted = post(&mut stopping, VIRTIO_BLK_T_OUT, 0, 3 * PIECE);
    assert_eq!(finish(&mut stopping, &posted).0, OK);
    log(&stopping);
    stopping.disk.with(|disk| disk.hold.set(true));
    let posted = post(&mut stopping, VIRTIO_BLK_T_OUT, 0, 3 * PIECE);
    stopping.disk.run(|disk| disk.wait_held(1));
    stopping.disk.with(|disk| disk.release(0));
    stopping.disk.run(|disk| disk.wait_held(1));
    fail(&stopping, Some(ErrorKind::NoSpace));
    stopping.disk.with(|disk| disk.release_all());
    stopping.disk.settle();
    assert_eq!(stopping.errors.lock().unwrap()[0].action, ErrorAction::Stop);
    stopping.device.pause().wait().unwrap();
    fail(&stopping, None);
    stopping.device.resume();
    assert_eq!(finish(&mut stopping, &posted).0, OK);
    let offsets: Vec<_> = log(&stopping)
        .into_iter()
        .map(|op| match op {
            Op::Write(offset, _) => offset / PIECE,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(offsets, [0, 1, 1, 2], "what is done is not done again");
}
