//! A stock kernel to boot: Debian's kernel for cloud machines, unpacked into the cache.

use std::path::{Path, PathBuf};

use crate::packages::{self, Apt};
use crate::{Error, Result, cache};

/// The metapackage that depends on the current kernel.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
const ENTRY: &str = "kernel-";

/// The environment variable that overrides the search: the directory that holds `boot/vmlinuz-*`. The
/// emulated host sets it, so that its guests use the kernel that the host has prepared.
pub const PATH_VARIABLE: &str = "MILLRACE_GUEST_KERNEL";

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The directory of the unpacked package, which holds everything below.
    pub root: PathBuf,
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// The directory that holds `kernel/` and `modules.builtin`.
    pub modules: PathBuf,
    /// The release, as `uname -r` prints it in the guest.
    pub version: String,
}

/// The cached kernel, or else the one that Debian currently ships, which is then cached.
///
/// A cached kernel is used as long as it exists: so a run needs no network, and two runs are comparable.
///
/// The variable [`PATH_VARIABLE`] can name another unpacked package to use instead.
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

/// The kernel that `metapackage` of `suite` stands for (such as `linux-image-amd64` of `trixie`). It is
/// cached apart from the usual kernel, and used as long as it exists.
pub fn of_suite(suite: &str, metapackage: &str) -> Result<Kernel> {
    let entry = cache::entry(&format!("suite-{suite}-{metapackage}"), |root| {
        let folder = tempfile::tempdir().map_err(Error::system("make a temporary directory"))?;
        let apt = Apt::of_suite(suite, folder.path())?;
        let package = current(&apt, metapackage)?;
        apt.unpack(&parts(&apt, &package)?, root)
    });
    open(&entry.map_err(|error| cannot_fetch(metapackage, error))?)
}

fn fetch() -> Result<PathBuf> {
    let apt = Apt::host();
    let package = current(&apt, METAPACKAGE).map_err(|error| cannot_fetch(METAPACKAGE, error))?;
    cache::entry(&format!("{ENTRY}{package}"), |root| apt.unpack(&parts(&apt, &package)?, root))
        .map_err(|error| cannot_fetch(METAPACKAGE, error))
}

/// The kernel package that a metapackage depends on.
fn current(apt: &Apt, metapackage: &str) -> Result<String> {
    let package = apt.depends(metapackage)?.into_iter().find(|name| name.starts_with("linux-image-"));
    package.ok_or_else(|| Error::Missing(format!("the package {metapackage} depends on no kernel")))
}

/// The packages that hold the kernel `package` (such as `linux-image-7.2.13-cloud-amd64`): the package
/// itself and, after Debian 13, those of the same version that it depends on (`linux-binary-...` and
/// `linux-modules-...`).
fn parts(apt: &Apt, package: &str) -> Result<Vec<String>> {
    let version = package.strip_prefix("linux-image").unwrap_or(package);
    let is_part = |name: &String| name.starts_with("linux-") && name.ends_with(version) && name != package;
    let others = apt.depends(package)?.into_iter().filter(is_part);
    Ok(std::iter::once(package.to_owned()).chain(others).collect())
}

fn cannot_fetch(metapackage: &str, error: Error) -> Error {
    Error::Missing(format!("no guest kernel: Debian's package {metapackage} cannot be fetched ({error})"))
}

/// The kernel in the unpacked packages at `root`: `boot/vmlinuz-VERSION` with its modules in `lib` or,
/// since the /usr merge after Debian 12, in `usr/lib`. After Debian 13 `vmlinuz` is in the directory of
/// the modules.
fn open(root: &Path) -> Result<Kernel> {
    let invalid = |text: &str| Error::Invalid { path: root.to_owned(), text: text.to_owned() };
    let boot = root.join("boot");
    let files = if boot.is_dir() { packages::files(&boot)? } else { Vec::new() };
    let in_boot = files.into_iter().find_map(|path| {
        let version = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((path, version))
    });
    let folders = ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib));
    let beside_modules = || {
        let versions = folders.iter().filter_map(|folder| packages::files(folder).ok()).flatten();
        versions.map(|folder| (folder.join("vmlinuz"), folder)).find_map(|(path, folder)| {
            path.is_file().then_some(())?;
            Some((path, folder.file_name()?.to_str()?.to_owned()))
        })
    };
    let kernel = in_boot.or_else(beside_modules);
    let (vmlinuz, version) =
        kernel.ok_or_else(|| invalid("holds neither boot/vmlinuz-* nor a vmlinuz beside its modules"))?;
    let modules = folders.iter().map(|folder| folder.join(&version)).find(|path| path.is_dir());
    Ok(Kernel {
        root: root.to_owned(),
        vmlinuz,
        modules: modules.ok_or_else(|| invalid("holds no modules"))?,
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_as_each_release_lays_it_out() {
        for (kernel, modules) in [
            ("boot/vmlinuz-6.1", "lib/modules/6.1"),
            ("boot/vmlinuz-6.12", "usr/lib/modules/6.12"),
            ("usr/lib/modules/7.2/vmlinuz", "usr/lib/modules/7.2"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let (kernel, modules) = (root.path().join(kernel), root.path().join(modules));
            std::fs::create_dir_all(&modules).unwrap();
            assert!(open(root.path()).is_err());
            std::fs::create_dir_all(kernel.parent().unwrap()).unwrap();
            std::fs::write(&kernel, "").unwrap();
            let found = open(root.path()).unwrap();
            assert_eq!((found.vmlinuz, &found.modules), (kernel, &modules));
            assert_eq!(Some(found.version.as_str()), modules.file_name().unwrap().to_str());
        }
    }
}
