//! The pidfile: a file with this process's ID, whose lock shows that the process is alive.
//!
//! As in QEMU, the whole file is locked by fcntl for as long as the process lives. A file without a lock
//! belongs to a dead process and is taken over. This program and QEMU respect each other's locks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::Failure;
use executor::lock;

/// The longest content of a pidfile, in bytes.
const LONGEST: u64 = 64;

/// The file of this process; at most one.
static HELD: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

/// Removes the file when dropped.
pub(super) struct PidFile;

impl Drop for PidFile {
    fn drop(&mut self) {
        remove();
    }
}

/// Creates the file `path`, or takes over the file of a process that has ended.
///
/// # Errors
/// Fails, and leaves the file as it is, if another process holds it or if it is not a pidfile.
pub(super) fn write(path: &Path) -> Result<PidFile, Failure> {
    // Held until the file is recorded: a signal may end the process, which removes the file, at any time.
    let mut held = lock(&HELD);
    let refuse = |why: String| format!("{}: {why}", path.display());
    let file = take(path).map_err(refuse)?;
    let number = format!("{}\n", std::process::id());
    let written = file.set_len(0).and_then(|()| file.write_all_at(number.as_bytes(), 0));
    *held = Some((path.to_owned(), file));
    drop(held);
    let pid_file = PidFile;
    written.map_err(|e| refuse(e.to_string()))?;
    Ok(pid_file)
}

fn take(path: &Path) -> Result<File, String> {
    let io = |e: io::Error| e.to_string();
    loop {
        // Opening a device or a pipe must not wait.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Anyone who may write to the file could cause a different process to be signalled.
        options.mode(0o644);
        let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err("is not a regular file".into());
        }
        let number = number_in(&file).map_err(io)?;
        let number = number.ok_or("holds something other than a process ID, and is not overwritten")?;
        // SAFETY: zero is valid for each of its fields, which are all numbers.
        let mut whole: libc::flock = unsafe { std::mem::zeroed() };
        whole.l_type = libc::F_WRLCK as libc::c_short;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(format!("another program runs with this pidfile (process {})", number.trim()));
            }
            Err(e) => return Err(format!("cannot be locked: {}", e.desc())),
        }
        // Its last owner may have removed it since it was opened.
        if is_at(&file, path).map_err(io)? {
            return Ok(file);
        }
    }
}

/// Returns the file's text if it is a number or empty.
fn number_in(file: &File) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    let text = String::from_utf8(text).ok().filter(|text| text.len() as u64 <= LONGEST);
    Ok(text.filter(|text| text.trim().bytes().all(|byte| byte.is_ascii_digit())))
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (file.dev(), file.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes the file if it is still this process's. Does nothing if there is none.
pub(super) fn remove() {
    remove_held(&mut lock(&HELD));
}

/// Does the same when the process may end at any instant. Returns false while another thread makes the file.
pub(super) fn try_remove() -> bool {
    match HELD.try_lock() {
        Ok(mut held) => {
            remove_held(&mut held);
            // No thread can make a file from here on.
            std::mem::forget(held);
            true
        }
        Err(_) => false,
    }
}

fn remove_held(held: &mut Option<(PathBuf, File)>) {
    let Some((path, file)) = held.take() else { return };
    if is_at(&file, &path).is_ok_and(|ours| ours) && std::fs::remove_file(&path).is_err() {
        // The folder may be another user's. At least the ID must not outlive the process.
        let _ = file.set_len(0);
    }
}
