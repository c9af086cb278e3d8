//! What a thread may still ask of the kernel: system calls by seccomp, files by landlock.
//!
//! A guest that breaks out of a device's code owns the thread that the code runs on. So the threads that see
//! what a guest writes keep only what their work takes ([`confine`]): no file is opened by name, no socket
//! made, no process started or signalled. What they need of that kind is done by a thread that is not
//! confined, and that sees no guest. Confinement is for good, and a thread passes it on to the threads that
//! it makes.
//!
//! All threads share their memory. So those that are not confined give up what the program never needs
//! ([`confine_program`]): somebody who makes the main thread do his work still starts no program, and
//! reaches no other process and no rare corner of the kernel.
//!
//! An io_uring goes around seccomp: a thread must be given one only that the kernel holds to a list of
//! operations. Landlock holds there too.

mod files;
mod filter;
mod program;
mod rights;
mod syscalls;

use std::fmt;

pub use files::allow_only;
pub use rights::gain_none;

/// Whether threads are confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// A call that is not allowed fails with EPERM.
    #[default]
    On,
    /// A call that is not allowed ends the process: finds what a list of calls forgot.
    Strict,
    /// Not at all.
    Off,
}

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A vCPU.
    Vcpu,
    /// A disk's I/O.
    Disk,
    /// The virtio devices that are no disks.
    Device,
}

/// What the kernel does not have, of what confinement is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacks {
    /// Why system calls are not filtered.
    pub seccomp: Option<String>,
    /// Why files can be opened by name.
    pub landlock: Option<String>,
}

impl Lacks {
    /// Whether nothing is lacking.
    pub fn is_nothing(&self) -> bool {
        *self == Lacks::default()
    }
}

impl fmt::Display for Lacks {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacks = [("seccomp", &self.seccomp), ("landlock", &self.landlock)];
        let mut sep = "";
        for (what, why) in lacks.into_iter().filter_map(|(what, why)| Some((what, why.as_ref()?))) {
            write!(f, "{sep}no {what} ({why})")?;
            sep = ", ";
        }
        Ok(())
    }
}

/// Confines the calling thread, for good, as far as the kernel can. What it cannot is the answer.
pub fn confine(role: Role, mode: Mode) -> Lacks {
    if mode == Mode::Off {
        return Lacks::default();
    }
    Lacks { landlock: files::allow_none().err(), seccomp: syscalls::filter(role, mode).err() }
}

/// Takes from all threads of the process, those to come too, what none of them ever needs, for good:
/// programs, other processes, mounts, namespaces, and parts of the kernel that are beside the point. Returns
/// what the kernel lacks for that.
pub fn confine_program(mode: Mode) -> Lacks {
    if mode == Mode::Off {
        return Lacks::default();
    }
    Lacks { landlock: None, seccomp: program::filter(mode).err() }
}

#[cfg(test)]
mod tests;
