//! The error type: a stable kind to match on, and a message to act on.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The kind of an error, for code that handles kinds differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The storage failed.
    Io,
    /// No space left, or a quota was reached.
    NoSpace,
    /// A write to something read-only.
    ReadOnly,
    /// The range is outside the disk or image.
    OutOfRange,
    /// The format or the file system does not support it, or it is not implemented.
    Unsupported,
    /// The image's own metadata is wrong.
    Corrupt,
    /// The request is malformed, contradicts itself, or does not fit the current state.
    Invalid,
    /// A job or another command is using the disk.
    InUse,
    /// The image is open elsewhere, in another process or this one; or the guest has locked the tray.
    Locked,
    /// The named object does not exist.
    NotFound,
    /// The operation that the request refers to is not active.
    NotActive,
    /// A deadline passed.
    TimedOut,
    /// Cancelled on request.
    Cancelled,
}

/// An error of the block layer. Cheap to clone: one failed commit fails many requests.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    text: Arc<str>,
    /// Error number from the operating system or an NBD server; 0 if there is none.
    errno: i32,
    of_source: bool,
}

/// A result of the block layer.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error with this message.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into().into(), errno: 0, of_source: false }
    }

    /// Returns the error with the number that the operating system or an NBD server gave it.
    pub(crate) fn with_errno(self, errno: i32) -> Self {
        Error { errno, ..self }
    }

    /// Creates an error from one of the operating system. `doing` is the operation that failed: "reading
    /// disk.img at 512".
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

    /// Returns the Linux error number. An error without one gets that of its kind, as in QEMU's block layer.
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

    /// Returns the C library's text for [`Error::errno`] and nothing else: QEMU reports only this text
    /// for a failed request or job, and its clients compare it.
    pub fn reason(&self) -> String {
        strerror(self.errno())
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the error with `doing`, the operation that failed, in front of its message.
    pub fn context(self, doing: impl fmt::Display) -> Self {
        let text = format!("{doing}: {}", self.text).into();
        Error { text, ..self }
    }

    /// Returns the error, marked as coming from the source of a copy.
    pub(crate) fn of_source(self) -> Self {
        Error { of_source: true, ..self }
    }

    /// Returns true if a copy failed reading its source, not writing its target.
    pub(crate) fn is_of_source(&self) -> bool {
        self.of_source
    }
}

/// Returns the C library's text for an error number. Rust's own text appends the number.
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
