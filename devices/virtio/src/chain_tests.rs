//! The walk alone: its result lies in guest memory, whatever the tables hold.

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use super::*;

/// The longest queue that the device offers.
const LONGEST: u16 = 256;
const SIZE: usize = 1 << 16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

fn memory() -> Memory {
    let regions = [(GuestAddress(0), SIZE / 2), (GuestAddress(SIZE as u64 / 2), SIZE / 2)];
    Memory::new(Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap()))
}

fn queue(size: u16) -> Queue {
    let mut queue = Queue::new(LONGEST).unwrap();
    queue.set_size(size);
    queue.set_desc_table_address(Some(0x1000), Some(0));
    queue
}

fn put(memory: &Memory, table: u64, descriptors: &[(u64, u32, u16, u16)]) {
    for (n, &(address, len, flags, next)) in descriptors.iter().enumerate() {
        let descriptor = Descriptor::new(address, len, flags, next);
        memory.write_obj(descriptor, GuestAddress(table + 16 * n as u64)).unwrap();
    }
}

#[test]
fn cuts_do_not_matter() {
    let memory = memory();
    memory.write_slice(b"0123456789abcdefDATA", GuestAddress(0x4000)).unwrap();
    put(&memory, 0x1000, &[(0x4000, 10, NEXT, 1), (0x400a, 10, NEXT, 2), (0x5000, 3, WRITE, 0)]);
    let chain = read(&memory, &queue(4), 0, false).unwrap();
    assert_eq!(chain.readable.to_vec(), b"0123456789abcdefDATA");
    chain.writable.copy_from(b"abc");
    assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(0x5000)).unwrap(), *b"abc");
}

#[test]
fn descriptors_are_counted_over_all_tables() {
    let memory = memory();
    // A direct header, and as many behind it as the longest queue allows; then one more.
    put(&memory, 0x1000, &[(0x4000, 16, NEXT, 1), (0x8000, 16 * 300, INDIRECT, 0)]);
    for (count, good) in [(255, true), (256, false)] {
        let table: Vec<_> =
            (1..=count).map(|n| (0x5000, 1, if n < count { NEXT | WRITE } else { WRITE }, n)).collect();
        put(&memory, 0x8000, &table);
        assert_eq!(read(&memory, &queue(2), 0, true).is_ok(), good, "{count}");
    }
}

#[test]
fn chains_have_at_most_4_gib() {
    // Mapped, but not touched.
    let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 30)]).unwrap();
    let memory = Memory::new(Arc::new(map));
    for (last, good) in [((1 << 30) - 16, true), ((1 << 30) - 15, false)] {
        let gib = |next| (0, 1 << 30, NEXT | WRITE, next);
        put(&memory, 0x1000, &[(0, 16, NEXT, 1), gib(2), gib(3), gib(4), (0, last, WRITE, 0)]);
        let chain = read(&memory, &queue(8), 0, false);
        assert_eq!(chain.map(|chain| chain.writable.len()).ok(), good.then_some((4 << 30) - 16));
    }
}

#[test]
fn segments_keep_the_memory_mapped() {
    let memory = memory();
    put(&memory, 0x1000, &[(0x4000, 20, NEXT, 1), (0x5000, 1, WRITE, 0)]);
    memory.write_slice(b"0123456789abcdefDATA", GuestAddress(0x4000)).unwrap();
    let buf = read(&memory, &queue(2), 0, false).unwrap().readable;
    let weak = Arc::downgrade(&memory.map);
    drop(memory);
    assert!(weak.upgrade().is_some());
    assert_eq!(buf.to_vec(), b"0123456789abcdefDATA");
    drop(buf);
    assert!(weak.upgrade().is_none());
}

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![6 => 0..SIZE as u64, 1 => any::<u64>(), 1 => SIZE as u64 - 4..SIZE as u64 + 4];
    let len = prop_oneof![6 => 1..600u32, 1 => any::<u32>(), 1 => Just(32u32)];
    // NEXT more often than not, INDIRECT now and then.
    let flags =
        prop_oneof![8 => (0..4u16).prop_map(|n| n | NEXT), 4 => 0..4u16, 2 => Just(INDIRECT), 1 => 0..8u16];
    (address, len, flags, 0..10u16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_lies_in_guest_memory(
        direct in prop::collection::vec(descriptor(), 8),
        table in prop::collection::vec(descriptor(), 8),
        head in 0..10u16,
    ) {
        let memory = memory();
        put(&memory, 0x1000, &direct);
        put(&memory, 0x2000, &table);
        for (at, &(_, _, flags, next)) in direct.iter().enumerate() {
            // Makes it likely that the second table is reached.
            if flags & INDIRECT != 0 {
                put(&memory, 0x1000 + 16 * at as u64, &[(0x2000, 128, flags, next)]);
            }
        }
        if let Ok(chain) = read(&memory, &queue(8), head, true) {
            let regions: Vec<_> = memory
                .iter()
                .map(|region| {
                    use vm_memory::GuestMemoryRegion;
                    let start = region.as_volatile_slice().unwrap().ptr_guard().as_ptr() as usize;
                    start..start + region.len() as usize
                })
                .collect();
            for data in [&chain.readable, &chain.writable] {
                for piece in data.iovecs() {
                    let (start, end) = (piece.iov_base as usize, piece.iov_base as usize + piece.iov_len);
                    prop_assert!(regions.iter().any(|r| r.start <= start && end <= r.end));
                }
            }
        }
    }
}
