//! A stock kernel to boot: Debian's for cloud machines, unpacked into the cache.

use std::path::{Path, PathBuf};

use crate::{Error, Result, cache, packages};

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
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(ENTRY))
    });
    match cached {
        Some(path) => open(&path),
        None => open(&fetch()?),
    }
}

fn fetch() -> Result<PathBuf> {
    let explain = |error: Error| {
        Error::Missing(format!(
            "no guest kernel: Debian's package {METAPACKAGE} cannot be fetched ({error})"
        ))
    };
    let dependencies = packages::depends(METAPACKAGE).map_err(explain)?;
    let package = dependencies
        .into_iter()
        .find(|name| name.starts_with("linux-image-"));
    let package = package
        .ok_or_else(|| Error::Missing(format!("no guest kernel: {METAPACKAGE} names none")))?;
    cache::entry(&format!("{ENTRY}{package}"), |root| {
        packages::unpack(std::slice::from_ref(&package), root)
    })
    .map_err(explain)
}

/// The kernel in the unpacked package at `root`.
fn open(root: &Path) -> Result<Kernel> {
    let invalid = |text: &str| Error::Invalid {
        path: root.to_owned(),
        text: text.to_owned(),
    };
    let boot = packages::files(&root.join("boot"))?;
    let kernel = boot.into_iter().find_map(|path| {
        let version = path
            .file_name()?
            .to_str()?
            .strip_prefix("vmlinuz-")?
            .to_owned();
        Some((path, version))
    });
    let (vmlinuz, version) = kernel.ok_or_else(|| invalid("holds no boot/vmlinuz-*"))?;
    // The /usr merge moved the modules after Debian 12.
    let modules = ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib).join(&version));
    let modules = modules
        .into_iter()
        .find(|path| path.is_dir())
        .ok_or_else(|| invalid("holds no modules"))?;
    Ok(Kernel {
        root: root.to_owned(),
        vmlinuz,
        modules,
        version,
    })
}
