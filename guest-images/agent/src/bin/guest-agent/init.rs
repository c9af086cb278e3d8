//! Preparations of every role: the kernel's file systems, and the modules that the initramfs lists.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::mount::MountFlags;

const MODULES: &str = "/etc/modules";

/// Mounts and inserts everything. Continues after a failure, and returns the first one.
pub fn prepare() -> Result<(), String> {
    let mounted = kernel_file_systems(Path::new("/"));
    mounted.and(insert_modules())
}

/// Mounts proc, sys and dev below `root`. Creates each directory that does not exist.
pub fn kernel_file_systems(root: &Path) -> Result<(), String> {
    let mut first = Ok(());
    for (kind, directory) in [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")] {
        first = first.and(mount(kind, &root.join(directory), kind, MountFlags::empty(), c""));
    }
    first
}

/// Mounts `source` of type `kind` at `target`, which is created if it does not exist.
pub fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    options: &CStr,
) -> Result<(), String> {
    let mounted = fs::create_dir_all(target)
        .and_then(|()| Ok(rustix::mount::mount(source, target, kind, flags, options)?));
    mounted.map_err(|error| format!("mount {source} at {}: {error}", target.display()))
}

fn insert_modules() -> Result<(), String> {
    let list = fs::read_to_string(MODULES).map_err(|error| format!("{MODULES}: {error}"))?;
    let mut first = Ok(());
    for path in list.lines() {
        let inserted = insert(path);
        first = first.and(inserted.map_err(|error| format!("{path}: {error}")));
    }
    first
}

fn insert(path: &str) -> io::Result<()> {
    match rustix::system::finit_module(File::open(path)?, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
