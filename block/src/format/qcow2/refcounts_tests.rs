//! Counts of every width, packed as the specification says.

use super::*;

#[test]
fn counts_of_every_width_keep_apart() {
    for order in 0..=6 {
        let most = u64::MAX >> (64 - (1 << order));
        let len = (64 * 8) >> order;
        let mut bytes = [0; 64];
        for index in 0..len {
            set(&mut bytes, order, index, (index + 1) & most);
        }
        for index in 0..len {
            assert_eq!(get(&bytes, order, index), (index + 1) & most, "order {order}, count {index}");
        }
        set(&mut bytes, order, 3, most);
        set(&mut bytes, order, 4, 0);
        let around: Vec<_> = (2..6).map(|index| get(&bytes, order, index)).collect();
        assert_eq!(around, [3 & most, most, 0, 6 & most], "order {order}");
    }
}

#[test]
fn narrow_counts_fill_bytes_from_their_low_bits_and_wide_ones_are_big_endian() {
    let mut bytes = [0; 8];
    set(&mut bytes, 0, 1, 1);
    set(&mut bytes, 2, 3, 0xa);
    assert_eq!(bytes[..2], [0b10, 0xa0]);
    set(&mut bytes, 4, 2, 0x0102);
    assert_eq!(bytes[4..6], [1, 2]);
}
