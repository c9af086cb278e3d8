//! A machine with a real KVM for hosts that have none: QEMU's software emulation of AMD SVM.
//!
//! The emulated host boots a stock kernel (L1). Its init sees the host's own file system, keeps changes
//! to it in memory only, and runs one command there: programs built on the host run unchanged, with a
//! complete /dev/kvm. Output and status come back over a channel of their own, apart from the kernel's
//! console. Everything that the emulated host starts ends with the process that started it, in whatever
//! way that ends, and nothing is left in the file system.
//!
//! # Modules, in reading order
//!
//! - `session`: one run, from the start of QEMU to the command's status
//! - `qemu`: QEMU and virtiofsd, installed or unpacked into the cache
//! - `root`: the host's files for the machine, shared or copied into an image
//! - `process`: children that end with this process
//! - `error`: one line that says what failed
//!
//! The init of the machine is `guest-images/agent/src/bin/guest-agent/emulated_host.rs`.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use emulated_host::{Invocation, enter_if_needed, is_inside, run};
//!
//! fn main() -> emulated_host::Result<()> {
//!     // One command there, with its output on this process's.
//!     if !is_inside() {
//!         let mut command = Invocation::new(vec!["ls".into(), "-l".into(), "/dev/kvm".into()])?;
//!         command.timeout = Duration::from_secs(120);
//!         println!("exit status {}", run(&command)?);
//!     }
//!     // From here on there is a KVM: on a host without one, the process runs again in the emulated host.
//!     enter_if_needed()?;
//!     println!("guests run {}", if is_inside() { "in the emulated host" } else { "here" });
//!     Ok(())
//! }
//! ```
//!
//! # Tests
//!
//! `src/tests.rs` needs no machine. `tests/session.rs` boots a guest on the emulated host's KVM.

mod error;
mod process;
mod qemu;
mod root;
mod session;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use guest_agent::frames;
use guest_images::{initramfs, kernel};

pub use error::{Error, Result};
pub use qemu::{Qemu, find as qemu};

/// Set to `1` in the environment of a command that runs inside the emulated host.
pub const INSIDE_VARIABLE: &str = "MILLRACE_EMULATED_HOST";
/// Set in the environment of a command inside the emulated host to a directory on the scratch disk, an
/// ext4 with room for images. All other changes that a command makes to the file system are kept in
/// memory.
pub const SCRATCH_VARIABLE: &str = "MILLRACE_SCRATCH";
/// Selects how the emulated host gets the host's files: `virtiofs` or `image`. Unset: the first that
/// this host allows.
pub const ROOT_VARIABLE: &str = "MILLRACE_EMULATED_HOST_ROOT";
/// If set and not empty, the console of the emulated host is copied to standard error as it appears.
pub const CONSOLE_VARIABLE: &str = "MILLRACE_EMULATED_HOST_CONSOLE";
/// Overrides the time-out of every command, in seconds.
pub const TIMEOUT_VARIABLE: &str = "MILLRACE_EMULATED_HOST_TIMEOUT";

const SCRATCH_DIRECTORY: &str = "/run/millrace-scratch";

/// A command to run in the emulated host. It gets no standard input.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The program and its arguments. The program is a path, or is searched in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment; the emulated host adds its own variables.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// The machine's memory in MiB.
    pub memory_mib: u32,
    /// The scratch disk's size in MiB; it takes space on the host only as it is filled.
    pub scratch_mib: u64,
    /// The time-out for the whole run.
    pub timeout: Duration,
    /// The files that the command needs besides itself and its libraries, for hosts whose file system
    /// cannot be shared. The libraries of a program are added, and a directory is taken with everything
    /// in it.
    pub files: Vec<PathBuf>,
    /// TCP ports of the loopback network that are the same ones inside and out: a client that connects to
    /// 127.0.0.1 on this host reaches the server on 127.0.0.1 inside. Clients that come before the server
    /// are hung up on. Nothing else goes through the machine's network. [`free_port`] finds a port.
    pub ports: Vec<u16>,
}

impl Invocation {
    /// Runs `argv` in this process's environment and working directory, with 2 GiB of memory, 16 GiB of
    /// scratch disk, 30 minutes, and no ports.
    pub fn new(argv: Vec<OsString>) -> Result<Self> {
        Ok(Invocation {
            argv,
            env: std::env::vars_os().collect(),
            cwd: std::env::current_dir()
                .map_err(guest_images::Error::system("find the working directory"))?,
            memory_mib: 2048,
            scratch_mib: 16 << 10,
            timeout: Duration::from_secs(30 * 60),
            files: Vec::new(),
            ports: Vec::new(),
        })
    }

