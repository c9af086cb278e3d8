//! Where a guest's frames go to and come from.

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

/// Longest frame in bytes: an Ethernet header and 64 KiB.
pub const MOST_FRAME: usize = 65_550;

enum Wire {
    /// Each read and write is one frame.
    Tap(File),
    /// Each frame follows its length.
    Stream(UnixStream),
}

/// The other end of a network interface's cable. What was half received or half sent is kept here, so that a
/// stream is in step whenever the guest resets its device.
///
/// One task at a time receives, and one sends.
pub struct Link {
    /// For the log.
    name: String,
    wire: Wire,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    gone: AtomicBool,
}

/// Bytes that were read, and which of them are the frame that is next.
struct Incoming {
    bytes: Vec<u8>,
    /// Of `bytes`, what holds something that is not used up.
    filled: Range<usize>,
    /// Of `bytes`, a whole frame, which ends before `filled` begins.
    frame: Option<Range<usize>>,
}

/// One frame as it is written, and how much of that was.
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

    /// The host's tap interface `name`, which is made where it is not there and this process may.
    ///
    /// # Errors
    /// What the kernel answers; the text says what to do.
    pub fn tap(name: &str) -> io::Result<Self> {
        Ok(Self::new(name.to_owned(), Wire::Tap(tap::open(name)?), MOST_FRAME))
    }

    /// A connection to the listening socket `path` of a network stack that speaks as passt does: each frame
    /// after its length, four bytes, the highest first.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn passt(path: &Path) -> io::Result<Self> {
        Self::stream(UnixStream::connect(path)?, &path.display().to_string())
    }

    /// The same over a connection that is there; `name` is for the log.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn stream(socket: UnixStream, name: &str) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(name.to_owned(), Wire::Stream(socket), stream::BUFFER))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it works no more.
    pub(crate) fn has_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Takes it for gone. Whether it was not before.
    pub(crate) fn end(&self) -> bool {
        *lock(&self.outgoing) = Outgoing::default();
        !self.gone.swap(true, Ordering::AcqRel)
    }

    /// Waits until a frame is there. The future may be dropped.
    ///
    /// # Errors
    /// Where none will come any more.
    pub(crate) async fn receive(link: &AsyncFd<Arc<Link>>) -> io::Result<()> {
        if link.get().has_gone() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        link.read_io(|link| lock(&link.incoming).fill(&link.wire)).await
    }

    /// Looks at the frame that was received; at nothing where there is none.
    pub(crate) fn received<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        let incoming = lock(&self.incoming);
        look(incoming.frame.clone().map_or(&[], |frame| &incoming.bytes[frame]))
    }

    /// Is done with the frame that was received.
    pub(crate) fn drop_received(&self) {
        lock(&self.incoming).frame = None;
    }

    /// Takes a frame of at most [`MOST_FRAME`] bytes to be sent. Not while another one is on its way. Where
    /// the link has gone, it is dropped.
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

    /// Sends what was put to its end. The future may be dropped; a next one goes on from there.
    ///
    /// # Errors
    /// Where nothing can be sent any more.
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
    /// Reads until a frame is there.
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
