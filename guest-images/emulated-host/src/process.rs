//! Child processes that end with this process, and inherit only the descriptors meant for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use guest_images::program_name;
use guest_images::{Error, Result};

/// A child process that is killed when this value is dropped, or when the thread that started it ends.
pub(super) struct Tied(Child);

impl Tied {
    /// Starts `command`, which inherits the descriptors `pass` under the numbers that they have here.
    pub(super) fn start(mut command: Command, pass: Vec<OwnedFd>) -> Result<Self> {
        tie(&mut command, pass);
        let program = program_name(command.get_program());
        command.spawn().map(Tied).map_err(|source| Error::Start { program, source })
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes `command`'s process end with the thread that starts it, and inherit the descriptors `pass`.
pub(super) fn tie(command: &mut Command, pass: Vec<OwnedFd>) {
    let parent = getpid();
    let prepare = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(parent) {
            // The parent ended before the line above took effect.
            return Err(io::ErrorKind::Interrupted.into());
        }
        pass.iter().try_for_each(|fd| keep_open(fd.as_fd()))
    };
    // SAFETY: between fork and exec the closure only makes system calls; it neither allocates nor takes
    // a lock.
    unsafe { command.pre_exec(prepare) };
}

fn keep_open(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}
