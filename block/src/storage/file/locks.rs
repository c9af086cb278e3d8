//! QEMU's image locks (`block/file-posix.c`): shared open-file-description locks on byte 100+n for each
//! permission n that is held, and 200+n for each that is denied to others. A user that finds a byte locked
//! that contradicts its own permissions gives up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::super::Lock;
use crate::{Error, ErrorKind, Result};

const HELD: i64 = 100;
const DENIED: i64 = 200;
/// Permission numbers, those of QEMU's `BLK_PERM_*`.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Returns the permissions held and denied.
fn bytes_of(lock: Lock) -> (&'static [i64], &'static [i64]) {
    match lock {
        Lock::None => (&[], &[]),
        Lock::Look => (&[CONSISTENT_READ], &[]),
        Lock::Backing => (&[CONSISTENT_READ], &[WRITE, RESIZE]),
        Lock::Leaf => (&[CONSISTENT_READ, WRITE, RESIZE], &[WRITE, RESIZE]),
    }
}

fn bytes(lock: Lock) -> Vec<i64> {
    let (held, denied) = bytes_of(lock);
    held.iter().map(|n| HELD + n).chain(denied.iter().map(|n| DENIED + n)).collect()
}

fn flock(kind: i32, start: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: 1, l_pid: 0 }
}

fn control(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `lock` is a valid flock structure, which the call reads and writes.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, lock) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the locks of `from` by those of `to`; on an error those of `from` are held again.
pub(super) fn change(file: &File, name: &str, from: Lock, to: Lock) -> Result<()> {
    let (old, new) = (bytes(from), bytes(to));
    let added: Vec<_> = new.iter().filter(|byte| !old.contains(byte)).copied().collect();
    // Giving locks up needs nobody's consent, so nothing is checked then. Others that try to take the
    // image hold some of its bytes for a moment, and must not look here as if they had it.
    let result = if added.is_empty() { Ok(()) } else { take(file, name, &added, to) };
    let dropped: Vec<_> = match &result {
        Ok(()) => old.into_iter().filter(|byte| !new.contains(byte)).collect(),
        Err(_) => added,
    };
    for byte in dropped {
        // Giving a lock up does not fail on an open descriptor.
        let _ = control(file, libc::F_OFD_SETLK, &mut flock(libc::F_UNLCK, byte));
    }
    result
}

/// Adds the locks of `to` to those of `from`. This process holds them already through another descriptor,
/// so no conflict with others is looked for.
pub(super) fn hold(file: &File, name: &str, from: Lock, to: Lock) -> Result<()> {
    let old = bytes(from);
    let added: Vec<_> = bytes(to).into_iter().filter(|byte| !old.contains(byte)).collect();
    place(file, name, &added).map(drop)
}

fn take(file: &File, name: &str, bytes: &[i64], to: Lock) -> Result<()> {
    if !place(file, name, bytes)? {
        return Ok(());
    }
    // Others must not deny a permission that we hold, nor hold one that we deny. The query is for a write
    // lock, which conflicts with any lock of another process.
    let (held, denied) = bytes_of(to);
    let opposite = held.iter().map(|n| DENIED + n).chain(denied.iter().map(|n| HELD + n));
    for byte in opposite {
        let mut lock = flock(libc::F_WRLCK, byte);
        control(file, libc::F_OFD_GETLK, &mut lock)
            .map_err(|e| Error::io(format_args!("locking {name}"), &e))?;
        if i32::from(lock.l_type) != libc::F_UNLCK {
            return Err(in_use(name));
        }
    }
    Ok(())
}

/// Locks bytes. Returns false if the file system has no locks.
fn place(file: &File, name: &str, bytes: &[i64]) -> Result<bool> {
    for byte in bytes {
        match control(file, libc::F_OFD_SETLK, &mut flock(libc::F_RDLCK, *byte)) {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                return Err(in_use(name));
            }
            // On a file system without locks, nobody else can show that they use the image either.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::EINVAL)) => {
                executor::limited!(warn, "{name}: the file system has no locks: {e}");
                return Ok(false);
            }
            Err(e) => return Err(Error::io(format_args!("locking {name}"), &e)),
        }
    }
    Ok(true)
}

fn in_use(name: &str) -> Error {
    Error::new(ErrorKind::Locked, format!("{name}: another process has the image open"))
}
