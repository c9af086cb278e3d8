//! Init of a guest that goes on with the root file system on one of its disks, as every initramfs does in the
//! end.
//!
//! `root=/dev/NAME` on the kernel's command line says which; without it, it is the first disk or partition,
//! in the order of their names, that has an init. It is mounted writable unless the command line says `ro`.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

const ROOT: &str = "/mnt/root";
/// Where a root file system has its init, unless `init=` says otherwise.
const INIT: &str = "/sbin/init";
/// A disk behind a bus that is scanned in the background comes a little later.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// What the kernel's command line says.
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

/// Goes on with the root file system: returns only where that cannot be, and says why.
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

/// The kinds of file systems that lie on disks, of those in `/proc/filesystems`. The one that most disks have
/// comes first: the kernel complains about every one that is tried in vain.
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
        return Err("is not there".to_owned());
    }
    let mount = |kind: &str, flags| rustix::mount::mount(device, ROOT, kind, flags, c"");
    for kind in kinds {
        let mounted =
            match mount(kind, if wanted.read_only { MountFlags::RDONLY } else { MountFlags::empty() }) {
                // A disk that cannot be written to.
                Err(Errno::ACCESS | Errno::ROFS) => mount(kind, MountFlags::RDONLY),
                other => other,
            };
        if mounted.is_err() {
            continue;
        }
        // Its own links lead from its own root: followed from here, they would lead elsewhere.
        if fs::symlink_metadata(Path::new(ROOT).join(wanted.init.trim_start_matches('/'))).is_ok() {
            return Ok(());
        }
        let unmounted = rustix::mount::unmount(ROOT, UnmountFlags::empty());
        unmounted.map_err(|error| format!("cannot be unmounted: {error}"))?;
        return Err(format!("holds {kind}, and no {} in it", wanted.init));
    }
    Err(format!("holds none of {}", kinds.join(", ")))
}

/// Makes what is mounted at [`ROOT`] the root, with the kernel's file systems in it.
fn enter() -> io::Result<()> {
    for directory in ["dev", "proc", "sys"] {
        let target = Path::new(ROOT).join(directory);
        rustix::mount::mount_move(Path::new("/").join(directory), target)?;
    }
    // What nobody reaches any more would keep its memory; that it stays is no reason not to boot.
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
