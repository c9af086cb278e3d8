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
    /// The number that the operating system or an NBD server gave it; 0 if neither did.
    errno: i32,
    of_source: bool,
}

/// A result of the block layer.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its sentence.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into().into(), errno: 0, of_source: false }
    }

    /// The same with the number by which the operating system, or an NBD server, called it.
    pub(crate) fn with_errno(self, errno: i32) -> Self {
        Error { errno, ..self }
    }

    /// An operating-system error, with what was being done to what: "reading disk.img at 512".
    pub fn io(doing: impl fmt::Display, source: &io::Error) -> Self {
        let Some(errno) = source.raw_os_error() else {
            return Error::new(ErrorKind::Io, format!("{doing}: {source}"));
        };
        let kind = match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => ErrorKind::NoSpace,
            libc::EOPNOTSUPP | libc::ENOSYS => ErrorKind::Unsupported,
            libc::ENOENT => ErrorKind::NotFound,
            libc::EROFS => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{doing}: {}", strerror(errno))).with_errno(errno)
    }

    /// The error's number as Linux has it. An error that has none of its own gets that of its kind, as
    /// QEMU's block layer gives it.
    pub fn errno(&self) -> i32 {
        if self.errno != 0 {
            return self.errno;
        }
        match self.kind {
            ErrorKind::Io | ErrorKind::OutOfRange | ErrorKind::Corrupt => libc::EIO,
            ErrorKind::NoSpace => libc::ENOSPC,
            ErrorKind::ReadOnly => libc::EPERM,
            ErrorKind::Unsupported => libc::ENOTSUP,
            ErrorKind::Invalid => libc::EINVAL,
            ErrorKind::InUse => libc::EBUSY,
            ErrorKind::Locked => libc::EAGAIN,
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::NotActive => libc::ESRCH,
            ErrorKind::TimedOut => libc::ETIMEDOUT,
            ErrorKind::Cancelled => libc::ECANCELED,
        }
    }

    /// The C library's words for [`Error::errno`] and nothing else: all that QEMU says of a failed request
    /// or job, and what its clients compare.
    pub fn reason(&self) -> String {
        strerror(self.errno())
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, with what was being tried in front of its sentence.
    pub fn context(self, doing: impl fmt::Display) -> Self {
        let text = format!("{doing}: {}", self.text).into();
        Error { text, ..self }
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

/// The C library's words for an error number; Rust's add the number.
fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let suffix = format!(" (os error {errno})");
    text.strip_suffix(&suffix).unwrap_or(&text).to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_number_and_the_c_library_s_words() {
        let full = io::Error::from_raw_os_error(libc::EDQUOT);
        let error = Error::io("writing a.img at 512", &full).context("stream").of_source();
        assert_eq!(error.to_string(), "stream: writing a.img at 512: Disk quota exceeded");
        assert_eq!((error.kind(), error.errno()), (ErrorKind::NoSpace, libc::EDQUOT));
        assert_eq!(error.reason(), "Disk quota exceeded");
        assert!(error.is_of_source());
        let of_kind = |kind| Error::new(kind, "no words of the system").reason();
        assert_eq!(of_kind(ErrorKind::Io), "Input/output error");
        assert_eq!(of_kind(ErrorKind::NoSpace), "No space left on device");
        assert_eq!(of_kind(ErrorKind::ReadOnly), "Operation not permitted");
        assert_eq!(of_kind(ErrorKind::Cancelled), "Operation canceled");
    }
}
