//! Tests that every kind of damage is told from every other.

use super::*;

const SEED: u64 = 7;
const OFFSET: u64 = 1 << 20;

fn block(offset: u64, seq: u64, seed: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    write(&mut block, Stamp { offset, seq, seed });
    block
}

fn look(block: &[u8]) -> Found {
    read(block, OFFSET, SEED)
}

#[test]
fn a_write_reads_back() {
    assert_eq!(look(&block(OFFSET, 3, SEED)), Found::Written { seq: 3 });
    assert_eq!(look(&[0; BLOCK]), Found::Zeros);
}

#[test]
fn each_damage_has_its_name() {
    assert_eq!(look(&block(OFFSET + 4096, 3, SEED)), Found::Misplaced { from: OFFSET + 4096 });
    assert_eq!(look(&block(OFFSET, 3, 8)), Found::Foreign { seed: 8 });

    let mut torn = block(OFFSET, 3, SEED);
    torn[2 * SECTOR..].copy_from_slice(&block(OFFSET, 4, SEED)[2 * SECTOR..]);
    assert_eq!(look(&torn), Found::Torn);
    torn[2 * SECTOR..].fill(0);
    assert_eq!(look(&torn), Found::Torn);

    let shifted = [&block(OFFSET, 3, SEED)[SECTOR..], &[0; SECTOR]].concat();
    assert_eq!(look(&shifted), Found::Misplaced { from: OFFSET + SECTOR as u64 });
}

#[test]
fn any_flipped_bit_is_seen() {
    let good = block(OFFSET, 3, SEED);
    for position in (0..BLOCK).step_by(37) {
        let mut bad = good.clone();
        bad[position] ^= 1 << (position % 8);
        assert_eq!(look(&bad), Found::Corrupt, "byte {position}");
    }
}

#[test]
fn judged_against_what_was_acknowledged_and_asked_for() {
    let written = |seq| Found::Written { seq };
    assert_eq!(judge(written(3), 3, 4), Ok(3));
    assert_eq!(judge(written(4), 3, 4), Ok(4));
    assert_eq!(judge(written(2), 3, 4), Err(Fault::Stale { found: 2 }));
    assert_eq!(judge(written(5), 3, 4), Err(Fault::Ahead { found: 5 }));
    assert_eq!(judge(Found::Zeros, 1, 1), Err(Fault::Lost));
    assert_eq!(judge(Found::Zeros, 0, 1), Ok(0));
    assert_eq!(judge(Found::Torn, 0, 9), Err(Fault::Torn));
}

#[test]
fn a_digest_depends_on_order() {
    let digest = |values: &[u64]| {
        let mut digest = Digest::new();
        values.iter().for_each(|&value| digest.add(value));
        digest.value()
    };
    assert_ne!(digest(&[1, 2]), digest(&[2, 1]));
    assert_ne!(digest(&[0]), digest(&[0, 0]));
}

#[test]
fn a_screen_differs_from_its_neighbours_and_from_that_of_another_seed() {
    let differs = |one: (u32, u32, u32), other: (u32, u32, u32)| {
        pixel(one.0, one.1, one.2) != pixel(other.0, other.1, other.2)
    };
    for (x, y) in (0..640).flat_map(|x| (0..480).map(move |y| (x, y))) {
        assert!(pixel(1, x, y) < 1 << 24);
        assert!(differs((1, x, y), (1, x + 1, y)) && differs((1, x, y), (1, x, y + 1)), "({x}, {y})");
        assert!(differs((1, x, y), (1, x + 16, y)) && differs((1, x, y), (2, x, y)), "({x}, {y})");
    }
}
