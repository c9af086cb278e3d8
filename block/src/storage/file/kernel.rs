//! Properties of an open file that the kernel reports.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{SeekFrom, fstatfs, seek};
use rustix::io::Errno;

/// Returns the end of the extent at `offset`, and true if it is data. `None` means that it has no end. A
/// file system that cannot tell reports data.
pub(super) fn extent(file: &File, offset: u64) -> (Option<u64>, bool) {
    // Each call moves the file position, which nobody uses.
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => (Some(data), false),
        Ok(_) => match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => (Some(hole), true),
            _ => (None, true),
        },
        // No data at or after the offset.
        Err(Errno::NXIO) => (None, false),
        Err(_) => (None, true),
    }
}

/// Returns true if the file lies on tmpfs.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.f_type == libc::TMPFS_MAGIC)
}

/// The alignment assumed for O_DIRECT if nothing is known, in bytes.
const LARGEST_BLOCK: u64 = 4096;

/// The size of a block device now, in bytes.
pub(super) fn device_size(file: &File) -> io::Result<u64> {
    // Moves the file position, which nobody uses.
    Ok(seek(file, SeekFrom::End(0))?)
}

/// The alignment that O_DIRECT on this file requires, in bytes: the one that statx reports, since Linux
/// 6.1; otherwise the sector of a device; otherwise 4096.
pub(super) fn direct_alignment(file: &File, is_device: bool) -> u64 {
    let sector = if is_device { sector(file).ok() } else { None };
    alignment(stated_alignment(file), sector)
}

fn alignment(stated: Option<u64>, sector: Option<u64>) -> u64 {
    let known = stated.or(sector).filter(|align| align.is_power_of_two());
    known.map_or(LARGEST_BLOCK, |align| align.max(512))
}

fn stated_alignment(file: &File) -> Option<u64> {
    // SAFETY: all-zero bytes are a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string, and `stat` is valid for writes.
    let done = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut stat)
    };
    let said = done == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
    said.then(|| stat.stx_dio_offset_align.max(stat.stx_dio_mem_align).into())
}

/// The logical sector of a block device, in bytes: the size of every device is a multiple of it.
fn sector(file: &File) -> io::Result<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: the ioctl writes one `int`, which lives through the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(size as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On kernels that do not report the alignment of O_DIRECT, the last sectors of a device whose size is
    /// an odd multiple of 512 are still within reach.
    #[test]
    fn a_devices_sector_counts_where_the_kernel_says_nothing_of_direct_access() {
        assert_eq!(alignment(None, Some(512)), 512);
        assert_eq!(alignment(None, Some(4096)), 4096);
        assert_eq!(alignment(None, None), 4096);
        assert_eq!(alignment(Some(512), Some(4096)), 512);
        assert_eq!(alignment(Some(1), None), 512);
        assert_eq!(alignment(Some(0), None), 4096);
    }
}
