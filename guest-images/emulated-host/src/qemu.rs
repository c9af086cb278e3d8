//! QEMU and virtiofsd: the host's own, or unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::cache;
use guest_images::packages::{self, Apt};

use guest_images::{Error, Result};

const ENTRY: &str = "qemu";
const PROGRAM: &str = "qemu-system-x86_64";
/// The paths of virtiofsd: QEMU's own until 7.2, and the separate one in Rust.
const VIRTIOFSD: [&str; 3] = ["usr/lib/qemu/virtiofsd", "usr/libexec/virtiofsd", "usr/lib/virtiofsd"];

/// A `qemu-system-x86_64` that runs on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// The root of the unpacked packages that it comes from; `None` if it is installed.
    pub root: Option<PathBuf>,
}

impl Qemu {
    /// A command that runs QEMU; the caller adds the machine's arguments.
    pub fn command(&self) -> Command {
        let mut command = self.other(&self.program);
        if let Some(root) = &self.root {
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }

    /// The value of `LD_LIBRARY_PATH` that an unpacked QEMU needs.
    pub fn library_path(&self) -> Option<String> {
        let root = self.root.as_ref()?;
        // The library directories of packages before and after the /usr merge, and the one of a package
        // with its own directory.
        let directories =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio"];
        Some(directories.map(|directory| root.join(directory).display().to_string()).join(":"))
    }

    /// A command for a program of the same packages.
    fn other(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(path) = self.library_path() {
            command.env("LD_LIBRARY_PATH", path);
        }
        command
    }

    /// A command that runs virtiofsd and serves the host's root on the listening socket `socket`. `None`
    /// if there is no virtiofsd.
    pub(super) fn virtiofsd(&self, socket: i32) -> Option<Command> {
        let roots = [Some(Path::new("/")), self.root.as_deref()];
        let candidates = roots.into_iter().flatten().flat_map(|root| VIRTIOFSD.map(|path| root.join(path)));
        let program = candidates.into_iter().find(|path| path.is_file())?;
        let mut command = self.other(&program);
        command.arg(format!("--fd={socket}"));
        if program.ends_with(VIRTIOFSD[0]) {
            command.args(["-o", "source=/", "-o", "cache=auto", "-o", "sandbox=chroot"]);
        } else {
            command.args(["--shared-dir", "/", "--cache", "auto", "--sandbox", "chroot"]);
        }
        Some(command)
    }
}

/// The QEMU in `PATH`, or else the one in the cache, which is fetched if it is missing.
pub fn find() -> Result<Qemu> {
    if let Some(program) = packages::find_program(PROGRAM) {
        return Ok(Qemu { program, root: None });
    }
    let root = cache::entry(ENTRY, |root| {
        let apt = Apt::host();
        let mut wanted = vec!["qemu-system-x86"];
        wanted.extend(["virtiofsd"].into_iter().filter(|package| apt.knows(package)));
        apt.unpack(&apt.with_missing_dependencies(&wanted)?, root)
    });
    let explain =
        |error| Error::Missing(format!("no {PROGRAM}: install the package qemu-system-x86 ({error})"));
    let root = root.map_err(explain)?;
    Ok(Qemu { program: root.join("usr/bin").join(PROGRAM), root: Some(root) })
}
