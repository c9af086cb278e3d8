//! Init of a guest that continues with the root file system on one of its disks, as an ordinary
//! initramfs does.
//!
//! `root=/dev/NAME` on the kernel's command line names the device. Without it, the first disk or
//! partition that has an init is used, in the order of their names. It is mounted writable unless the
//! command line has `ro`.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

const ROOT: &str = "/mnt/root";
/// The path of init in a root file system, unless `init=` gives another.
const INIT: &str = "/sbin/init";
/// The time to wait for disks: a bus that is scanned in the background finds its disks a little later.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// The options of the kernel's command line that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    root: Option<String>,
    init: String,
    read_only: bool,
}

impl Wanted {
    fn parse(cmdline: &str) -> Self {
        let mut wanted = Wanted { root: None, init: INIT.to_owned(), read_only: false };
        for word in cmdline.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("root", device)) => wanted.root = Some(device.to_owned()),
                Some(("init", path)) => wanted.init = path.to_owned(),
                None if word == "ro" => wanted.read_only = true,
                None if word == "rw" => wanted.read_only = false,
                _ => {}
            }
        }
        wanted
    }
}

/// Continues with the root file system. Returns only if that fails, with the reason.
pub fn run() -> String {
    let cmdline = match fs::read_to_string("/proc/cmdline") {
        Ok(cmdline) => cmdline,
        Err(error) => return format!("/proc/cmdline: {error}"),
    };
    let wanted = Wanted::parse(&cmdline);
    if let Err(text) = find(&wanted) {
        return text;
    }
    match enter() {
        Ok(()) => {
            let error = Command::new(&wanted.init).args(std::env::args_os().skip(1)).exec();
            format!("{}: {error}", wanted.init)
        }
        Err(error) => format!("cannot make {ROOT} the root: {error}"),
    }
}

/// Mounts the root file system at [`ROOT`].
fn find(wanted: &Wanted) -> Result<(), String> {
    let kinds = fs::read_to_string("/proc/filesystems").map_err(|error| error.to_string())?;
    let kinds = on_disk(&kinds);
    fs::create_dir_all(ROOT).map_err(|error| format!("{ROOT}: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let candidates = match &wanted.root {
            Some(device) => vec![PathBuf::from(device)],
            None => disks().map_err(|error| format!("/sys/block: {error}"))?,
        };
        let mut reasons = Vec::new();
        for device in &candidates {
            match mount(device, &kinds, wanted) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("{}: {reason}", device.display())),
            }
        }
        if Instant::now() > deadline {
            let reasons = if reasons.is_empty() { "there is no disk".to_owned() } else { reasons.join("; ") };
            return Err(format!("no root file system: {reasons}"));
        }
        std::thread::sleep(AGAIN);
    }
}

/// The file systems of `/proc/filesystems` that lie on disks. The most common one comes first, because
/// the kernel logs an error for each one that is tried and does not match.
fn on_disk(list: &str) -> Vec<&str> {
    let mut kinds: Vec<_> = list.lines().filter_map(|line| line.strip_prefix('\t')).collect();
    kinds.sort_by_key(|kind| *kind != "ext4");
    kinds
}

/// Every disk that has a medium, and its partitions.
fn disks() -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for disk in names(Path::new("/sys/block"))? {
        let folder = Path::new("/sys/block").join(&disk);
        if fs::read_to_string(folder.join("size")).is_ok_and(|sectors| sectors.trim() == "0") {
            continue;
        }
        let partitions =
            names(&folder)?.into_iter().filter(|name| folder.join(name).join("partition").exists());
        all.extend(partitions.map(|name| Path::new("/dev").join(name)));
        all.push(Path::new("/dev").join(disk));
    }
    all.sort();
    Ok(all)
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn mount(device: &Path, kinds: &[&str], wanted: &Wanted) -> Result<(), String> {
    if !device.exists() {
        return Err("does not exist".to_owned());
    }
    let mount = |kind: &str, flags| rustix::mount::mount(device, ROOT, kind, flags, c"");
    for kind in kinds {
        let mounted =
            match mount(kind, if wanted.read_only { MountFlags::RDONLY } else { MountFlags::empty() }) {
                // The disk is read-only.
                Err(Errno::ACCESS | Errno::ROFS) => mount(kind, MountFlags::RDONLY),
                other => other,
            };
        if mounted.is_err() {
            continue;
        }
        // Its links are relative to its own root: followed from here, they would lead elsewhere.
        if fs::symlink_metadata(Path::new(ROOT).join(wanted.init.trim_start_matches('/'))).is_ok() {
            return Ok(());
        }
        let unmounted = rustix::mount::unmount(ROOT, UnmountFlags::empty());
        unmounted.map_err(|error| format!("cannot be unmounted: {error}"))?;
        return Err(format!("its {kind} file system has no {}", wanted.init));
    }
    Err(format!("none of the file systems {} is on it", kinds.join(", ")))
}

/// Makes the file system mounted at [`ROOT`] the root, and moves the kernel's file systems into it.
fn enter() -> io::Result<()> {
    for directory in ["dev", "proc", "sys"] {
        let target = Path::new(ROOT).join(directory);
        rustix::mount::mount_move(Path::new("/").join(directory), target)?;
    }
    // Nobody can reach these files any more, but they would keep their memory. A failure here must not
    // stop the boot.
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
    std::env::set_current_dir(ROOT)?;
    rustix::mount::mount_move(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_which_root() {
        let wanted = Wanted::parse("console=ttyS0 root=/dev/vdb1 init=/bin/sh ro quiet\n");
        let init = "/bin/sh".to_owned();
        assert_eq!(wanted, Wanted { root: Some("/dev/vdb1".into()), init, read_only: true });
        let none = Wanted { root: None, init: INIT.into(), read_only: false };
        assert_eq!(Wanted::parse("console=ttyS0 rootwait ro rw"), none);
    }

    #[test]
    fn ext4_is_tried_first_and_what_needs_no_disk_never() {
        let list = "nodev\tsysfs\nnodev\ttmpfs\n\text3\n\text2\n\text4\nnodev\toverlay\n\tfuseblk\n";
        assert_eq!(on_disk(list), ["ext4", "ext3", "ext2", "fuseblk"]);
    }
}
