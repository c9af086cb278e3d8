//! The arithmetic of sectors, at its edges.

use super::*;

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().map(|error| error.kind()).unwrap()
}

#[test]
fn sectors_stay_in_the_disk() {
    assert_eq!(in_disk(0, 0, 0).unwrap(), 0);
    assert_eq!(in_disk(2, 512, 1536).unwrap(), 1024);
    assert_eq!(in_disk(3, 0, 1536).unwrap(), 1536);
    assert_eq!(in_disk(u64::MAX / 512, 511, u64::MAX).unwrap(), u64::MAX - 511);
    for (sector, len, size) in [
        (2, 513, 1536),
        (3, 1, 1536),
        (4, 0, 1536),
        (u64::MAX / 512, 512, u64::MAX),
        (u64::MAX / 512 + 1, 0, u64::MAX),
        (u64::MAX, u64::MAX, u64::MAX),
    ] {
        assert_eq!(kind(in_disk(sector, len, size)), ErrorKind::OutOfRange, "{sector} {len} {size}");
    }
}

#[test]
fn segments_are_checked() {
    let segment = |sector: u64, sectors: u32, flags: u32| {
        let mut bytes = [0; SEGMENT];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
        bytes[12..].copy_from_slice(&flags.to_le_bytes());
        bytes
    };
    let range = |offset, len, unmap| ZeroesRange { offset, len, unmap };
    let size = 1 << 40;
    assert_eq!(zeroes_range(&segment(1, 2, 0), true, size).unwrap(), range(512, 1024, false));
    assert_eq!(zeroes_range(&segment(1, 0, 1), false, size).unwrap(), range(512, 0, true));
    let most = MAX_ZEROES_SECTORS;
    assert_eq!(zeroes_range(&segment(0, most, 0), false, size).unwrap(), range(0, 128 << 20, false));
    assert_eq!(kind(zeroes_range(&segment(0, most + 1, 0), false, size)), ErrorKind::Invalid);
    assert_eq!(kind(zeroes_range(&segment(1 << 31, 1, 0), false, size)), ErrorKind::OutOfRange);
    assert_eq!(kind(zeroes_range(&segment(0, 1, 1), true, size)), ErrorKind::Unsupported);
    for flags in [2, 3, 1 << 31] {
        assert_eq!(kind(zeroes_range(&segment(0, 1, flags), false, size)), ErrorKind::Unsupported);
    }
}
