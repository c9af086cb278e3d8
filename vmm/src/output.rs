//! Files that the program writes besides images.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens `path` for writing and empties it, or creates it.
///
/// # Errors
/// The host's errors, and `InvalidInput` if `path` is a block device, or is locked and so may be an image
/// in use: a mistake on the command line must not empty it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let kind = file.metadata()?.file_type();
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if kind.is_block_device() {
        return refuse("is a block device");
    }
    if kind.is_file() {
        if is_locked(&file) {
            return refuse("is an image that is in use, or locked by another program");
        }
        file.set_len(0)?;
    }
    Ok(file)
}

/// Returns true if the file is locked through another open file description, in this process too. Returns
/// false on a file system without locks.
fn is_locked(file: &File) -> bool {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: `lock` is a valid flock structure, which the call reads and writes.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    asked == 0 && i32::from(lock.l_type) != libc::F_UNLCK
}
