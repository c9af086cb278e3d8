//! The cache for built and fetched files: the folder `guest-images` in cargo's target directory.
//!
//! An entry is a file or a directory whose name identifies its content (by a version or a hash of its
//! inputs). It is built under a temporary name and renamed, so an entry that exists is complete; a lock
//! file per entry keeps two processes from building the same one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The cache's directory, created if it does not exist: in the target directory that the running program
/// was built in, else in the workspace's `target`.
///
/// A relative `CARGO_TARGET_DIR` cannot be used: tests run in another folder than the cargo that it was
/// meant for.
pub fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe().ok();
    let target = program.as_deref().and_then(target_of).unwrap_or_else(|| workspace().join("target"));
    let directory = target.join("guest-images");
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    fs::canonicalize(&directory).map_err(Error::file("find", &directory))
}

/// The target directory that holds `program`: the nearest one that cargo has marked as its own.
fn target_of(program: &Path) -> Option<PathBuf> {
    // Cargo marks its directory by the Cache Directory Tagging Specification.
    program.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
}

/// The root of the workspace that this crate was built in.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// The entry `name`. If it does not exist yet, `build` makes it.
///
/// `build` gets a path in an empty temporary directory on the same file system, and must make a file or
/// a directory there. If it fails, everything in that directory is removed.
pub fn entry(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = directory()?;
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(&directory, name)?;
    if path.exists() {
        return Ok(path);
    }
    let temporary = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(&directory)
        .map_err(Error::file("write in", &directory))?;
    let built = temporary.path().join(name);
    build(&built)?;
    fs::rename(&built, &path).map_err(Error::file("rename to", &path))?;
    Ok(path)
}

/// Takes the lock `name`, which is held until the result is dropped or the process ends.
pub fn lock(directory: &Path, name: &str) -> Result<File> {
    let path = directory.join(format!(".{name}.lock"));
    let file = File::create(&path).map_err(Error::file("create", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}

/// A name for some content: the first 16 hexadecimal digits of the SHA-256 of all `parts`, each with its
/// length.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_found_from_the_program_wherever_it_lies() {
        let folder = tempfile::Builder::new().prefix("with space ").tempdir().unwrap();
        let deps = folder.path().join("x86_64-unknown-linux-gnu/release/deps");
        fs::create_dir_all(&deps).unwrap();
        assert_eq!(target_of(&deps.join("program")), None);
        fs::write(folder.path().join("CACHEDIR.TAG"), "").unwrap();
        assert_eq!(target_of(&deps.join("program")).as_deref(), Some(folder.path()));
        assert_eq!(target_of(&deps.with_file_name("program")).as_deref(), Some(folder.path()));
    }

    #[test]
    fn this_test_keeps_things_in_the_target_directory_that_it_was_built_in() {
        let program = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert!(program.starts_with(directory().unwrap().parent().unwrap()));
    }
}
