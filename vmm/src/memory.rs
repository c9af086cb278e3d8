//! Guest memory: two ranges around the hole for devices, mapped once for the machine's life.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::error::Error;
use crate::layout::{HIGH_RAM, LOW_RAM_END};

/// The least memory in which a kernel of today starts.
pub const MIN: u64 = 32 << 20;

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
    let ranges: Vec<_> =
        ranges(size).into_iter().map(|(start, len)| (GuestAddress(start), len as usize)).collect();
    GuestMemoryMmap::from_ranges(&ranges).map(Arc::new).map_err(|e| refuse(e.to_string()))
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
mod tests;
