//! Guest memory as this process maps it. The only test here: other threads' mappings would interfere.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm::memory::{HUGE, map};

#[test]
fn ranges_begin_at_huge_pages() {
    for size in [33 << 20, 256 << 20, (3 << 30) + (512 << 20)] {
        let memory = map(size).unwrap();
        for region in memory.iter() {
            let host = region.get_host_address(MemoryRegionAddress(0)).unwrap() as usize;
            assert_eq!(host % HUGE, 0, "{size} bytes begin at {host:#x}");
        }
        memory.write_obj(1u8, GuestAddress(5)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 1 << 40);
    }
}
