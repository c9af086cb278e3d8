//! Reading and writing a connection: data are read in large steps.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use buf::Buf;
use executor::AsyncFd;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::tls::{Credentials, Socket};

/// The number of bytes read ahead of the requested messages: many small requests come with one system call.
const INBOX: usize = 64 << 10;
/// The most pieces of memory in one system call: Linux takes 1024 (`UIO_MAXIOV`).
pub(crate) const MAX_PIECES: usize = 1024;
/// The most bytes that are handed to TLS at a time: its largest record.
const RECORD: usize = 16 << 10;

/// The state of a connection with which a transmission goes on after the handshake, on any thread.
#[derive(Default)]
pub struct Carried {
    inbox: Inbox,
    tls: Option<Box<rustls::Connection>>,
}

/// Bytes that were received and not requested yet.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Moves bytes out, as many as fit and are here. Returns their number.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let n = into.len().min(self.end - self.start);
        into[..n].copy_from_slice(&self.bytes[self.start..self.start + n]);
        self.start += n;
        n
    }

    /// The same, into the part of `buf` from `at` on.
    fn take_buf(&mut self, buf: &Buf, at: usize) -> usize {
        let n = (buf.len() - at).min(self.end - self.start);
        if n > 0 {
            buf.slice(at..at + n).copy_from(&self.bytes[self.start..self.start + n]);
            self.start += n;
        }
        n
    }

    /// Returns room for more; the bytes that were in the inbox are gone.
    fn room(&mut self) -> libc::iovec {
        self.bytes.resize(INBOX, 0);
        (self.start, self.end) = (0, 0);
        libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: INBOX }
    }
}

/// A connection on the executor that uses it now. Several tasks may use it: one that reads, and one at a
/// time that writes.
pub struct Link {
    fd: AsyncFd<Connection>,
    inbox: RefCell<Inbox>,
    tls: Option<RefCell<Box<rustls::Connection>>>,
}

