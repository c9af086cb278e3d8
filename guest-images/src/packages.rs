//! Debian packages, downloaded and unpacked into the cache, never installed.
//!
//! Unpacking needs no root, changes nothing on the host, and cannot push out what is installed: a machine
//! that has `qemu-utils` from backports would lose it to the main suite's `qemu-system-x86`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::output;
use crate::{Error, Result};

/// What apt knows about the dependencies of `package`: the names it `Depends:` on, alternatives left out.
pub(crate) fn depends(package: &str) -> Result<Vec<String>> {
    let ask = || output(apt("apt-cache").args(["depends", package]));
    // A fresh container has no package lists, and apt then knows no package at all.
    let listing = ask().or_else(|error| if update() { ask() } else { Err(error) })?;
    let listing = String::from_utf8_lossy(&listing);
    let names = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).collect())
}

/// Whether apt has a package of this name.
pub(crate) fn known(package: &str) -> bool {
    output(apt("apt-cache").args(["show", "--no-all-versions", package])).is_ok()
}

/// `packages`, and what they need that this host has not installed, in the order of their names.
pub(crate) fn with_missing_dependencies(packages: &[&str]) -> Result<Vec<String>> {
    let mut command = apt("apt-get");
    // Simulated only: '-s' needs no root and changes nothing.
    command
        .args(["install", "-s", "--no-install-recommends"])
        .args(packages);
    let plan = output(&mut command).or_else(|error| {
        if update() {
            output(&mut command)
        } else {
            Err(error)
        }
    })?;
    let plan = String::from_utf8_lossy(&plan);
    let new = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    Ok(new.map(str::to_owned).collect())
}

/// Downloads `packages` and unpacks them all into the new directory `root`.
pub(crate) fn unpack(packages: &[String], root: &Path) -> Result<()> {
    eprintln!("guest-images: fetching {}", summary(packages));
    let download = tempfile::tempdir().map_err(Error::system("make a temporary directory"))?;
    let mut command = apt("apt-get");
    // As root, apt would download as a user who cannot write here, and warn about it.
    command
        .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
        .args(packages)
        .current_dir(&download);
    // Lists that are older than the archive name files that are gone.
    output(&mut command).or_else(|error| {
        if update() {
            output(&mut command)
        } else {
            Err(error)
        }
    })?;
    fs::create_dir_all(root).map_err(Error::file("create", root))?;
    for file in files(download.path())? {
        output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(root))?;
    }
    Ok(())
}

/// The files in one directory, sorted.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = || {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let mut files = list().map_err(Error::file("list", directory))?;
    files.sort();
    Ok(files)
}

/// Where `program` is: in `PATH`, or in the system directories that a user's `PATH` leaves out.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

fn apt(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Gets apt's package lists, where that is allowed; whether anything may have changed.
fn update() -> bool {
    rustix::process::geteuid().is_root() && output(apt("apt-get").args(["update", "-q"])).is_ok()
}

fn summary(packages: &[String]) -> String {
    match packages {
        [one] => format!("package {one}"),
        [.., last] => format!("{last} and {} packages that it needs", packages.len() - 1),
        [] => "nothing".to_owned(),
    }
}
