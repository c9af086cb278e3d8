//! Guest memory: two ranges around the hole for devices, mapped once for the machine's life.
//!
//! Guest and host map memory with huge pages where both addresses allow it, which saves the guest most of
//! its page faults. So ranges begin at a multiple of [`HUGE`] on both sides.

use std::ptr;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, MmapRegion,
};

use crate::error::Error;
use crate::layout::{HIGH_RAM, LOW_RAM_END};

/// The minimum size of guest memory in bytes: a current kernel does not start with less.
pub const MIN: u64 = 32 << 20;

/// A huge page of x86-64, in bytes.
pub const HUGE: usize = 2 << 20;

/// Returns the ranges of `size` bytes of RAM, as `(start, length)`. RAM that does not fit below 3 GiB
/// begins at 4 GiB.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((HIGH_RAM, size - low));
    }
    ranges
}

/// Maps `size` bytes of zeroed memory. The host allocates its pages when the guest first touches them.
///
/// # Errors
/// Fails if the size is below [`MIN`], is not a multiple of 4 KiB, or exceeds the host's address space.
pub fn map(size: u64) -> Result<Arc<GuestMemoryMmap>, Error> {
    let refuse = |reason: String| Error::Memory { mib: size >> 20, reason };
    if size < MIN {
        return Err(refuse(format!("give at least {} MiB", MIN >> 20)));
    }
    if !size.is_multiple_of(4096) {
        return Err(refuse("give a multiple of 4 KiB".into()));
    }
    let mut regions = Vec::new();
    for (start, len) in ranges(size) {
        let region = map_huge(len as usize).map_err(|e| refuse(e.to_string()))?;
        let region = GuestRegionMmap::new(region, GuestAddress(start));
        regions.push(region.ok_or_else(|| refuse("exceeds the address space".into()))?);
    }
    GuestMemoryMmap::from_regions(regions).map(Arc::new).map_err(|e| refuse(e.to_string()))
}

/// Maps `len` bytes at a multiple of [`HUGE`], and asks the kernel to use huge pages there. Neither is
/// guaranteed: the kernel may lack huge pages, and another thread may map something at the same time.
fn map_huge(len: usize) -> Result<MmapRegion, MmapRegionError> {
    let hole = Hole::new(len);
    let region = MmapRegion::new(len)?;
    drop(hole);
    // SAFETY: the range is one mapping, which `region` keeps. It stays zeroed memory; only the kind of
    // pages that back it changes. If this fails, it is backed by small pages.
    unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    Ok(region)
}

/// A hole in the address space at a multiple of [`HUGE`], with mappings on both sides while this lives.
/// Linux puts a new mapping into the highest hole that is large enough; from 6.7 on it aligns large ones
/// itself.
struct Hole {
    sides: [(usize, usize); 2],
}

impl Hole {
    /// Tries to make a hole of `len` bytes.
    fn new(len: usize) -> Option<Self> {
        let whole = len.checked_add(HUGE)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses does not touch any other.
        let start = unsafe { libc::mmap(ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start as usize;
        let (hole, end) = (start.next_multiple_of(HUGE), start + whole);
        unmap(hole, hole + len);
        Some(Hole { sides: [(start, hole), (hole + len, end)] })
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.sides.iter().for_each(|(start, end)| unmap(*start, *end));
    }
}

/// Unmaps a part of a mapping that [`Hole::new`] made and nobody else uses.
fn unmap(start: usize, end: usize) {
    if start < end {
        // SAFETY: see above. If the kernel has no memory to split the mapping, a range that nobody uses is
        // left.
        unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
    }
}

/// Zeroes all guest memory and returns its pages to the host. Nobody may use the memory meanwhile: vCPUs
/// must have ended and devices must have been reset.
pub fn clear(memory: &GuestMemoryMmap) -> Result<(), Error> {
    for region in memory.iter() {
        let start = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|e| Error::System { what: "guest memory", source: std::io::Error::other(e) })?;
        // SAFETY: the range is exactly one private anonymous mapping, which `memory` keeps alive.
        // Its pages are replaced by zero pages, and guest memory may change under every reader anyway.
        let done = unsafe { libc::madvise(start.cast(), region.len() as usize, libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(Error::system("clearing guest memory")(std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
