//! Features for images that this host's kernel and a folder's file system support, found by trying them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::storage::file::clone_range;

/// Length of the ranges that are tried, in bytes: no usual file system has larger blocks.
const BLOCK: u64 = 64 << 10;

/// The features. Each is `Ok` if it works, else the error that says why not.
pub struct Offers {
    /// io_uring, which [`crate::io::Aio::IoUring`] uses.
    pub io_uring: io::Result<()>,
    /// O_DIRECT: reads and writes past the page cache.
    pub direct: io::Result<()>,
    /// FICLONERANGE: a stream shares whole clusters instead of copying them.
    pub reflink: io::Result<()>,
    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE: space that a guest discards is returned to the host's
    /// file system.
    pub punch: io::Result<()>,
}

/// A file that is removed on drop.
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
        // It does not matter if somebody else has removed the file already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tries every feature with two small files in `folder`, which it removes again.
///
/// # Errors
/// Fails if no file can be created or written there.
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
