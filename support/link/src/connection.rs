//! A connection: a stream socket that two threads share. [`Link`](crate::Link) reads and writes it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockAddr, SockRef, TcpKeepalive};

/// The idle time after which TCP probes the peer: a host that vanished must not hold a connection for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connected stream socket of a client: Unix, TCP, or one end of a pair. Clones are the same
/// connection, which ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Connection(Arc<OwnedFd>);

impl Connection {
    /// Takes a connected socket over, and makes it non-blocking.
    ///
    /// # Errors
    /// The host's error, for example if it is not a socket.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = socket.into();
        let socket = SockRef::from(&fd);
        socket.set_nonblocking(true)?;
        if socket.local_addr()?.is_ipv4() || socket.local_addr()?.is_ipv6() {
            // Replies are whole messages: they must not be held back for more to send.
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        }
        Ok(Connection(Arc::new(fd)))
    }

    /// Returns our end's address.
    ///
    /// # Errors
    /// The host's error.
    pub fn local_addr(&self) -> io::Result<SockAddr> {
        SockRef::from(&*self.0).local_addr()
    }

    /// Ends the connection, from any thread: a reader gets the end of the stream, a writer an error.
    pub fn hang_up(&self) {
        // Fails only if the peer has hung up already.
        let _ = SockRef::from(&*self.0).shutdown(Shutdown::Both);
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
