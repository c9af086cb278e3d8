//! Chooses the kernel to boot if the command line names none: the one that `guest-images kernel` has
//! prepared.
//!
//! It lies in a folder that holds `vmlinuz` and `initrd`; this initrd mounts the root file system of the
//! first disk that has one. The variable `MILLRACE_BOOT` names the folder. By default it is
//! `guest-images/boot` in cargo's target folder, which is found from the path of the running program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Failure;
use super::log;
use super::options::Run;

const VARIABLE: &str = "MILLRACE_BOOT";
const COMMAND: &str = "cargo run -p guest-images -- kernel";

/// A kernel and its initial RAM disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Boot {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
}

/// Returns the kernel and initrd that the options name, or otherwise the prepared ones, and then prints a
/// line that names them.
pub(super) fn choose(options: &Run) -> Result<Boot, Failure> {
    if let Some(kernel) = options.kernel.clone() {
        return Ok(Boot { kernel, initrd: options.initrd.clone() });
    }
    let folder = folder(std::env::var_os(VARIABLE), std::env::current_exe().ok().as_deref());
    let mut boot = ready(folder.as_deref())?;
    boot.initrd = options.initrd.clone().or(boot.initrd);
    let initrd = boot.initrd.as_deref().map_or_else(|| "none".into(), Path::to_string_lossy);
    let kernel = boot.kernel.display();
    log::say(&format!("millrace: no --kernel given: booting {kernel} with initrd {initrd}"));
    Ok(boot)
}

fn folder(named: Option<OsString>, program: Option<&Path>) -> Option<PathBuf> {
    let beside = || Some(program?.parent()?.parent()?.join("guest-images/boot"));
    named.map(PathBuf::from).or_else(beside)
}

fn ready(folder: Option<&Path>) -> Result<Boot, Failure> {
    // Links are resolved, so that the printed names show versions, and a later change of a link has no
    // effect.
    let file = |name: &str| folder?.join(name).canonicalize().ok();
    let kernel = file("vmlinuz");
    let kernel = kernel.ok_or_else(|| format!("give --kernel FILE, or prepare a kernel with: {COMMAND}"))?;
    Ok(Boot { kernel, initrd: file("initrd") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_found_from_the_program_unless_it_is_named() {
        let program = Path::new("/src/target/release/millrace");
        assert_eq!(folder(None, Some(program)), Some("/src/target/guest-images/boot".into()));
        assert_eq!(folder(Some("/boot".into()), Some(program)), Some("/boot".into()));
        assert_eq!(folder(None, Some(Path::new("/millrace"))), None);
    }

    #[test]
    fn what_lies_ready_is_booted_and_else_the_command_named_that_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        for missing in [None, Some(folder.path())] {
            assert!(ready(missing).unwrap_err().contains(COMMAND));
        }
        let kernel = folder.path().canonicalize().unwrap().join("vmlinuz-6.1");
        std::fs::write(&kernel, "").unwrap();
        std::os::unix::fs::symlink(&kernel, folder.path().join("vmlinuz")).unwrap();
        let boot = ready(Some(folder.path())).unwrap();
        assert_eq!(boot, Boot { kernel, initrd: None });
    }
}
