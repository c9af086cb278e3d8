//! The other ends of a guest's network interfaces: they carry its frames.

mod stream;
mod tap;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buf::Buf;
use executor::AsyncFd;

/// Maximum length of a frame in bytes: an Ethernet header and 64 KiB.
pub const MOST_FRAME: usize = 65_550;

enum Wire {
    /// Each read and write is one frame.
    Tap(File),
    /// Each frame is preceded by its length.
    Stream(UnixStream),
}

/// The other end of a network interface's cable. It keeps a frame that is half received or half sent, so
/// that a stream stays in step when the guest resets its device.
///
/// Only one task at a time may receive, and only one may send.
pub struct Link {
    /// The name for the log.
    name: String,
    wire: Wire,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    gone: AtomicBool,
}

/// Bytes that were read, and the range of the next frame in them.
struct Incoming {
    bytes: Vec<u8>,
    /// The range of `bytes` that is not used up yet.
    filled: Range<usize>,
    /// The range of a whole frame in `bytes`, which ends before `filled` begins.
    frame: Option<Range<usize>>,
}

/// One frame as it is written, and the number of its bytes that were sent.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    fn new(name: String, wire: Wire, buffer: usize) -> Self {
        Link {
            name,
            wire,
            incoming: Mutex::new(Incoming { bytes: vec![0; buffer], filled: 0..0, frame: None }),
            outgoing: Mutex::default(),
            gone: AtomicBool::new(false),
        }
    }

    /// Opens the host's tap interface `name`. Creates it if it does not exist and this process may create
    /// it.
    ///
    /// # Errors
    /// The kernel's error; the text says what to do.
    pub fn tap(name: &str) -> io::Result<Self> {
        Ok(Self::new(name.to_owned(), Wire::Tap(tap::open(name)?), MOST_FRAME))
    }

    /// Connects to the listening socket `path` of a network stack that uses passt's format: each frame is
    /// preceded by its length in four bytes, big-endian.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn passt(path: &Path) -> io::Result<Self> {
        Self::stream(UnixStream::connect(path)?, &path.display().to_string())
    }

    /// Does the same over a connection that exists already. `name` is for the log.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn stream(socket: UnixStream, name: &str) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(name.to_owned(), Wire::Stream(socket), stream::BUFFER))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the link does not work any more.
    pub(crate) fn has_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Marks the link as gone. Returns true if it was not before.
    pub(crate) fn end(&self) -> bool {
        *lock(&self.outgoing) = Outgoing::default();
        !self.gone.swap(true, Ordering::AcqRel)
    }

    /// Waits until a frame was received. The future may be dropped.
    ///
    /// # Errors
    /// Fails if no frame will come any more.
    pub(crate) async fn receive(link: &AsyncFd<Arc<Link>>) -> io::Result<()> {
        if link.get().has_gone() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        link.read_io(|link| lock(&link.incoming).fill(&link.wire)).await
    }

    /// Calls `look` with the frame that was received, or with nothing if there is none.
    pub(crate) fn received<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        let incoming = lock(&self.incoming);
        look(incoming.frame.clone().map_or(&[], |frame| &incoming.bytes[frame]))
    }

    /// Drops the frame that was received.
    pub(crate) fn drop_received(&self) {
        lock(&self.incoming).frame = None;
    }

    /// Takes a frame of at most [`MOST_FRAME`] bytes to be sent. Must not be called while another one is
    /// being sent. If the link is gone, the frame is dropped.
    pub(crate) fn put(&self, frame: &Buf) {
        if self.has_gone() {
            return;
        }
        let Outgoing { bytes, sent } = &mut *lock(&self.outgoing);
        bytes.clear();
        if let Wire::Stream(_) = self.wire {
            bytes.extend((frame.len() as u32).to_be_bytes());
        }
        let before = bytes.len();
        bytes.resize(before + frame.len(), 0);
        frame.copy_to(&mut bytes[before..]);
        *sent = 0;
    }

    /// Sends the frame that was put. The future may be dropped; the next call continues from there.
    ///
    /// # Errors
    /// Fails if nothing can be sent any more.
    pub(crate) async fn send(link: &AsyncFd<Arc<Link>>) -> io::Result<()> {
        link.write_io(|link| lock(&link.outgoing).write(&link.wire)).await
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        match &self.wire {
            Wire::Tap(file) => file.as_raw_fd(),
            Wire::Stream(socket) => socket.as_raw_fd(),
        }
    }
}

impl Incoming {
    /// Reads until there is a frame.
    fn fill(&mut self, wire: &Wire) -> io::Result<()> {
        while self.frame.is_none() {
            match wire {
                Wire::Tap(file) => self.frame = Some(0..tap::read(file, &mut self.bytes)?),
                Wire::Stream(socket) => {
                    self.frame = stream::next(&self.bytes, &mut self.filled)?;
                    if self.frame.is_none() {
                        stream::read(socket, &mut self.bytes, &mut self.filled)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Outgoing {
    fn write(&mut self, wire: &Wire) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            self.sent += match wire {
                Wire::Tap(file) => {
                    tap::write(file, &self.bytes)?;
                    self.bytes.len()
                }
                Wire::Stream(socket) => stream::write(socket, &self.bytes[self.sent..])?,
            };
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}
