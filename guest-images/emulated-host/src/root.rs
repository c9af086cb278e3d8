//! Ways to give the emulated host the host's files: shared as they are, or copied into a disk image.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{self, Tied};
use crate::qemu::{self, Qemu};
use crate::{Invocation, ROOT_VARIABLE};
use guest_images::kernel::Kernel;
use guest_images::output;
use guest_images::{cache, libraries, packages};

use guest_images::{Error, Result};

/// The host's files, ready to be given to QEMU.
pub(super) enum HostFiles {
    /// A virtiofsd that serves the host's root, and QEMU's connection to it.
    Shared { server: Tied, connection: UnixStream },
    /// An ext4 image of the needed files.
    Image(File),
}

impl HostFiles {
    /// Shares the host's root if there is a virtiofsd and this user may run it (it needs root); else
    /// makes an image.
    pub(super) fn choose(command: &Invocation, kernel: &Kernel, initrd: &Path) -> Result<Self> {
        let forced = std::env::var_os(ROOT_VARIABLE);
        let shared = match forced.as_deref().and_then(OsStr::to_str) {
            Some("virtiofs") => true,
            Some("image") => false,
            Some(other) => {
                return Err(Error::Missing(format!(
                    "{ROOT_VARIABLE} must be 'virtiofs' or 'image', not '{other}'"
                )));
            }
            None => rustix::process::geteuid().is_root(),
        };
        if shared && let Some(files) = share(&qemu::find()?)? {
            return Ok(files);
        }
        if forced.is_some() && shared {
            return Err(Error::Missing(
                "no virtiofsd on this host: install the package virtiofsd".to_owned(),
            ));
        }
        image(command, kernel, initrd).map(HostFiles::Image)
    }
}

fn share(qemu: &Qemu) -> Result<Option<HostFiles>> {
    // An abstract name leaves nothing in the file system, and disappears with its last descriptor.
    let unique =
        cache::hash([format!("{:?}", tempfile::tempdir()).as_bytes(), &std::process::id().to_le_bytes()]);
    let address = SocketAddr::from_abstract_name(format!("millrace-emulated-host-{unique}"))
        .map_err(Error::system("name a socket"))?;
    let listener = UnixListener::bind_addr(&address).map_err(Error::system("listen on a socket"))?;
    let Some(mut command) = qemu.virtiofsd(listener.as_raw_fd()) else {
        return Ok(None);
    };
    // Its log repeats what QEMU reports, and warns about limits that do not matter here.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Tied::start(command, vec![OwnedFd::from(listener)])?;
    let connection = UnixStream::connect_addr(&address).map_err(Error::system("connect to virtiofsd"))?;
    Ok(Some(HostFiles::Shared { server, connection }))
}

/// An image with the command's program and files, their libraries, and the kernel and initrd that a
/// guest boots.
fn image(command: &Invocation, kernel: &Kernel, initrd: &Path) -> Result<File> {
    let mut wanted = BTreeSet::from([kernel.vmlinuz.clone(), initrd.to_owned()]);
    let program = command.argv.first().map(PathBuf::from).unwrap_or_default();
    let program = if program.components().count() > 1 {
        Some(command.cwd.join(&program))
    } else {
        packages::find_program(&program.to_string_lossy())
    };
    let program = program.filter(|path| path.is_file());
    wanted.insert(program.ok_or_else(|| {
        Error::Missing("the command to run in the emulated host is not a program on this host".to_owned())
    })?);
    wanted.extend(command.files.iter().map(|file| command.cwd.join(file)));
    let mut libraries = BTreeSet::new();
    for file in wanted.iter().filter(|file| file.is_file()) {
        let library_path = command.env.iter().find(|(name, _)| name == "LD_LIBRARY_PATH");
        libraries.extend(libraries::needed_by(file, library_path.and_then(|(_, value)| value.to_str()))?);
    }
    wanted.extend(libraries);

    let staging = tempfile::tempdir().map_err(Error::system("make a temporary directory"))?;
    // A kernel counts as complete if it has a modules directory; the modules themselves are in the
    // guest's initrd.
    for directory in [&command.cwd, &kernel.modules] {
        let path = staged(staging.path(), directory);
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    }
    // Nothing is preserved: together with --parents, coreutils 9.1 fails at that. Links are followed, so
    // that each path holds the file that it leads to.
    let mut copy = Command::new("cp");
    copy.args(["-rL", "--parents", "--reflink=auto", "--"]).args(&wanted).arg(staging.path());
    output(&mut copy)?;
    let size = tree_size(staging.path()).map_err(Error::file("read", staging.path()))?;
    // Room for block rounding, inodes and the journal. The file is sparse, so unused room costs nothing.
    let size = size + size / 4 + (64 << 20);
    disk(size, &[OsStr::new("-d"), staging.path().as_os_str()])
}

/// A sparse, nameless file of `size` bytes with an ext4 in it, made by mke2fs with `arguments`.
pub(super) fn disk(size: u64, arguments: &[&OsStr]) -> Result<File> {
    let directory = cache::directory()?;
    let file = tempfile::tempfile_in(&directory).map_err(Error::file("write in", &directory))?;
    file.set_len(size).map_err(Error::system("size a disk image"))?;
    let program = packages::find_program("mke2fs");
    let program = program.ok_or_else(|| {
        Error::Missing("mke2fs is not on this host: install the package e2fsprogs".to_owned())
    })?;
    let mut command = Command::new(program);
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        "-m",
        "0",
    ]);
    let inherited = file.try_clone().map_err(Error::system("duplicate a descriptor"))?;
    command.args(arguments).arg(path_of(&inherited));
    process::tie(&mut command, vec![OwnedFd::from(inherited)]);
    output(&mut command)?;
    Ok(file)
}

/// A path by which a child that inherits `file` under the same number can open it.
pub(super) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()))
}

fn staged(staging: &Path, path: &Path) -> PathBuf {
    staging.join(path.strip_prefix("/").unwrap_or(path))
}

fn tree_size(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.try_fold(0, |sum, entry| {
        let (entry, rounded) = (entry?, |length: u64| length.next_multiple_of(4096));
        let metadata = entry.metadata()?;
        Ok(sum + if metadata.is_dir() { tree_size(&entry.path())? } else { rounded(metadata.len()) })
    })
}
