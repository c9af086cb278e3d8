//! Copies between files that cost nothing: FICLONERANGE shares the blocks where the file system can.
//!
//! copy_file_range(2) is not used: it would skip the search for written zeros, which the leaf need not
//! hold, and was not measured to be faster than the ring.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Whether the file system was found to share no blocks for this file; it is not asked again then.
#[derive(Default)]
pub(super) struct Known {
    refused: Cell<bool>,
}

/// Errors that say 'not here' or 'not so', and nothing about the data.
fn is_refusal(e: &io::Error) -> bool {
    use libc::{EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV};
    let refusals = [EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV];
    e.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

impl Known {
    /// Whether it is worth a trial.
    pub(super) fn may_work(&self) -> bool {
        !self.refused.get()
    }

    /// Makes `len` bytes of `target` share the blocks of `source`; `false` where they cannot.
    pub(super) async fn share(
        &self,
        source: &Rc<File>,
        from: u64,
        target: &Rc<File>,
        to: u64,
        len: u64,
    ) -> io::Result<bool> {
        let (source, target) = (source.try_clone()?, target.try_clone()?);
        match executor::unblock(move || clone_range(&source, from, &target, to, len)).await {
            Ok(()) => Ok(true),
            Err(e) if is_refusal(&e) => {
                // EINVAL may be of this range only: one that is not whole blocks of the file system.
                self.refused.set(e.raw_os_error() != Some(libc::EINVAL));
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

fn clone_range(source: &File, from: u64, target: &File, to: u64, len: u64) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: len,
        dest_offset: to,
    };
    // SAFETY: the ioctl reads one `file_clone_range`, which lives through the call.
    let done = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &range) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
