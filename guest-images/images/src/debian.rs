//! A disk with a Debian system, built by mmdebstrap; without root if the host allows that.
//!
//! It boots the usual kernel ([`crate::kernel::find`]) from outside the disk; the kernel's modules are
//! on the disk. It boots to a login on every console that the kernel has; root has no password. The
//! system is cached as an archive, so that only the first image of a suite takes a minute and needs the
//! network.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::output;
use crate::kernel::Kernel;
use crate::packages::{self, Apt};
use crate::{Error, Result, cache};

const PROGRAM: &str = "mmdebstrap";

/// The free space, in bytes, that is enough to build a system: several times the size of one.
const ROOM: u64 = 2 << 30;

/// The packages besides the essential ones: an init, device detection, and network tools.
const INCLUDE: &str = "systemd-sysv,udev,kmod,iproute2,dbus";

/// The commands that finish the new system, run by `sh -e` with its folder as `$1`.
///
/// A login needs neither the network nor mail, and a guest that is asked to power off should not wait
/// for any service.
const FINISH: &str = r#"
echo millrace >"$1/etc/hostname"
printf '127.0.0.1 localhost millrace\n' >"$1/etc/hosts"
chroot "$1" passwd --quiet --delete root
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
# Else the first boot would do again what the packages have done.
touch -r "$1/usr" "$1/etc/.updated" "$1/var/.updated"
"#;

/// A disk image to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debian {
    /// The release's code name, such as `bookworm`.
    pub suite: String,
    /// The size of the disk, in bytes.
    pub size: u64,
}

impl Debian {
    /// Makes the new file `image`: a raw image of an ext4 without a partition table.
    ///
    /// # Errors
    /// If a program is missing (the error names its package), the mirror cannot be reached, or the size
    /// is too small.
    pub fn make(&self, kernel: &Kernel, image: &Path) -> Result<()> {
        let archive = archive(&self.suite, kernel)?;
        let file = File::create_new(image).map_err(Error::file("create", image))?;
        let made = file.set_len(self.size).map_err(Error::file("size", image));
        let made = made.and_then(|()| fill(&archive, image));
        if made.is_err() {
            // A half-made image is of no use. If it cannot be removed, the first error still tells more.
            let _ = fs::remove_file(image);
        }
        made
    }

    /// Like [`Debian::make`], but as a file in the cache, which is made if it does not exist. It must
    /// not be written to.
    pub fn cached(&self, kernel: &Kernel) -> Result<PathBuf> {
        let name = format!("debian-{}-{}.img", recipe(&self.suite, kernel), self.size);
        cache::entry(&name, |image| self.make(kernel, image))
    }
}

fn recipe(suite: &str, kernel: &Kernel) -> String {
    format!("{suite}-{}", cache::hash([INCLUDE, FINISH, &kernel.version].map(str::as_bytes)))
}

/// The system as a tar archive.
fn archive(suite: &str, kernel: &Kernel) -> Result<PathBuf> {
    cache::entry(&format!("debian-{}.tar", recipe(suite, kernel)), |path| {
        eprintln!("guest-images: making a Debian system ({suite}), which takes a minute");
        let program = program()?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        // mmdebstrap calls another program of its package.
        let path_variable = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path_variable).chain([folder.to_owned()]);
        let path_variable = std::env::join_paths(folders).unwrap_or(path_variable);
        let mut command = Command::new(&program);
        command.env("PATH", path_variable).env("LC_ALL", "C").env("TMPDIR", workplace());
        // Without root it works in a user namespace; its other modes cannot make every system.
        let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
        command.arg(format!("--mode={mode}"));
        command.args(["--quiet", "--format=tar", "--variant=minbase", "--components=main"]);
        command.arg(format!("--include={INCLUDE}")).arg("--dpkgopt=force-unsafe-io");
        for left_out in ["man", "doc", "info", "locale"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
        }
        // This hook avoids a package with a large Perl, whose work a new system does not need. Inside
        // the user namespace, a hook in a user's own folders may not be readable.
        let merged = folder.join("../share/mmdebstrap/hooks/maybe-merged-usr");
        if merged.is_dir() && (mode == "root" || folder.starts_with("/usr")) {
            command.arg(format!("--hook-dir={}", merged.display()));
        }
        let modules = format!("/usr/lib/modules/{}", kernel.version);
        // A hook is parsed by a shell.
        let source = kernel.modules.to_string_lossy().replace('\'', r"'\''");
        command.arg(format!("--customize-hook=mkdir -p \"$1{modules}\""));
        command.arg(format!("--customize-hook=sync-in '{source}' {modules}"));
        command.arg(format!("--customize-hook=chroot \"$1\" depmod {}", kernel.version));
        command.arg(format!("--customize-hook={FINISH}"));
        command.arg(suite).arg(path).args(packages::mirror()?).stdin(Stdio::null());
        bootstrap(suite, &mut command)
    })
}

