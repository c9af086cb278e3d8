//! The machine as a whole: the kernel's log, and ways to end the machine.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::system::RebootCommand;

/// Texts in the kernel's messages about failed or hanging I/O.
const TROUBLE: [&str; 6] = [
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "JBD2: Error",
    "blocked for more than",
    "lost async page write",
];
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";
const NEW_CAPACITY: &str = "new size:";

/// Every message in the kernel's log buffer, oldest first.
pub fn messages() -> io::Result<Vec<String>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut log = File::options().read(true).custom_flags(flags).open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    let mut messages = Vec::new();
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(messages),
            Ok(length) => messages.extend(text(&record[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
            // Messages were overwritten while reading: the next read continues with the oldest one left.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
}

/// The text of a record `priority,sequence,time,flags;text` (`Documentation/ABI/testing/dev-kmsg`).
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.lines().next()?.split_once(';')?;
    Some(text.to_owned())
}

/// The messages about failed or hanging I/O.
pub fn trouble() -> io::Result<Vec<String>> {
    let is_trouble = |message: &String| TROUBLE.iter().any(|mark| message.contains(mark));
    Ok(messages()?.into_iter().filter(is_trouble).collect())
}

/// The number of capacity changes that virtio-blk has reported.
pub fn capacity_changes() -> io::Result<usize> {
    let is_change = |message: &&String| message.starts_with("virtio_blk") && message.contains(NEW_CAPACITY);
    Ok(messages()?.iter().filter(is_change).count())
}

/// An identifier of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Milliseconds since the kernel started.
pub fn uptime() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    let seconds = seconds.ok_or(io::ErrorKind::InvalidData)?;
    Ok((seconds * 1000.0) as u64)
}

/// The kernel's `bootloader_type`.
pub fn boot_loader() -> io::Result<u8> {
    let text = fs::read_to_string("/proc/sys/kernel/bootloader_type")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Panics the kernel.
pub fn panic() -> io::Result<()> {
    fs::write("/proc/sysrq-trigger", "c")
}

/// Restarts the machine immediately: nothing is flushed and no process is notified.
pub fn restart_at_once() -> io::Result<()> {
    fs::write("/proc/sysrq-trigger", "b")
}

/// Detaches the disk behind a device file from its driver, even if it is in use. Returns the name of its
/// virtio device.
pub fn unbind(device: &str) -> io::Result<String> {
    let disk = Path::new(device).file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let link = fs::read_link(Path::new("/sys/block").join(disk).join("device"))?;
    let name = link.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidData)?;
    fs::write(Path::new(DRIVER).join("unbind"), name)?;
    Ok(name.to_owned())
}

/// Attaches a virtio device to the disk driver again.
pub fn bind(name: &str) -> io::Result<()> {
    fs::write(Path::new(DRIVER).join("bind"), name)
}

/// Ends the machine. Does not return even if the kernel refuses, because process 1 must not end.
pub fn halt(how: RebootCommand) -> ! {
    if let Err(error) = rustix::system::reboot(how) {
        eprintln!("guest-agent: cannot end the machine: {error}");
    }
    loop {
        std::thread::park();
    }
}
