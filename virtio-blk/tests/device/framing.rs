//! A request is bytes, not descriptors (virtio 1.2, 2.7.4.1): every way to cut it means the same.

use proptest::prelude::*;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::{Bytes, GuestAddress};

use super::rig::{BORDER, Rig, Setup, header};
use virtio::driver::Piece;

/// Cuts a run of `len` bytes at `address` at the given places.
fn cut(address: u64, len: usize, cuts: &[usize], write: bool) -> Vec<Piece> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % len).chain([0, len]).collect();
    at.sort_unstable();
    at.dedup();
    at.windows(2)
        .map(|w| Piece { address: address + w[0] as u64, len: (w[1] - w[0]) as u32, write })
        .collect()
}

/// Writes `data` and reads it back, with the requests' bytes cut at `out` and `into`.
fn round_trip(rig: &mut Rig, data: &[u8], out: &[usize], into: &[usize], indirect: bool) {
    let driver = &mut rig.drivers[0];
    let request = driver.alloc(&[&header(VIRTIO_BLK_T_OUT, 5)[..], data].concat());
    let status = driver.alloc(&[0xff]);
    let mut pieces = cut(request, 16 + data.len(), out, false);
    pieces.push(Piece { address: status, len: 1, write: true });
    driver.add(&pieces, indirect);
    driver.publish();
    assert_eq!(rig.wait_used(0).1, 1);

    let driver = &mut rig.drivers[0];
    assert_eq!(driver.get::<u8>(status), 0);
    let request = driver.alloc(&header(VIRTIO_BLK_T_IN, 5));
    // The status is the last byte of the last piece, not a piece of its own.
    let answer = driver.alloc(&vec![0xee; data.len() + 1]);
    let mut pieces = cut(request, 16, out, false);
    pieces.extend(cut(answer, data.len() + 1, into, true));
    driver.add(&pieces, indirect);
    driver.publish();
    assert_eq!(rig.wait_used(0).1, data.len() as u32 + 1);
    assert_eq!(rig.drivers[0].bytes(answer, data.len() + 1), [data, &[0]].concat());
}

#[test]
fn headers_and_statuses_share_descriptors() {
    let mut rig = Rig::new(Setup::default());
    let data = vec![0x5a; 1024];
    // Header, data and status as one readable and one writable descriptor.
    round_trip(&mut rig, &data, &[], &[], false);
    // The header is cut, and data begins inside a descriptor; the status is alone.
    round_trip(&mut rig, &data, &[1, 7, 20], &[1024], false);
    round_trip(&mut rig, &data, &[15, 17, 512], &[1, 1023], true);
}

#[test]
fn a_descriptor_across_regions() {
    let mut rig = Rig::new(Setup::default());
    rig.drivers[0].heap = BORDER - 300;
    round_trip(&mut rig, &[0x77; 512], &[], &[], false);
    rig.drivers[0].heap = BORDER - 1548;
    round_trip(&mut rig, &[0x78; 512], &[], &[], true);
}

#[test]
fn header_at_the_border() {
    let mut rig = Rig::new(Setup::default());
    let driver = &mut rig.drivers[0];
    driver.memory.write_slice(&header(VIRTIO_BLK_T_IN, 0), GuestAddress(BORDER - 8)).unwrap();
    let answer = driver.alloc(&[0xee; 513]);
    let pieces = [
        Piece { address: BORDER - 8, len: 16, write: false },
        Piece { address: answer, len: 513, write: true },
    ];
    driver.add(&pieces, false);
    driver.publish();
    assert_eq!(rig.wait_used(0).1, 513);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_means_the_same(
        sectors in 1usize..5,
        cuts in prop::collection::vec((prop::collection::vec(any::<usize>(), 0..12),
                                       prop::collection::vec(any::<usize>(), 0..12), any::<bool>()), 1..6),
        fill in any::<u8>(),
    ) {
        let mut rig = Rig::new(Setup { ring: 64, ..Setup::default() });
        for (n, (out, into, indirect)) in cuts.into_iter().enumerate() {
            let data: Vec<u8> = (0..sectors * 512).map(|at| fill.wrapping_add((at * (n + 3)) as u8)).collect();
            round_trip(&mut rig, &data, &out, &into, indirect);
        }
    }
}
