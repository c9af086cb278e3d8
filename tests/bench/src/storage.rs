//! The storage of images, and the preparation of their files, in the same way for all programs.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Advice, fadvise, syncfs};

use harness::Failure;

/// The file system of `folder`, for users: `ext4 on /dev/vda`.
pub fn describe(folder: &Path) -> Result<String, Failure> {
    let folder = folder.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut best: Option<(usize, String)> = None;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(device)) = (right.next(), right.next()) else { continue };
        // Later lines cover earlier ones.
        if folder.starts_with(mount) && best.as_ref().is_none_or(|(length, _)| mount.len() >= *length) {
            best = Some((mount.len(), format!("{kind} on {device}")));
        }
    }
    best.map(|(_, text)| text).ok_or_else(|| format!("{}: no mount", folder.display()).into())
}

/// Waits until everything written to the file system of `folder` is on its device.
pub fn settle(folder: &Path) -> Result<(), Failure> {
    Ok(syncfs(File::open(folder)?)?)
}

/// Evicts a file from the page cache.
pub fn evict(path: &Path) -> Result<(), Failure> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Reads a file into the page cache.
pub fn warm(path: &Path) -> Result<(), Failure> {
    std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
    Ok(())
}

/// Allocates this many bytes of page cache and frees them.
///
/// A virtual machine's free memory may have been returned to its host, or its pages may be new to the
/// kernel, so that their first use costs time. After this call, no measured program pays for it.
pub fn fault_in(bytes: u64) -> Result<(), Failure> {
    let mut file = File::from(rustix::fs::memfd_create("fault-in", rustix::fs::MemfdFlags::CLOEXEC)?);
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..bytes >> 20 {
        std::io::Write::write_all(&mut file, &piece)?;
    }
    Ok(())
}

/// [`fault_in`] for all free memory, except what the kernel wants to keep free.
///
/// Under emulation, the first write to a page from which a guest's code once ran is slow: without this,
/// each boot would pay for the one before it.
pub fn fault_in_free() -> Result<(), Failure> {
    const KEPT: u64 = 192 << 20;
    let all = std::fs::read_to_string("/proc/meminfo")?;
    let free =
        all.lines().find_map(|line| line.strip_prefix("MemFree:")?.trim().strip_suffix(" kB")?.parse().ok());
    let free: u64 = free.ok_or("/proc/meminfo: no MemFree")?;
    fault_in((free << 10).saturating_sub(KEPT).min(4 << 30))
}

/// The space that a file takes on its device, in bytes.
pub fn allocated(path: &Path) -> Result<u64, Failure> {
    Ok(path.metadata()?.blocks() * 512)
}

/// The number of processes that ran or waited for a disk on average in the last minute, and the number of
/// processors, for users: `load 3.10 on 2 processors`.
pub fn load() -> Result<String, Failure> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().ok_or("/proc/loadavg: empty")?;
    let processors = std::thread::available_parallelism()?;
    Ok(format!("load {load} on {processors} processors"))
}

/// The free space of the file system of `folder`, in bytes.
pub fn free(folder: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// A file system of its own on a loop device. It is removed when this value is dropped.
pub struct Loop {
    mount: PathBuf,
    image: PathBuf,
}

impl Loop {
    /// Makes a file system of `kind` (`xfs`, `btrfs`) with room for `size` bytes, below `folder`.
    ///
    /// # Errors
    /// If this is not root, the `mkfs` program is missing, or there are no loop devices: the text says
    /// which.
    pub fn make(kind: &str, size: u64, folder: &Path) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err("loop devices need root".into());
        }
        let made = Loop { mount: folder.join(kind), image: folder.join(format!("{kind}.img")) };
        File::create(&made.image)?.set_len(size)?;
        std::fs::create_dir(&made.mount)?;
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        run(mkfs.arg("-q").arg(&made.image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&made.image).arg(&made.mount))?;
        Ok(made)
    }

    /// The root folder of the file system.
    pub fn folder(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Fails if making it failed before the mount.
        let _ = Command::new("umount").arg(&self.mount).output();
        let _ = std::fs::remove_dir(&self.mount);
        let _ = std::fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}