/// Runs mmdebstrap. An error quotes the line that mmdebstrap marks as one.
fn bootstrap(suite: &str, command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|source| Error::Start { program: PROGRAM.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| line.starts_with("E: ")).or(said.lines().last());
    let user = "; without root it needs the package uidmap, and subordinate IDs of the user in /etc/subuid";
    let hint = if rustix::process::geteuid().is_root() { "" } else { user };
    let text = first.unwrap_or("no message").trim_start_matches("E: ");
    // Some lines list every package.
    let text: String = text.chars().take(300).collect();
    Err(Error::Missing(format!("no Debian system ({suite}): {PROGRAM} failed: {text}{hint}")))
}

/// The folder in which a system is unpacked. This is in memory if there is room and the mount options
/// allow all the files of a system, because dpkg waits for the disk after each of its steps; otherwise
/// it is the folder for temporary files.
fn workplace() -> PathBuf {
    use rustix::fs::StatVfsMountFlags as Flags;
    let memory = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none()
        && let Ok(status) = rustix::fs::statvfs(memory)
        && !status.f_flag.intersects(Flags::NODEV | Flags::NOEXEC | Flags::NOSUID | Flags::RDONLY)
        && status.f_bavail.saturating_mul(status.f_frsize) >= ROOM
    {
        return memory.to_owned();
    }
    std::env::temp_dir()
}

/// mmdebstrap: the host's own, or unpacked into the cache. It is a script that needs little of its
/// package.
fn program() -> Result<PathBuf> {
    if let Some(program) = packages::find_program(PROGRAM) {
        return Ok(program);
    }
    let root = cache::entry(PROGRAM, |root| Apt::host().unpack(&[PROGRAM.to_owned()], root));
    let explain = |error| Error::Missing(format!("no {PROGRAM}: install the package {PROGRAM} ({error})"));
    Ok(root.map_err(explain)?.join("usr/bin").join(PROGRAM))
}

/// Makes an ext4 with the content of `archive` in the file `image`.
fn fill(archive: &Path, image: &Path) -> Result<()> {
    let staging = tempfile::tempdir_in(workplace()).map_err(Error::system("make a temporary directory"))?;
    // Only root can set owners and make device nodes; fakeroot simulates them for other users.
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new(tool("fakeroot", "fakeroot")?);
        command.arg("sh");
        command
    };
    let script = r#"tar --extract --numeric-owner --preserve-permissions --file="$1" --directory="$2"
                    exec "$3" -q -F -t ext4 -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard -d "$2" "$4""#;
    command.args(["-e", "-c", script, "sh"]).arg(archive).arg(staging.path());
    command.arg(tool("mke2fs", "e2fsprogs")?).arg(image);
    output(&mut command).map(drop)
}

fn tool(name: &str, package: &str) -> Result<PathBuf> {
    packages::find_program(name)
        .ok_or_else(|| Error::Missing(format!("{name} is not on this host: install the package {package}")))
}
