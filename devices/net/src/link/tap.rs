//! A tap interface of the host (`Documentation/networking/tuntap.rst` of Linux).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

const DEVICE: &str = "/dev/net/tun";

/// Binds a descriptor of [`DEVICE`] to the interface of a name (`linux/if_tun.h`).
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// Frames of Ethernet, with nothing before them.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// Size of an interface's name in bytes, including its final zero.
const NAME: usize = 16;

/// `struct ifreq` of `linux/if.h`: 40 bytes on every 64-bit machine.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

/// Opens the interface `name` without blocking. Creates it if it does not exist and that is allowed.
pub(super) fn open(name: &str) -> io::Result<File> {
    let is_name = !name.is_empty() && name.len() < NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    // These characters make it a pattern for the kernel, or a path in sysfs.
    if !is_name || name.contains(['%', '/', ':']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a valid interface name"));
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let tun = File::options().read(true).write(true).custom_flags(flags).open(DEVICE);
    let tun = tun.map_err(|e| io::Error::new(e.kind(), format!("{DEVICE}: {e}")))?;
    let mut request = InterfaceRequest { name: [0; NAME], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is what it gets.
    let set = unsafe { ioctl(&tun, Updater::<{ TUNSETIFF }, _>::new(&mut request)) };
    match set {
        Ok(()) => Ok(tun),
        Err(e @ Errno::PERM) => {
            let advice = "make it as root: ip tuntap add mode tap user USER name";
            Err(io::Error::new(io::Error::from(e).kind(), format!("{}; {advice} {name}", io::Error::from(e))))
        }
        Err(e) => Err(e.into()),
    }
}

/// Reads one frame and returns its length.
///
/// # Errors
/// Fails if the interface does not exist any more.
pub(super) fn read(mut tap: &File, into: &mut [u8]) -> io::Result<usize> {
    match tap.read(into)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Writes one frame. A frame that the kernel does not take is lost, as on any network: the interface is
/// down, or memory is lacking.
///
/// # Errors
/// `WouldBlock`, or an error if the interface does not exist any more.
pub(super) fn write(mut tap: &File, frame: &[u8]) -> io::Result<()> {
    match tap.write(frame) {
        Ok(count) if count == frame.len() => {}
        Ok(count) => tracing::debug!("the kernel took {count} bytes of a frame of {}", frame.len()),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::AGAIN | Errno::INTR | Errno::BADFD | Errno::BADF | Errno::NODEV) => return Err(e),
            _ => tracing::debug!("a frame is lost: {e}"),
        },
    }
    Ok(())
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