    /// Runs this process again, with the same program and arguments.
    pub fn this_process() -> Result<Self> {
        let program = std::env::current_exe().map_err(guest_images::Error::system("find this program"))?;
        Self::new(std::iter::once(program.into()).chain(std::env::args_os().skip(1)).collect())
    }

    fn to_frame(&self) -> frames::Command {
        let assignment = |name: &[u8], value: &[u8]| [name, b"=", value].concat();
        let mut env: Vec<_> =
            self.env.iter().map(|(name, value)| assignment(name.as_bytes(), value.as_bytes())).collect();
        env.push(assignment(INSIDE_VARIABLE.as_bytes(), b"1"));
        env.push(assignment(SCRATCH_VARIABLE.as_bytes(), SCRATCH_DIRECTORY.as_bytes()));
        frames::Command {
            cwd: self.cwd.as_os_str().as_bytes().to_vec(),
            argv: self.argv.iter().map(|argument| argument.clone().into_vec()).collect(),
            env,
            ports: self.ports.clone(),
        }
    }
}

/// Returns a TCP port of the loopback network that nobody has. Ports of this kind are not given out again
/// soon, so whoever takes it next usually gets it.
///
/// # Errors
/// If the loopback network has no port left.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(guest_images::Error::system("find a free port"))?.port())
}

/// The state of this host's KVM, and the place where guests run because of it: one line.
pub fn where_guests_run() -> String {
    let kvm = kvm_probe::kvm();
    let place = if kvm.is_usable() { "on it directly" } else { "in the emulated host, a machine under QEMU" };
    format!("{kvm}: guests run {place}")
}

/// Returns true if this process runs inside the emulated host.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE_VARIABLE).is_some()
}

/// Makes sure that guests can run. Returns at once on a host with a usable KVM, and inside the emulated
/// host. Otherwise it prints one line to standard error, runs this process again inside the emulated
/// host, and exits with its status.
///
/// Must be called first in `main`, on the main thread. Fails if the emulated host cannot be started
/// either.
pub fn enter_if_needed() -> Result<()> {
    enter_if_needed_with(|_| {})
}

/// Like [`enter_if_needed`], for commands that need other limits or files than the usual ones.
pub fn enter_if_needed_with(adjust: impl FnOnce(&mut Invocation)) -> Result<()> {
    if is_inside() || kvm_probe::kvm().is_usable() {
        return Ok(());
    }
    let mut command = Invocation::this_process()?;
    adjust(&mut command);
    eprintln!("{}", where_guests_run());
    let status = run_again_if_lost(&command)?;
    std::process::exit(status)
}

/// Like [`run`], but runs the command a second time if the first machine returned no exit status. Prints
/// this error to standard error.
///
/// The emulation sometimes ends or hangs the machine. A command that hangs looks the same, so every such
/// line should be looked into.
pub fn run_again_if_lost(command: &Invocation) -> Result<i32> {
    match run(command) {
        Err(error @ Error::Lost { .. }) => {
            eprintln!("{error}\nthis is not a result of the command; running it once more");
            run(command)
        }
        other => other,
    }
}

/// Runs a command in the emulated host. Its output goes to this process's standard output and error as
/// it appears.
///
/// Returns the command's exit status, or 128 plus the number of the signal that ended it. Must be called
/// on a thread that lives until it returns: the machine ends with that thread.
pub fn run(command: &Invocation) -> Result<i32> {
    run_to(command, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// Like [`run`], with the command's output written to `stdout` and `stderr`.
pub fn run_to(command: &Invocation, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<i32> {
    let kernel = kernel::find()?;
    let mut command = command.clone();
    let guest_initrd = initramfs::guest(&kernel)?;
    command.env.push((kernel::PATH_VARIABLE.into(), kernel.root.clone().into()));
    command.env.push((initramfs::PATH_VARIABLE.into(), guest_initrd.clone().into()));
    if let Some(seconds) = std::env::var_os(TIMEOUT_VARIABLE) {
        let seconds = seconds.to_string_lossy().parse();
        let invalid =
            |_| guest_images::Error::Missing(format!("{TIMEOUT_VARIABLE} must be a number of seconds"));
        command.timeout = Duration::from_secs(seconds.map_err(invalid)?);
    }
    let shared = root::HostFiles::choose(&command, &kernel, &guest_initrd)?;
    session::run(&command, &kernel, shared, stdout, stderr)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
