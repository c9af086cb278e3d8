//! The programs of a run: millrace, which is built if needed, and the guest's kernel and initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use emulated_host::Invocation;
use guest_images::{initramfs, kernel};

use crate::Failure;

/// The files that a run needs. They are prepared on the host.
pub struct Programs {
    /// Our VMM.
    pub millrace: PathBuf,
    /// A stock kernel.
    pub kernel: PathBuf,
    /// An initramfs with the guest agent.
    pub initrd: PathBuf,
}

impl Programs {
    /// Finds everything. On the host, builds and fetches what is missing; in the emulated host
    /// everything exists already, because [`enter_emulated_host`] ran first.
    pub fn ready() -> Result<Self, Failure> {
        let kernel = kernel::find()?;
        let initrd = initramfs::guest(&kernel)?;
        Ok(Programs { millrace: millrace()?, kernel: kernel.vmlinuz, initrd })
    }

    /// Gives a command in the emulated host these programs, and space for images.
    pub fn equip(&self, command: &mut Invocation) {
        command.memory_mib = 3072;
        command.scratch_mib = 8192;
        command.files.extend([self.millrace.clone(), self.kernel.clone(), self.initrd.clone()]);
    }

    /// The programs for machines without a guest.
    pub fn without_guest(millrace: &Path) -> Self {
        Programs { millrace: millrace.to_owned(), kernel: PathBuf::new(), initrd: PathBuf::new() }
    }
}

/// The `millrace` of this build: beside the running program, built by cargo in the same profile and the
/// same target directory, whichever that is.
pub fn millrace() -> Result<PathBuf, Failure> {
    built("millrace-vmm", "millrace")
}

/// The `millrace-web` of this build, as [`millrace`].
pub fn web() -> Result<PathBuf, Failure> {
    built("web", "millrace-web")
}

fn built(package: &str, name: &str) -> Result<PathBuf, Failure> {
    // A process that was started with SIGHUP ignored (by nohup, or by some CI systems) passes that on to
    // its children, and millrace then ignores it too.
    // SAFETY: the default action is not a handler, so no code of this process runs in a signal's
    // context.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    let this = std::env::current_exe()?;
    let mut folder = this.parent().ok_or("the running program has no folder")?;
    // Tests are one folder deeper than programs.
    if folder.ends_with("deps") {
        folder = folder.parent().ok_or("the running program has no folder")?;
    }
    let program = folder.join(name);
    if !emulated_host::is_inside() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", package, "--bin", name]);
        // A build script that depends on cargo's variables for this package would run again each time.
        // Variables that the user has set (CARGO_HOME, CARGO_NET_OFFLINE, ...) stay.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_of_a_package) {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let target = folder.parent().ok_or("the running program is not in cargo's target directory")?;
        cargo.arg("--target-dir").arg(target);
        match folder.file_name().and_then(|name| name.to_str()) {
            // The folder of the profile 'dev'.
            Some("debug") | None => {}
            Some(profile) => {
                cargo.args(["--profile", profile]);
            }
        }
        let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
        if !status.success() {
            return Err(format!("building {name} failed").into());
        }
    }
    if !program.exists() {
        return Err(format!("{} was not built", program.display()).into());
    }
    Ok(program)
}

/// Returns true if cargo sets this variable for the programs of one package (The Cargo Book, "Environment
/// variables").
fn is_of_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_FEATURE_", "CARGO_CFG_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR"].contains(&name)
}

/// Enters the emulated host if this host's KVM cannot run a guest; the whole process of the caller
/// starts again there. Everything is prepared first, while cargo and the network are available.
pub fn enter_emulated_host(adjust: impl FnOnce(&mut Invocation)) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    emulated_host::enter_if_needed_with(|command| {
        programs.equip(command);
        adjust(command);
    })?;
    Ok(())
}

/// A folder for images: on the emulated host's scratch disk, or in the host's temporary folder.
pub fn scratch() -> Result<tempfile::TempDir, Failure> {
    let parent =
        std::env::var_os(emulated_host::SCRATCH_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from);
    Ok(tempfile::tempdir_in(parent)?)
}
