//! The shared libraries that a program needs, as the dynamic loader itself finds them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::output;
use crate::{Error, Result};

/// The program interpreter's path on x86-64 (System V ABI, AMD64 supplement).
pub const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The files that `program` needs to start, including the loader. Empty for a script, a static program
/// or data.
///
/// `library_path` is the value of `LD_LIBRARY_PATH` that the program will run with.
pub fn needed_by(program: &Path, library_path: Option<&str>) -> Result<BTreeSet<PathBuf>> {
    if !is_elf(program)? {
        return Ok(BTreeSet::new());
    }
    let mut command = Command::new(LOADER);
    command.arg("--list").arg(program).env_remove("LD_PRELOAD");
    if let Some(path) = library_path {
        command.env("LD_LIBRARY_PATH", path);
    }
    let listing = match output(&mut command) {
        Ok(listing) => listing,
        // The loader fails for a static program. A broken one fails later, with an error of its own.
        Err(Error::Program { .. }) => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut files = parse(&String::from_utf8_lossy(&listing));
    if !files.is_empty() {
        files.insert(PathBuf::from(LOADER));
    }
    Ok(files)
}

/// Parses lines of the form `name => /path (address)` or `/path (address)`; the kernel's vdso has no
/// path.
fn parse(listing: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        // A path may contain spaces; the address after it does not.
        let (named, _) = line.trim().rsplit_once(" (0x")?;
        let path = named.split_once(" => ").map_or(named, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listing.lines().filter_map(path).collect()
}

fn is_elf(file: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    match File::open(file).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) => Ok(magic == *b"\x7fELF"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::file("read", file)(error)),
    }
}

#[cfg(test)]
#[path = "libraries_tests.rs"]
mod tests;
