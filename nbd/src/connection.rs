//! A client's connection: a stream socket that two threads share, and reading and writing it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use buf::Buf;
use executor::AsyncFd;
use socket2::{SockRef, TcpKeepalive};

/// After this long without a sign of life a TCP peer is asked for one: a host that vanished must not
/// hold a connection for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Pieces of memory in one system call: Linux takes 1024 (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// Why a connection ended other than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub enum Disconnect {
    /// The peer hung up in the middle of something, or the host failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client broke the protocol in a way that leaves no way on.
    #[error("the NBD client {0}")]
    Protocol(&'static str),
}

/// A connected stream socket of a client: Unix, TCP, or one end of a pair. Clones are the same
/// connection, which ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Connection(Arc<OwnedFd>);

impl Connection {
    /// Takes a connected socket over, and makes it non-blocking.
    ///
    /// # Errors
    /// What the host says of it, for one where it is no socket.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = socket.into();
        let socket = SockRef::from(&fd);
        socket.set_nonblocking(true)?;
        if socket.local_addr()?.is_ipv4() || socket.local_addr()?.is_ipv6() {
            // Replies are whole messages: never held back for more to send.
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        }
        Ok(Connection(Arc::new(fd)))
    }

    /// Ends the connection, from any thread: whoever reads from it meets the end, whoever writes to it
    /// an error.
    pub fn hang_up(&self) {
        // Fails only where the client was faster.
        let _ = SockRef::from(&*self.0).shutdown(Shutdown::Both);
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A connection on the executor that uses it right now. Several tasks may: one that reads, and one at a
/// time that writes.
pub(crate) struct Link(AsyncFd<Connection>);

fn length(n: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

impl Link {
    pub(crate) fn new(connection: &Connection) -> io::Result<Self> {
        AsyncFd::new(connection.clone()).map(Link)
    }

    pub(crate) fn hang_up(&self) {
        self.0.get().hang_up();
    }

    /// Fills `bytes`. `false` where the peer hung up before the first.
    pub(crate) async fn fill_or_end(&self, bytes: &mut [u8]) -> io::Result<bool> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            let receive = |connection: &Connection| {
                // SAFETY: `rest` is valid for writes of its length during the call.
                length(unsafe { libc::recv(connection.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), 0) })
            };
            match self.0.read_io(receive).await? {
                0 if at == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => at += n,
            }
        }
        Ok(true)
    }

    /// Fills `bytes`.
    pub(crate) async fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        match self.fill_or_end(bytes).await? {
            true => Ok(()),
            false if bytes.is_empty() => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Fills `buf`.
    pub(crate) async fn fill_buf(&self, buf: &Buf) -> io::Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let rest = buf.slice(at..buf.len());
            let pieces = &rest.iovecs()[..rest.iovecs().len().min(MAX_PIECES)];
            let receive = |connection: &Connection| {
                // SAFETY: the pieces are valid for writes while `rest` lives.
                length(unsafe {
                    libc::readv(connection.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int)
                })
            };
            match self.0.read_io(receive).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => at += n,
            }
        }
        Ok(())
    }

    /// Sends `head` and then `body`. After an error, or when the future was dropped, part of it may
    /// have been sent.
    pub(crate) async fn send(&self, head: &[u8], body: &Buf) -> io::Result<()> {
        let mut at = 0;
        while at < head.len() + body.len() {
            let mut pieces = Vec::with_capacity(1 + body.iovecs().len());
            if let Some(rest) = head.get(at..).filter(|rest| !rest.is_empty()) {
                let start = rest.as_ptr().cast_mut().cast();
                pieces.push(libc::iovec { iov_base: start, iov_len: rest.len() });
            }
            let rest = body.slice(at.saturating_sub(head.len())..body.len());
            pieces.extend_from_slice(rest.iovecs());
            let send = |connection: &Connection| {
                // SAFETY: all-zero bytes are a valid message header without address and control data.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = pieces.as_mut_ptr();
                message.msg_iovlen = pieces.len().min(MAX_PIECES);
                // SAFETY: the pieces are valid for reads while `head` and `rest` live; nothing is
                // written to them. MSG_NOSIGNAL: a client that is gone is an error, not a signal.
                length(unsafe { libc::sendmsg(connection.as_raw_fd(), &message, libc::MSG_NOSIGNAL) })
            };
            match self.0.write_io(send).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => at += n,
            }
        }
        Ok(())
    }
}
