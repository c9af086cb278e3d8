//! What this host's kernel and the file system of a folder offer images, found out by trying.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::storage::file::clone_range;

/// The largest block of a file system that is tried, in bytes.
const BLOCK: u64 = 64 << 10;

/// Each is an error that tells why not.
pub struct Offers {
    /// io_uring, which [`crate::io::Aio::IoUring`] uses.
    pub io_uring: io::Result<()>,
    /// O_DIRECT: reads and writes past the page cache.
    pub direct: io::Result<()>,
    /// FICLONERANGE: a stream shares whole clusters instead of copying them.
    pub reflink: io::Result<()>,
    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE: what a guest discards is given back.
    pub punch: io::Result<()>,
}

/// A file that is gone when this is dropped.
struct Trial {
    path: PathBuf,
    file: File,
}

impl Trial {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(format!(".millrace-host-{}-{name}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Trial { path, file })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // A file that somebody else removed is gone as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tries everything, with two small files in `folder` that are removed again.
///
/// # Errors
/// Where no file can be made or written there.
pub fn look(folder: &Path) -> io::Result<Offers> {
    let (source, target) = (Trial::new(folder, "a")?, Trial::new(folder, "b")?);
    source.file.write_all_at(&[1; BLOCK as usize], 0)?;
    target.file.set_len(BLOCK)?;
    Ok(Offers {
        io_uring: crate::io::ring_is_offered(),
        direct: OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&source.path).map(drop),
        reflink: clone_range(&source.file, 0, &target.file, 0, BLOCK),
        punch: punch(&source.file),
    })
}

fn punch(file: &File) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a system call on an open descriptor, with no memory involved.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, BLOCK as i64) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