fn length(n: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn cut_off<T>() -> io::Result<T> {
    Err(io::ErrorKind::UnexpectedEof.into())
}

impl Link {
    /// Continues where another link to the connection [left off](Link::leave).
    ///
    /// # Errors
    /// The host's error for the descriptor.
    ///
    /// # Panics
    /// Outside a task of a real executor.
    pub fn new(connection: &Connection, carried: Carried) -> io::Result<Self> {
        let Carried { inbox, tls } = carried;
        Ok(Link {
            fd: AsyncFd::new(connection.clone())?,
            inbox: RefCell::new(inbox),
            tls: tls.map(RefCell::new),
        })
    }

    /// Returns the state with which the next link to the same connection goes on.
    pub fn leave(self) -> Carried {
        Carried { inbox: self.inbox.take(), tls: self.tls.map(RefCell::into_inner) }
    }

    /// Returns true after [`Link::secure`].
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Switches to TLS, as its server. The caller must limit the time: a client may send nothing for ever.
    ///
    /// # Errors
    /// Fails if the TLS handshake fails, or if the peer sent anything more in the clear.
    pub async fn secure(&mut self, credentials: &Credentials) -> io::Result<()> {
        let inbox = self.inbox.take();
        if inbox.start != inbox.end {
            return Err(io::Error::other("the peer sent more before TLS began"));
        }
        let tls = rustls::ServerConnection::new(credentials.config.clone()).map_err(io::Error::other)?;
        let tls = RefCell::new(Box::new(rustls::Connection::from(tls)));
        while tls.borrow().is_handshaking() {
            self.send_records(&tls).await?;
            if tls.borrow().is_handshaking() && self.receive_records(&tls).await? == 0 {
                return cut_off();
            }
        }
        self.send_records(&tls).await?;
        self.tls = Some(tls);
        Ok(())
    }

    /// Receives some of the data that TLS needs. Returns 0 at the end of the connection.
    async fn receive_records(&self, tls: &RefCell<Box<rustls::Connection>>) -> io::Result<usize> {
        let receive = |connection: &Connection| tls.borrow_mut().read_tls(&mut Socket(connection));
        let n = self.fd.read_io(receive).await?;
        let processed = tls.borrow_mut().process_new_packets();
        if let Err(e) = processed {
            // Sends TLS's alert to the peer, if it still reads.
            let _ = tls.borrow_mut().write_tls(&mut Socket(self.fd.get()));
            return Err(io::Error::other(format!("TLS: {e}")));
        }
        Ok(n)
    }

    async fn send_records(&self, tls: &RefCell<Box<rustls::Connection>>) -> io::Result<()> {
        while tls.borrow().wants_write() {
            let send = |connection: &Connection| tls.borrow_mut().write_tls(&mut Socket(connection));
            // Zero is right if another task sent the rest while this one waited.
            if self.fd.write_io(send).await? == 0 && tls.borrow().wants_write() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Sends the records that TLS has ready, as far as that is possible at once; the next task that sends
    /// takes the rest along. A receiver must not wait for a peer that takes nothing: all that the peer sent
    /// would wait too.
    fn send_records_now(tls: &RefCell<Box<rustls::Connection>>, connection: &Connection) -> io::Result<()> {
        let mut tls = tls.borrow_mut();
        while tls.wants_write() {
            match tls.write_tls(&mut Socket(connection)) {
                Ok(0) => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                sent => _ = sent?,
            }
        }
        Ok(())
    }

    /// Receives into the inbox. Returns 0 at the end of the connection.
    async fn receive_secure(&self, tls: &RefCell<Box<rustls::Connection>>) -> io::Result<usize> {
        loop {
            let read = {
                let mut inbox = self.inbox.borrow_mut();
                inbox.room();
                let read = tls.borrow_mut().reader().read(&mut inbox.bytes);
                inbox.end = *read.as_ref().unwrap_or(&0);
                read
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The peer hung up without TLS's goodbye: the protocols above have their own.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            self.receive_records(tls).await?;
            Self::send_records_now(tls, self.fd.get())?;
        }
    }

    /// Sends some of the pieces as records. Returns the number of bytes.
    async fn write_secure(
        &self,
        tls: &RefCell<Box<rustls::Connection>>,
        pieces: &[libc::iovec],
    ) -> io::Result<usize> {
        let mut sent = 0;
        'all: for piece in pieces {
            let mut at = 0;
            while at < piece.iov_len {
                // Copied out first: the memory may be a guest's, to which no slice may exist.
                let mut record = [0u8; RECORD];
                let n = RECORD.min(piece.iov_len - at);
                // SAFETY: the piece is valid for reads, and `record` is memory of our own.
                unsafe {
                    let from = piece.iov_base.cast::<u8>().add(at);
                    std::ptr::copy_nonoverlapping(from, record.as_mut_ptr(), n);
                }
                let taken = tls.borrow_mut().writer().write(&record[..n])?;
                at += taken;
                sent += taken;
                if taken < n {
                    break 'all;
                }
            }
        }
        self.send_records(tls).await?;
        Ok(sent)
    }

    /// Ends the connection: a task that reads gets its end, one that writes an error.
    pub fn hang_up(&self) {
        self.fd.get().hang_up();
    }

    /// Receives more when the inbox is empty: into `rest` first, then into the inbox. Returns the number
    /// of bytes that went into `rest`, or `None` at the end of the connection.
    async fn receive(&self, rest: Option<&Buf>) -> io::Result<Option<usize>> {
        if let Some(tls) = &self.tls {
            if self.receive_secure(tls).await? == 0 {
                return Ok(None);
            }
            return Ok(Some(rest.map_or(0, |rest| self.inbox.borrow_mut().take_buf(rest, 0))));
        }
        let room = self.inbox.borrow_mut().room();
        let mut pieces: SmallVec<[libc::iovec; 4]> = SmallVec::new();
        pieces.extend(rest.iter().flat_map(|rest| rest.iovecs()).copied().take(MAX_PIECES - 1));
        let direct: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        if direct == rest.map_or(0, Buf::len) {
            pieces.push(room);
        }
        let receive = |connection: &Connection| {
            // SAFETY: the pieces are valid for writes while `rest` and the inbox live, which is as long as
            // this future; only this task touches the inbox.
            length(unsafe {
                libc::readv(connection.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int)
            })
        };
        let n = self.fd.read_io(receive).await?;
        self.inbox.borrow_mut().end = n.saturating_sub(direct);
        Ok(if n == 0 { None } else { Some(n.min(direct)) })
    }

    /// Fills `bytes`. Returns `false` if the peer hung up before the first byte.
    ///
    /// # Errors
    /// The host's error; `UnexpectedEof` if the peer hung up in the middle.
    pub async fn fill_or_end(&self, bytes: &mut [u8]) -> io::Result<bool> {
        let mut at = 0;
        loop {
            at += self.inbox.borrow_mut().take(&mut bytes[at..]);
            if at == bytes.len() {
                return Ok(true);
            }
            // A peer that sends without a pause must not keep the thread from other tasks.
            executor::yield_now().await;
            if self.receive(None).await?.is_none() {
                return if at == 0 { Ok(false) } else { cut_off() };
            }
        }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// As [`Link::fill_or_end`]; `UnexpectedEof` also if the peer hung up before the first byte.
    pub async fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        if self.fill_or_end(bytes).await? { Ok(()) } else { cut_off() }
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// As [`Link::fill`].
    pub async fn fill_buf(&self, buf: &Buf) -> io::Result<()> {
        let mut at = self.inbox.borrow_mut().take_buf(buf, 0);
        while at < buf.len() {
            match self.receive(Some(&buf.slice(at..buf.len()))).await? {
                Some(n) => at += n,
                None => return cut_off(),
            }
            if at < buf.len() {
                executor::yield_now().await;
            }
        }
        Ok(())
    }

    /// Sends bytes. After an error, or when the future was dropped, part of them may have been sent.
    ///
    /// # Errors
    /// The host's error.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let start = rest.as_ptr().cast_mut().cast();
            at += self.write(&mut [libc::iovec { iov_base: start, iov_len: rest.len() }]).await?;
        }
        Ok(())
    }

    /// Sends bytes as far as that is possible at once. Must be called only while nobody else is sending.
    pub fn send_now(&self, bytes: &[u8]) {
        if let Some(tls) = &self.tls {
            let mut tls = tls.borrow_mut();
            let _ = tls.writer().write(bytes);
            tls.send_close_notify();
            let _ = tls.write_tls(&mut Socket(self.fd.get()));
            return;
        }
        // SAFETY: `bytes` is valid for reads of its length. Bytes not taken at once are not worth a wait.
        unsafe {
            libc::send(self.fd.get().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
        }
    }

    /// Sends some of the pieces and returns the number of bytes. The caller keeps their memory readable.
    pub(crate) async fn write(&self, pieces: &mut [libc::iovec]) -> io::Result<usize> {
        if let Some(tls) = &self.tls {
            return match self.write_secure(tls, pieces).await? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                n => Ok(n),
            };
        }
        let send = |connection: &Connection| {
            // SAFETY: all-zero bytes are a valid message header without address and control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = pieces.as_mut_ptr();
            message.msg_iovlen = pieces.len().min(MAX_PIECES);
            // SAFETY: the pieces are valid for reads; nothing is written to them. MSG_NOSIGNAL: a peer
            // that is gone is an error, not a signal.
            length(unsafe { libc::sendmsg(connection.as_raw_fd(), &message, libc::MSG_NOSIGNAL) })
        };
        match self.fd.write_io(send).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => Ok(n),
        }
    }
}
