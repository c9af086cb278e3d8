//! The programs of a run: ours, built where they are not, and the guest's kernel and initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::lab::{self, LabCommand};
use guest_images::{initramfs, kernel};

use crate::Failure;

/// What a run needs, made ready on the host.
pub struct Programs {
    /// Our VMM.
    pub millrace: PathBuf,
    /// A stock kernel.
    pub kernel: PathBuf,
    /// An initramfs with the guest agent.
    pub initrd: PathBuf,
}

impl Programs {
    /// Finds everything, and on the host builds and fetches what is missing. In the lab it is there
    /// already: [`enter_lab`] came first.
    pub fn ready() -> Result<Self, Failure> {
        let kernel = kernel::find()?;
        let initrd = initramfs::guest(&kernel)?;
        Ok(Programs { millrace: millrace()?, kernel: kernel.vmlinuz, initrd })
    }

    /// Gives a command in the lab these programs, and room for images.
    pub fn equip(&self, command: &mut LabCommand) {
        command.memory_mib = 3072;
        command.scratch_mib = 8192;
        command.files.extend([self.millrace.clone(), self.kernel.clone(), self.initrd.clone()]);
    }

    /// Only what machines without a guest need.
    pub fn without_guest(millrace: &Path) -> Self {
        Programs { millrace: millrace.to_owned(), kernel: PathBuf::new(), initrd: PathBuf::new() }
    }
}

/// The `millrace` of this build: beside the running program, built by cargo in the same profile.
pub fn millrace() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let mut folder = this.parent().ok_or("the running program has no folder")?;
    // Tests lie one folder deeper than programs.
    if folder.ends_with("deps") {
        folder = folder.parent().ok_or("the running program has no folder")?;
    }
    let program = folder.join("millrace");
    if !lab::is_inside() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "vmm", "--bin", "millrace"]);
        // What cargo tells a test about its package is no business of the build: a build script that looks
        // at it would run again each time.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_")) {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
        if !status.success() {
            return Err("building millrace failed".into());
        }
    }
    if !program.exists() {
        return Err(format!("{} was not built", program.display()).into());
    }
    Ok(program)
}

/// Goes into the lab where this host's KVM cannot run a guest; the caller's whole process starts
/// again there. Everything is made ready first, while there is a cargo and a network.
pub fn enter_lab(adjust: impl FnOnce(&mut LabCommand)) -> Result<(), Failure> {
    let programs = Programs::ready()?;
    lab::enter_if_needed_with(|command| {
        programs.equip(command);
        adjust(command);
    })?;
    Ok(())
}

/// A folder for images: on the lab's scratch disk, or in the host's temporary folder.
pub fn scratch() -> Result<tempfile::TempDir, Failure> {
    let parent = std::env::var_os(lab::SCRATCH_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from);
    Ok(tempfile::tempdir_in(parent)?)
}
