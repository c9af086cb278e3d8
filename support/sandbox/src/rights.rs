//! Rights that a thread cannot get back.

use std::io;

/// Takes from this thread, and from those that it makes from here on, the rights that a program could gain by
/// being started: set-user-ID files count no more, and no capability is left to be gained.
///
/// # Errors
/// What the kernel refuses it with. A root without CAP_SETPCAP keeps the capabilities, of no use to it here.
pub fn gain_none() -> io::Result<()> {
    // SAFETY: a system call without memory.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for capability in 0..64 {
        // SAFETY: as above.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                // EINVAL: the kernel has no more of them.
                Some(libc::EINVAL | libc::EPERM) => Ok(()),
                _ => Err(e),
            };
        }
    }
    Ok(())
}
