//! Confinement of threads: system calls by seccomp, files by landlock.
//!
//! A guest that breaks out of a device's code owns the thread which that code runs on. So every thread
//! that handles data from a guest keeps only what its work needs ([`confine`]): it opens no file by
//! name, creates no socket, and starts or signals no process. If its work needs any of that, a thread
//! that is not confined and that handles no guest data does it. Confinement is permanent, and a thread
//! passes it on to the threads that it creates.
//!
//! All threads share their memory, so an attacker may also take over a thread that is not confined.
//! Therefore all threads give up what the program never needs ([`confine_program`]): an attacker who
//! controls the main thread still cannot start a program, reach another process or reach rarely used
//! parts of the kernel.
//!
//! An io_uring bypasses seccomp. A confined thread must only get one that the kernel restricts to a list
//! of operations. Landlock also applies to operations on a ring.
//!
//! # Modules, in reading order
//!
//! - `syscalls`: the system calls that each [`Role`] keeps
//! - `files`: landlock; the folders that a thread may open files in ([`allow_only`]), or none
//! - `program`: the system calls that all threads lose
//! - `rights`: privileges that programs executed later do not get ([`gain_none`])
//! - `filter`: the parts that filters of system calls are made of
//!
//! # Example
//!
//! ```
//! use std::fs::File;
//!
//! use sandbox::{Mode, Role};
//!
//! # fn main() -> std::io::Result<()> {
//! let before = File::open("/etc/passwd")?;
//! let disk = std::thread::spawn(move || {
//!     let lacks = sandbox::confine(Role::Disk, Mode::On);
//!     // Files that are open already stay open; others cannot be opened any more.
//!     assert!(before.metadata().is_ok());
//!     (lacks, File::open("/etc/passwd").is_ok())
//! });
//! let (lacks, opens) = disk.join().expect("the thread does not panic");
//! // An old kernel may lack some or all of it.
//! println!("{lacks}");
//! assert!(!opens || !lacks.is_nothing());
//! // Other threads are not confined.
//! File::open("/etc/passwd")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! `src/tests.rs`: files; and in `src/tests/`: `confined` (threads by role), `network` (landlock without
//! seccomp) and `program` (all threads, each test in a process of its own). What the kernel reports about
//! the running program is tested in `tests/e2e/tests/disks/sandbox.rs`.

mod files;
mod filter;
mod program;
mod rights;
mod syscalls;

use std::fmt;

pub use files::allow_only;
pub use rights::gain_none;

/// The strictness of confinement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// A call that is not allowed fails with EPERM.
    #[default]
    On,
    /// A call that is not allowed ends the process. Finds calls that are missing from a list.
    Strict,
    /// No confinement.
    Off,
}

/// The purpose of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A vCPU.
    Vcpu,
    /// A disk's I/O.
    Disk,
    /// The virtio devices other than disks.
    Device,
    /// The server that shows a guest's screen.
    Screen,
    /// A web server: connections of browsers, and to sockets that another process connected to.
    Page,
}

/// The parts of confinement that this kernel lacks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacks {
    /// The reason why system calls are not filtered.
    pub seccomp: Option<String>,
    /// The reason why files can still be opened by name.
    pub landlock: Option<String>,
}

impl Lacks {
    /// Returns true if nothing is lacking.
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

/// Confines the calling thread permanently, as far as the kernel can. Returns the parts of confinement
/// that could not be applied.
pub fn confine(role: Role, mode: Mode) -> Lacks {
    if mode == Mode::Off {
        return Lacks::default();
    }
    Lacks { landlock: files::allow_none().err(), seccomp: syscalls::filter(role, mode).err() }
}

/// Takes from all threads of the process, including future ones, what none of them ever needs: starting
/// programs, reaching other processes, mounts, namespaces, and parts of the kernel that a VMM does not
/// use. This is permanent. Returns the parts that the kernel lacks.
pub fn confine_program(mode: Mode) -> Lacks {
    if mode == Mode::Off {
        return Lacks::default();
    }
    Lacks { landlock: None, seccomp: program::filter(mode).err() }
}

#[cfg(test)]
mod tests;
