//! Layout and clearing of guest memory.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;

const GIB: u64 = 1 << 30;

#[test]
fn memory_lies_around_the_hole() {
    assert_eq!(ranges(512 << 20), [(0, 512 << 20)]);
    assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
    assert_eq!(ranges(3 * GIB + 4096), [(0, 3 * GIB), (4 * GIB, 4096)]);
    assert_eq!(ranges(64 * GIB), [(0, 3 * GIB), (4 * GIB, 61 * GIB)]);
}

#[test]
fn sizes_that_cannot_be_are_refused_with_advice() {
    assert!(map(16 << 20).unwrap_err().to_string().contains("at least 32 MiB"));
    assert!(map((64 << 20) + 1).unwrap_err().to_string().contains("multiple of 4 KiB"));
    assert!(map(1 << 60).is_err());
}

#[test]
fn cleared_memory_is_zero() {
    let memory = map(4 * GIB).unwrap();
    for address in [0, 3 * GIB - 8, 4 * GIB, 5 * GIB - 8] {
        memory.write_obj(7u64, GuestAddress(address)).unwrap();
    }
    assert!(memory.write_obj(7u64, GuestAddress(3 * GIB - 4)).is_err());
    clear(&memory).unwrap();
    for address in [0, 3 * GIB - 8, 4 * GIB, 5 * GIB - 8] {
        assert_eq!(memory.read_obj::<u64>(GuestAddress(address)).unwrap(), 0);
    }
    assert_eq!(memory.last_addr(), GuestAddress(5 * GIB - 1));
}
