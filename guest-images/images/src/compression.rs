//! The compression formats of kernels and their modules. The usual command-line tools decompress them.

use std::fmt;
use std::io::{Seek, Write};
use std::process::{Command, Stdio};

use crate::error::output;
use crate::{Error, Result, packages};

/// A kind of compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz file format.
    Xz,
    /// LZ4's legacy frame, which Linux uses.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Recognizes the format by the first bytes; `None` if it is not compressed, or not in a known
    /// format.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let known: [(&[u8], _); 4] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        known.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| kind)
    }

    /// Decompresses `bytes`, which must end where the compressed data end.
    pub fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>> {
        let (program, package) = match self {
            Self::Gzip => ("gzip", "gzip"),
            Self::Xz => ("xz", "xz-utils"),
            Self::Lz4 => ("lz4", "lz4"),
            Self::Zstd => ("zstd", "zstd"),
        };
        let path = packages::find_program(program).ok_or_else(|| {
            Error::Missing(format!("{program} is not on this host: install the package {package}"))
        })?;
        let mut input = tempfile::tempfile().map_err(Error::system("make a temporary file"))?;
        let written = input.write_all(bytes).and_then(|()| input.rewind());
        written.map_err(Error::system("write a temporary file"))?;
        output(Command::new(path).arg("-dc").stdin(Stdio::from(input)))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "XZ",
            Self::Lz4 => "LZ4",
            Self::Zstd => "ZSTD",
        })
    }
}
