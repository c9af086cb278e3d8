//! Connections to Unix sockets, made by a thread of its own.
//!
//! The thread that talks to browsers may not connect anywhere ([`sandbox::Role::Page`]). This one handles no
//! data of a browser or a machine. It connects to the monitors that were named at start, and to sockets that
//! a monitor has named.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::sync::oneshot;

/// The most connections that wait to be made.
const MOST: usize = 256;

type Request = (PathBuf, oneshot::Sender<io::Result<UnixStream>>);

/// The way to the thread. A clone leads to the same thread.
#[derive(Clone)]
pub struct Connector(mpsc::SyncSender<Request>);

impl Connector {
    /// Starts the thread, which may open no file.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> io::Result<Self> {
        let (sender, requests) = mpsc::sync_channel::<Request>(MOST);
        std::thread::Builder::new().name("connector".to_owned()).spawn(move || {
            // An old kernel has no landlock; the page's thread says so.
            let _ = sandbox::allow_only(&[]);
            for (path, reply) in requests {
                let connected = UnixStream::connect(path).and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                });
                // Whoever asked may have gone.
                let _ = reply.send(connected);
            }
        })?;
        Ok(Connector(sender))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of connect(2), and too many connections at once.
    pub async fn connect(&self, path: &Path) -> io::Result<tokio::net::UnixStream> {
        let (sender, receiver) = oneshot::channel();
        let full = |_| io::Error::from(io::ErrorKind::WouldBlock);
        self.0.try_send((path.to_owned(), sender)).map_err(full)?;
        let stream = receiver.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        tokio::net::UnixStream::from_std(stream)
    }
}
