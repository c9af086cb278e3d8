//! The arithmetic of sectors, at its edges.

use proptest::prelude::*;

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

fn segment(sector: u64, sectors: u32, flags: u32) -> Segment {
    Segment { sector: sector.into(), num_sectors: sectors.into(), flags: flags.into() }
}

#[test]
fn segments_are_checked() {
    let size = 1 << 40;
    let check = |segment: Segment, discard| check_segment(&segment, discard, size);
    assert_eq!(segment(1, 2, 3).as_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    check(segment(1, 2, 0), true).unwrap();
    check(segment(1, 0, 1), false).unwrap();
    let most = MAX_ZEROES_SECTORS;
    check(segment(0, most, 0), false).unwrap();
    assert_eq!(kind(check(segment(0, most + 1, 0), false)), ErrorKind::Invalid);
    assert_eq!(kind(check(segment(1 << 31, 1, 0), false)), ErrorKind::OutOfRange);
    assert_eq!(kind(check(segment(u64::MAX, 1, 0), false)), ErrorKind::OutOfRange);
    assert_eq!(kind(check(segment(0, 1, 1), true)), ErrorKind::Unsupported);
    for flags in [2, 3, 1 << 31] {
        assert_eq!(kind(check(segment(0, 1, flags), false)), ErrorKind::Unsupported);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_ranges_are_all_of_them_and_none_is_long(
        ranges in prop::collection::vec((0..1_000_u64, 0..300_u32, 0..2_u32), 0..=16),
        most in 1..200_u64,
    ) {
        let segments: Vec<_> = ranges.iter().map(|(at, n, flags)| segment(*at, *n, *flags)).collect();
        let ranges: Vec<_> = ranges.into_iter().map(|(at, n, flags)| (at, u64::from(n) * SECTOR, flags)).collect();
        let most = most * SECTOR;
        let (mut done, total) = (0, ranges.iter().map(|(_, len, _)| len).sum::<u64>());
        let mut seen = Vec::new();
        while done < total {
            let len = segments_piece(&segments, done, most);
            prop_assert!((1..=most).contains(&len), "{len} of {most}");
            let piece = done..done + len;
            let parts: Vec<_> = parts(&segments, &piece).collect();
            prop_assert_eq!(parts.iter().map(|part| part.len).sum::<u64>(), len);
            // A range is cut only at a multiple, so that no cluster is in two pieces.
            let last = parts.last().unwrap();
            let end = last.offset + last.len;
            let is_end = ranges.iter().any(|(at, len, _)| at * SECTOR + len == end);
            prop_assert!(is_end || end.is_multiple_of(most), "cut at {end}");
            seen.extend(parts);
            done = piece.end;
        }
        prop_assert_eq!(done, total);
        // Joined again, the parts are the ranges, in order.
        let mut seen = seen.into_iter();
        for (at, len, flags) in ranges {
            let mut have = 0;
            while have < len {
                let part = seen.next().unwrap();
                prop_assert_eq!(part.offset, at * SECTOR + have);
                prop_assert_eq!(part.unmap, flags == 1);
                have += part.len;
            }
            prop_assert_eq!(have, len);
        }
    }
}
