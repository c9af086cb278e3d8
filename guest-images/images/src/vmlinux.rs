//! The ELF kernel inside a bzImage, for VMMs that boot that.
//!
//! See the Linux/x86 boot protocol, `Documentation/arch/x86/boot.rst`: `setup_sects` at 0x1f1,
//! `payload_offset` at 0x248 and `payload_length` at 0x24c, counted from the start of the protected-mode
//! code. The payload is the compressed data followed by their uncompressed size in 4 bytes; gzip data
//! already end with that size.

use std::fs;
use std::path::PathBuf;

use crate::compression::Compression;
use crate::kernel::Kernel;
use crate::{Error, Result, cache};

/// The compression format of a bzImage's kernel, and the compressed data.
pub fn payload(bzimage: &[u8]) -> Option<(Compression, &[u8])> {
    let byte = |at: usize| bzimage.get(at).copied();
    let number = |at: usize| Some(u32::from_le_bytes(*bzimage.get(at..)?.first_chunk()?) as usize);
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // Zero means four, in old kernels.
    let sectors = match byte(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + number(0x248)?;
    let payload = bzimage.get(start..start.checked_add(number(0x24c)?)?)?;
    match Compression::of(payload)? {
        Compression::Gzip => Some((Compression::Gzip, payload)),
        other => Some((other, payload.get(..payload.len().checked_sub(4)?)?)),
    }
}

/// The kernel's ELF file, from the cache or unpacked now.
pub fn find(kernel: &Kernel) -> Result<PathBuf> {
    let invalid = |text: &str| Error::Invalid { path: kernel.vmlinuz.clone(), text: text.to_owned() };
    let bzimage = fs::read(&kernel.vmlinuz).map_err(Error::file("read", &kernel.vmlinuz))?;
    cache::entry(&format!("vmlinux-{}-{}", kernel.version, cache::hash([&bzimage[..]])), |path| {
        let (compression, data) =
            payload(&bzimage).ok_or_else(|| invalid("is not a bzImage with a known compression"))?;
        let elf = compression.decompress(data)?;
        if !elf.starts_with(b"\x7fELF") {
            return Err(invalid("does not contain an ELF kernel"));
        }
        fs::write(path, elf).map_err(Error::file("write", path))
    })
}

#[cfg(test)]
#[path = "vmlinux_tests.rs"]
mod tests;
