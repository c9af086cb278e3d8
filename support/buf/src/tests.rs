//! Tests that slices cover the right bytes, that shared memory is not handed out, and that copies cross
//! segment ends.

use super::*;

fn scattered(parts: &[usize]) -> (Buf, Rc<Vec<Box<[u8]>>>) {
    let mut memory: Vec<Box<[u8]>> = parts.iter().map(|n| vec![0u8; *n].into_boxed_slice()).collect();
    let segments: Vec<_> =
        memory.iter_mut().map(|m| (NonNull::new(m.as_mut_ptr()).unwrap(), m.len())).collect();
    let memory = Rc::new(memory);
    // SAFETY: `memory` owns the segments.
    (unsafe { Buf::foreign(segments, memory.clone()) }, memory)
}

#[test]
fn slices_and_copies_cross_segments() {
    let (buf, _) = scattered(&[3, 0, 5, 1, 7]);
    assert_eq!(buf.len(), 16);
    let bytes: Vec<u8> = (1..=16).collect();
    buf.copy_from(&bytes);
    for start in 0..=16 {
        for end in start..=16 {
            assert_eq!(buf.slice(start..end).to_vec(), bytes[start..end]);
        }
    }
    let (other, _) = scattered(&[2, 2, 20]);
    other.copy_from_buf(&buf);
    assert_eq!(other.slice(0..16).to_vec(), bytes);
    buf.slice(2..10).zero();
    assert_eq!(buf.to_vec()[..12], [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 11, 12]);
}

#[test]
fn bytes_are_handed_out_only_when_unshared() {
    let mut buf = Buf::new(8192);
    assert!(buf.is_aligned(ALIGNMENT) && buf.is_zero());
    let in_flight = buf.slice(10..20);
    assert!(buf.bytes_mut().is_none() && !buf.is_zero());
    drop(in_flight);
    buf.bytes_mut().unwrap()[8191] = 1;
    assert!(!buf.is_zero());
    let mut part = buf.slice(0..100);
    drop(buf);
    assert_eq!(part.bytes_mut().unwrap().len(), 100);
    let (mut foreign, _) = scattered(&[4]);
    assert!(foreign.bytes_mut().is_none());
}

#[test]
fn zero_test_sees_every_byte() {
    for len in [0, 1, 15, 16, 17, 511, 4096, 4099] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for at in 0..len {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "length {len}, byte {at}");
            bytes[at] = 0;
        }
    }
}
