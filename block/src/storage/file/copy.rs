//! Copies between files in the kernel: FICLONERANGE, which shares blocks, else copy_file_range(2).

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// What the file system was found not to do for this file; nothing is asked for twice.
#[derive(Default)]
pub(super) struct Known {
    no_clone: Cell<bool>,
    no_copy: Cell<bool>,
}

/// Errors that say 'not here' or 'not so', and nothing about the data.
fn is_refusal(e: &io::Error) -> bool {
    use libc::{EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV};
    let refusals = [EBADF, EINVAL, EISDIR, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV];
    e.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

impl Known {
    /// Whether anything is left to try.
    pub(super) fn may_work(&self, direct: bool) -> bool {
        !self.no_clone.get() || !direct && !self.no_copy.get()
    }

    /// Copies `len` bytes; `false` where the kernel does not. With `direct` the page cache is not used,
    /// so blocks are shared or nothing is done.
    pub(super) async fn copy(
        &self,
        source: &Rc<File>,
        from: u64,
        target: &Rc<File>,
        to: u64,
        len: u64,
        direct: bool,
    ) -> io::Result<bool> {
        let copy = !direct && !self.no_copy.get();
        let clone = !self.no_clone.get();
        if !clone && !copy {
            return Ok(false);
        }
        let (source, target) = (source.try_clone()?, target.try_clone()?);
        let (cloned, copied) = executor::unblock(move || {
            let cloned = clone.then(|| clone_range(&source, from, &target, to, len));
            let done = matches!(cloned, Some(Ok(())));
            let copied = (copy && !done).then(|| copy_range(&source, from, &target, to, len));
            (cloned, copied)
        })
        .await;
        match cloned {
            Some(Ok(())) => return Ok(true),
            Some(Err(e)) if !is_refusal(&e) => return Err(e),
            // This range only: one that does not begin or end with a block of the file system.
            Some(Err(e)) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Some(Err(_)) => self.no_clone.set(true),
            None => {}
        }
        match copied {
            Some(Ok(whole)) => Ok(whole),
            Some(Err(e)) if !is_refusal(&e) => Err(e),
            Some(Err(_)) => {
                self.no_copy.set(true);
                Ok(false)
            }
            None => Ok(false),
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

/// `false` where the source ended early.
fn copy_range(source: &File, from: u64, target: &File, to: u64, len: u64) -> io::Result<bool> {
    let (mut from, mut to) = (from as i64, to as i64);
    let mut left = len as usize;
    while left > 0 {
        // SAFETY: the offsets are valid for reads and writes through the call, which moves them on.
        let n = unsafe {
            libc::copy_file_range(source.as_raw_fd(), &mut from, target.as_raw_fd(), &mut to, left, 0)
        };
        match n {
            0 => return Ok(false),
            1.. => left -= n as usize,
            _ => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    Ok(true)
}
