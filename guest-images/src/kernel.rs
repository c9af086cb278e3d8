//! A stock kernel to boot: Debian's for cloud machines, unpacked into the cache.

use std::path::{Path, PathBuf};

use crate::packages::{self, Apt};
use crate::{Error, Result, cache};

/// The metapackage whose dependency is the current kernel.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
const ENTRY: &str = "kernel-";

/// The environment variable that overrides the search: the directory that holds `boot/vmlinuz-*`.
/// The lab sets it, so that its machine uses what its host has prepared.
pub const PATH_VARIABLE: &str = "MILLRACE_GUEST_KERNEL";

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What holds all of it: the unpacked package.
    pub root: PathBuf,
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// The directory that holds `kernel/` and `modules.builtin`.
    pub modules: PathBuf,
    /// The release, as `uname -r` prints it in the guest.
    pub version: String,
}

/// The cached kernel, or the one that Debian ships today, which is then cached.
///
/// A cached kernel is used as long as it is there: a run needs no network, and two runs are comparable.
///
/// The variable [`PATH_VARIABLE`] names another unpacked package to use instead.
pub fn find() -> Result<Kernel> {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return open(Path::new(&path));
    }
    let directory = cache::directory()?;
    let cached = packages::files(&directory)?.into_iter().rfind(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(ENTRY))
    });
    match cached {
        Some(path) => open(&path),
        None => open(&fetch()?),
    }
}

/// The kernel that `metapackage` of `suite` stands for, as `linux-image-amd64` of `trixie`, which is cached apart
/// from the usual one. A cached one is used as long as it is there.
pub fn of_suite(suite: &str, metapackage: &str) -> Result<Kernel> {
    let entry = cache::entry(&format!("suite-{suite}-{metapackage}"), |root| {
        let folder = tempfile::tempdir().map_err(Error::system("make a temporary directory"))?;
        let apt = Apt::of_suite(suite, folder.path())?;
        let package = current(&apt, metapackage)?;
        apt.unpack(&[package], root)
    });
    open(&entry.map_err(|error| cannot_fetch(metapackage, error))?)
}

fn fetch() -> Result<PathBuf> {
    let apt = Apt::host();
    let package = current(&apt, METAPACKAGE).map_err(|error| cannot_fetch(METAPACKAGE, error))?;
    cache::entry(&format!("{ENTRY}{package}"), |root| apt.unpack(std::slice::from_ref(&package), root))
        .map_err(|error| cannot_fetch(METAPACKAGE, error))
}

/// The kernel package that a metapackage depends on.
fn current(apt: &Apt, metapackage: &str) -> Result<String> {
    let package = apt.depends(metapackage)?.into_iter().find(|name| name.starts_with("linux-image-"));
    package.ok_or_else(|| Error::Missing(format!("{metapackage} names no kernel")))
}

fn cannot_fetch(metapackage: &str, error: Error) -> Error {
    Error::Missing(format!("no guest kernel: Debian's package {metapackage} cannot be fetched ({error})"))
}

/// The kernel in the unpacked package at `root`.
fn open(root: &Path) -> Result<Kernel> {
    let invalid = |text: &str| Error::Invalid { path: root.to_owned(), text: text.to_owned() };
    let boot = packages::files(&root.join("boot"))?;
    let kernel = boot.into_iter().find_map(|path| {
        let version = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((path, version))
    });
    let (vmlinuz, version) = kernel.ok_or_else(|| invalid("holds no boot/vmlinuz-*"))?;
    // The /usr merge moved the modules after Debian 12.
    let modules = ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib).join(&version));
    let modules =
        modules.into_iter().find(|path| path.is_dir()).ok_or_else(|| invalid("holds no modules"))?;
    Ok(Kernel { root: root.to_owned(), vmlinuz, modules, version })
}
