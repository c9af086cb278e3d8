//! Boots a kernel directly, without firmware: recognizes its format, loads it, and sets the boot CPU's
//! registers.
//!
//! Sources: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), its 64-bit entry point, and the
//! PVH entry point (Documentation/arch/x86/..., Xen's `start_info.h`) that an ELF kernel offers in a note.

mod load;
mod registers;
#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::cmdline::Cmdline;

pub use registers::{Entry, Protocol};

use crate::error::Error;
use crate::layout::CMDLINE_MAX;

/// About the size of the smallest uncompressed Linux kernel, in bytes.
const SMALLEST: u64 = 1 << 20;

/// The format of a kernel file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A compressed kernel as distributions install it (`vmlinuz`).
    BzImage,
    /// An uncompressed 64-bit ELF kernel (`vmlinux`).
    Elf,
}

/// A kernel with its initrd and command line. The files stay open for the machine's life, so that each
/// reset boots the same files even if their names are gone.
pub struct Kernel {
    path: PathBuf,
    file: File,
    format: Format,
    initrd: Option<(PathBuf, File)>,
    cmdline: Cmdline,
}

fn refuse(path: &Path, reason: impl ToString) -> Error {
    Error::Boot { path: path.into(), reason: reason.to_string() }
}

impl Kernel {
    /// Opens the files and recognizes the kernel's format.
    ///
    /// # Errors
    /// Fails if a file cannot be read, if the kernel's format is unknown, or if the command line is too
    /// long or contains forbidden characters.
    pub fn open(path: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(|e| refuse(path, e))?;
        let format = recognize(&mut file).map_err(|e| refuse(path, e))?;
        let initrd = match initrd {
            Some(path) => Some((path.to_owned(), File::open(path).map_err(|e| refuse(path, e))?)),
            None => None,
        };
        let mut line = Cmdline::new(CMDLINE_MAX)
            .map_err(|e| Error::System { what: "command line", source: std::io::Error::other(e) })?;
        line.insert_str(cmdline).map_err(|e| refuse(path, format!("the command line: {e}")))?;
        Ok(Kernel { path: path.into(), file, format, initrd, cmdline: line })
    }

    /// Returns the format of the kernel file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns true if this may be a Linux kernel. An ELF file below 1 MiB is not one: it is a guest of a few
    /// instructions, which runs on hosts where a kernel does not.
    pub fn is_stock(&self) -> bool {
        let is_small = || self.file.metadata().is_ok_and(|metadata| metadata.len() < SMALLEST);
        self.format == Format::BzImage || !is_small()
    }
}

fn recognize(file: &mut File) -> std::io::Result<Format> {
    const ADVICE: &str = "neither a bzImage nor a 64-bit x86 ELF kernel: give a vmlinuz or a vmlinux";
    let mut start = Vec::new();
    file.take(0x206).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    // Class 64, little-endian; machine 62 (x86-64).
    if start.starts_with(b"\x7fELF\x02\x01") && start.get(18..20) == Some(&[62, 0]) {
        return Ok(Format::Elf);
    }
    if start.get(0x202..0x206) == Some(b"HdrS") {
        return Ok(Format::BzImage);
    }
    Err(std::io::Error::other(ADVICE))
}
