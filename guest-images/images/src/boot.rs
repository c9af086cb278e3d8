//! The folder `boot` of the cache: `millrace run` boots its content if it is given no kernel.
//!
//! It holds `vmlinuz`, the usual kernel, and `initrd`, an initramfs that continues with the root file
//! system of a disk. `boot` is a link to a complete folder and is replaced in one step, so a program
//! that reads it at any time finds either the old or the new one.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::kernel::Kernel;
use crate::{Error, Result, cache, initramfs};

/// The name of the folder in the cache.
const NAME: &str = "boot";

/// Makes the folder hold `kernel`. Returns its path.
pub fn publish(kernel: &Kernel) -> Result<PathBuf> {
    let initrd = initramfs::root(kernel)?;
    let files = [("vmlinuz", &kernel.vmlinuz), ("initrd", &initrd)];
    let paths = files.map(|(_, path)| path.to_string_lossy());
    let entry = format!("{NAME}-{}", cache::hash(paths.iter().map(|path| path.as_bytes())));
    let folder = cache::entry(&entry, |folder| {
        fs::create_dir(folder).map_err(Error::file("create", folder))?;
        let link = |(name, path): (&str, &PathBuf)| {
            symlink(path, folder.join(name)).map_err(Error::file("link to", path))
        };
        files.into_iter().try_for_each(link)
    })?;
    let cache = cache::directory()?;
    point(&cache.join(NAME), &entry).map_err(Error::file("link to", &folder))?;
    Ok(cache.join(NAME))
}

/// Makes `link` a symbolic link to `target`, and replaces an existing one.
fn point(link: &Path, target: &str) -> std::io::Result<()> {
    let new = link.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => symlink(target, &new)?,
    }
    fs::rename(&new, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_put_in_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let link = folder.path().join("boot");
        for target in ["first", "second"] {
            point(&link, target).expect("a link");
            assert_eq!(fs::read_link(&link).expect("a link"), Path::new(target));
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 1);
    }
}
