//! A removable drive as a guest uses it: mounts an ISO 9660 medium, reads its files, opens the tray.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::ioctl::{NoArg, Opcode, ioctl};
use rustix::mount::{MountFlags, UnmountFlags};
use sha2::{Digest, Sha256};

use crate::init;

/// Opens the tray (`linux/cdrom.h`).
const CDROMEJECT: Opcode = 0x5309;

/// Mounts the medium of `device`. The kernel then locks the tray.
pub fn mount(device: &str) -> Result<(), String> {
    init::mount(device, &mount_point(device), "iso9660", MountFlags::RDONLY, c"")
}

/// Unmounts the medium, which unlocks the tray.
pub fn unmount(device: &str) -> Result<(), String> {
    let unmounted = rustix::mount::unmount(mount_point(device), UnmountFlags::empty());
    unmounted.map_err(|error| format!("unmount {device}: {error}"))
}

/// The SHA-256 of a file on the mounted medium, as hexadecimal digits.
pub fn hash(device: &str, file: &str) -> Result<String, String> {
    let mut hasher = Sha256::new();
    let read = File::open(mount_point(device).join(file))
        .and_then(|mut content| std::io::copy(&mut content, &mut hasher));
    read.map_err(|error| format!("{file}: {error}"))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Opens the tray. Fails while the medium is mounted.
pub fn eject(device: &str) -> Result<(), String> {
    // Without O_NONBLOCK, opening the device would close an open tray.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let drive = File::options().read(true).custom_flags(flags).open(device);
    let drive = drive.map_err(|error| format!("{device}: {error}"))?;
    // SAFETY: CDROMEJECT takes no argument and touches no memory of this process.
    let ejected = unsafe { ioctl(&drive, NoArg::<CDROMEJECT>::new()) };
    ejected.map_err(|error| format!("eject {device}: {error}"))
}

fn mount_point(device: &str) -> PathBuf {
    Path::new("/mnt").join(device.trim_start_matches('/').replace('/', "-"))
}
