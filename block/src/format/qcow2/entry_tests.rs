//! L2 entries of both layouts survive a round trip.

use super::*;

#[test]
fn standard_entries() {
    for word in [0, 0x50000, COPIED | 0x50000, ZERO, 0x50000 | ZERO, COPIED | 0x50000 | ZERO] {
        assert_eq!(Entry::standard(word, 3).to_standard(), word, "{word:#x}");
    }
    let data = Entry::standard(COPIED | 0x50000, 3);
    assert_eq!((data.host, data.copied, data.alloc, data.zero), (Some(0x50000), true, 1, 0));
    let zero = Entry::standard(COPIED | 0x50000 | ZERO, 3);
    assert_eq!((zero.alloc, zero.zero), (0, 1));
    // Version 2 has no zero clusters: its bit is reserved.
    let old = Entry::standard(0x50000 | ZERO, 2);
    assert_eq!((old.alloc, old.zero), (1, 0));
    // A compressed cluster has no flags, and an offset to the byte.
    let packed = Entry::standard(COMPRESSED | 0x1235, 3);
    assert_eq!(packed, Entry { packed: Some(0x1235), ..Entry::default() });
    assert_eq!(Entry::extended(COMPRESSED | 0x1235, u64::MAX), packed);
}

#[test]
fn extended_entries() {
    for (word, bitmap) in [(0, 0), (COPIED | 0x50000, 0x0000_ffff_8000_0001), (0, 0xffff_ffff_0000_0000)] {
        let entry = Entry::extended(word, bitmap);
        assert_eq!(entry.to_extended(), (word, bitmap));
        assert_eq!((entry.alloc, entry.zero), (bitmap as u32, (bitmap >> 32) as u32));
    }
}
