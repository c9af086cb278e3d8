//! What the kernel says of an open file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{SeekFrom, fstatfs, seek};
use rustix::io::Errno;

/// The end of the extent at `offset`, and whether it is data. `None`: to the end of time. A file
/// system that does not know says that all is data.
pub(super) fn extent(file: &File, offset: u64) -> (Option<u64>, bool) {
    // Each moves a file position that nobody uses.
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

/// Whether it lies on tmpfs.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.f_type == libc::TMPFS_MAGIC)
}

/// What O_DIRECT on this file asks for, as statx says; 4096 where it does not.
pub(super) fn direct_alignment(file: &File) -> u64 {
    // SAFETY: all-zero bytes are a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string, and `stat` is valid for writes.
    let done = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut stat)
    };
    let align = u64::from(stat.stx_dio_offset_align.max(stat.stx_dio_mem_align));
    if done == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 && align.is_power_of_two() {
        align.max(512)
    } else {
        4096
    }
}
