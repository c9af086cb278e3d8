//! One error type: a stable kind to match on, and a sentence to act on.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What went wrong, for code that has to decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The storage failed.
    Io,
    /// No space left, or a quota was reached.
    NoSpace,
    /// A write to what may only be read.
    ReadOnly,
    /// Bytes outside of the disk or image.
    OutOfRange,
    /// Not in this format, not on this file system, or not implemented.
    Unsupported,
    /// The image's own metadata is wrong.
    Corrupt,
    /// A wish that cannot be granted as it was said.
    Invalid,
    /// A job or another command has the disk.
    InUse,
    /// Another process has the image open.
    Locked,
    /// There is no such thing.
    NotFound,
    /// What was asked for is not going on.
    NotActive,
    /// A deadline passed.
    TimedOut,
    /// Stopped by whoever asked.
    Cancelled,
}

/// An error of the block layer. Cheap to clone: one failed commit answers many requests.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    text: Arc<str>,
    of_source: bool,
}

/// A result of the block layer.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its sentence.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into().into(), of_source: false }
    }

    /// An operating-system error, with what was being done to what: "reading disk.img at 512".
    pub fn io(doing: impl fmt::Display, source: &io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => ErrorKind::Unsupported,
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{doing}: {source}"))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, with what was being tried in front of its sentence.
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Error { of_source: self.of_source, ..Error::new(self.kind, format!("{doing}: {}", self.text)) }
    }

    /// The same error, as one of what a copy reads from.
    pub(crate) fn of_source(self) -> Self {
        Error { of_source: true, ..self }
    }

    /// Whether a copy failed where it reads from, and not where it writes to.
    pub(crate) fn is_of_source(&self) -> bool {
        self.of_source
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
