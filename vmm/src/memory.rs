//! Guest memory: two ranges around the hole for devices, mapped once for the machine's life.
//!
//! Guest and host map memory by huge pages where both addresses allow it, which saves the guest most of its
//! page faults. So ranges begin at a multiple of [`HUGE`] on both sides.

use std::ptr;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, MmapRegion,
};

use crate::error::Error;
use crate::layout::{HIGH_RAM, LOW_RAM_END};

/// The least memory in which a kernel of today starts.
pub const MIN: u64 = 32 << 20;

/// A huge page of x86-64, in bytes.
pub const HUGE: usize = 2 << 20;

/// The ranges of `size` bytes of RAM, as `(start, length)`: what does not fit below 3 GiB lies from 4 GiB on.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((HIGH_RAM, size - low));
    }
    ranges
}

/// Maps `size` bytes of zeroed memory. The host's pages are taken as the guest touches them.
///
/// # Errors
/// A size below [`MIN`], no multiple of 4 KiB, or more than the host's address space has.
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
        regions.push(region.ok_or_else(|| refuse("more than there are addresses".into()))?);
    }
    GuestMemoryMmap::from_regions(regions).map(Arc::new).map_err(|e| refuse(e.to_string()))
}

/// Maps `len` bytes at a multiple of [`HUGE`], and has the kernel use huge pages there. Neither can be
/// counted on: it may know none, and another thread may map something at the same time.
fn map_huge(len: usize) -> Result<MmapRegion, MmapRegionError> {
    let hole = Hole::new(len);
    let region = MmapRegion::new(len)?;
    drop(hole);
    // SAFETY: the range is one mapping, which `region` keeps. It stays what it is, zeroed memory; only how it
    // is backed changes. Where this fails, it is backed by small pages.
    unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    Ok(region)
}

/// A hole in the address space at a multiple of [`HUGE`], with something on both sides of it while this
/// lives. Linux puts a new mapping into the highest hole that holds it, whatever its size; from 6.7 on it
/// sees to the multiple.
struct Hole {
    sides: [(usize, usize); 2],
}

impl Hole {
    /// Tries to make one of `len` bytes.
    fn new(len: usize) -> Option<Self> {
        let whole = len.checked_add(HUGE)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel wants it touches nothing that is there.
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

/// Unmaps a part of a mapping that [`Hole::new`] made and nobody else knows.
fn unmap(start: usize, end: usize) {
    if start < end {
        // SAFETY: see above. Its failure, for want of memory for the kernel's books, leaves a range that
        // nobody uses.
        unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
    }
}

/// Makes all of it zero again and hands the pages back to the host. Nobody may be using the memory:
/// vCPUs have ended and devices were reset.
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
