//! The export that a client uses, its errors and its extents.

use std::future::Future;

use buf::Buf;

/// Errors of the wire (section "Error values"). Numbers are Linux's of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// The storage failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// A request that makes no sense, or lies outside of the export.
    Invalid = 22,
    /// No space left, or a write outside of the export.
    NoSpace = 28,
    /// A length that cannot be handled at once.
    Overflow = 75,
    /// Not supported in this way.
    NotSupported = 95,
    /// The export is going away.
    Shutdown = 108,
}

impl Errno {
    /// Returns the C library's text, for servers that send no text of their own.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Errno::Perm => "Operation not permitted",
            Errno::Io => "Input/output error",
            Errno::NoMem => "Cannot allocate memory",
            Errno::Invalid => "Invalid argument",
            Errno::NoSpace => "No space left on device",
            Errno::Overflow => "Value too large for defined data type",
            Errno::NotSupported => "Operation not supported",
            Errno::Shutdown => "Cannot send after transport endpoint shutdown",
        }
    }
}

/// A failed request: a number for programs, and a sentence that clients with structured replies get
/// too.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// The number, for the client's program.
    pub errno: Errno,
    /// The text, for people; at most 4096 bytes of it are sent.
    pub text: String,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error with its text.
    pub fn new(errno: Errno, text: impl Into<String>) -> Self {
        Error { errno, text: text.into() }
    }
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// True for data; false for a hole, which reads as zeros and takes no space.
    pub data: bool,
    /// For `qemu:allocation-depth`: the position in the chain of the image that has it, 1 for the leaf;
    /// 0: no image has it.
    pub depth: u32,
}

/// An export on its own thread. Offsets and lengths are in bytes.
///
/// [`serve`](crate::serve) checks each range against [`Export::size`] before it calls a method, but the
/// size may change before the request gets there: the export must check bounds too. Requests that change
/// a read-only export never come here. Any number of requests may be in flight. A method that returns
/// must have released whatever it held of the export, such as its permission to be in flight. The reply
/// is sent afterwards, so that a client that does not read keeps nothing waiting.
pub trait Export: 'static {
    /// Returns the current size.
    fn size(&self) -> u64;

    /// Reads the bytes at `offset` into the whole of `buf`.
    fn read(&self, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;

    /// Writes the whole of `buf` to `offset`.
    fn write(&self, offset: u64, buf: Buf) -> impl Future<Output = Result<()>>;

    /// Makes everything durable that was answered before this call, on any connection.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// Discards a range, whose content is not needed any more.
    fn trim(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>>;

    /// Makes a range read as zeros; with `may_unmap`, its space may be given back.
    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> impl Future<Output = Result<()>>;

    /// Returns the run of one kind at `offset`, no longer than `len`, which is at least 1.
    fn block_status(&self, offset: u64, len: u64) -> impl Future<Output = Result<Extent>>;
}
