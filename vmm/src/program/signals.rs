//! SIGTERM and SIGINT as something to await.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use executor::AsyncFd;

/// The signals that ask the program to end, held back from their default action.
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals for this thread and all that it starts later.
    pub(super) fn block() -> io::Result<Self> {
        // SAFETY: all-zero bytes are a valid signal set, and the calls below only write to it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is valid for the whole block; the calls keep no pointer to it.
        let fd = unsafe {
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the first signal. The next one ends the process at once: its default action is back.
    pub(super) async fn first(self) -> io::Result<()> {
        let fd = AsyncFd::new(self.0)?;
        fd.read_io(|fd| {
            let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
            // SAFETY: the buffer is valid for writes of its length.
            let n = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
            if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
        .await?;
        // SAFETY: as in `block`. Signals to the process reach any thread that does not block them.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
        Ok(())
    }
}
