//! Privileges that a thread gives up for good.

use std::io;

/// Makes sure that this thread, and the threads it creates from here on, gain no privileges by executing
/// a program: set-user-ID bits are ignored, and the capability bounding set is emptied.
///
/// # Errors
/// The error of prctl(2). It is not an error if root lacks CAP_SETPCAP: it then keeps the bounding set,
/// which is of no use to it here.
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
                // EINVAL: the kernel has no more capabilities than these.
                Some(libc::EINVAL | libc::EPERM) => Ok(()),
                _ => Err(e),
            };
        }
    }
    Ok(())
}
