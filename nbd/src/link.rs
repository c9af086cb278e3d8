//! Reading and writing a connection: data are read in large steps, and messages are sent together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use buf::Buf;
use executor::AsyncFd;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::tls::Socket;

/// The number of bytes read ahead of the requested messages: many small requests come with one system call.
const INBOX: usize = 64 << 10;
/// The most pieces of memory in one system call: Linux takes 1024 (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;
/// The number of bytes after which no more are gathered into one system call: that would gain nothing.
const MAX_GATHERED: usize = 1 << 20;
/// The most bytes that are handed to TLS at a time: its largest record.
const RECORD: usize = 16 << 10;

/// The state of a connection with which a transmission goes on after the handshake, on any thread.
#[derive(Default)]
pub(crate) struct Carried {
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
pub(crate) struct Link {
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
    /// Goes on where another link to the connection [left off](Link::leave).
    pub(crate) fn new(connection: &Connection, carried: Carried) -> io::Result<Self> {
        let Carried { inbox, tls } = carried;
        Ok(Link {
            fd: AsyncFd::new(connection.clone())?,
            inbox: RefCell::new(inbox),
            tls: tls.map(RefCell::new),
        })
    }

    /// Returns the state with which the next link to the same connection goes on.
    pub(crate) fn leave(self) -> Carried {
        Carried { inbox: self.inbox.take(), tls: self.tls.map(RefCell::into_inner) }
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Switches to TLS.
    ///
    /// # Errors
    /// Fails if the TLS handshake fails, or if the peer sent anything more in the clear.
    pub(crate) async fn secure(&mut self, tls: rustls::Connection) -> io::Result<()> {
        let inbox = self.inbox.take();
        if inbox.start != inbox.end {
            return Err(io::Error::other("the peer sent more before TLS began"));
        }
        let tls = RefCell::new(Box::new(tls));
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
                // The peer hung up without TLS's goodbye: NBD has its own.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            self.receive_records(tls).await?;
            self.send_records(tls).await?;
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

    pub(crate) fn hang_up(&self) {
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
    pub(crate) async fn fill_or_end(&self, bytes: &mut [u8]) -> io::Result<bool> {
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
    pub(crate) async fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        if self.fill_or_end(bytes).await? { Ok(()) } else { cut_off() }
    }

    /// Fills `buf`.
    pub(crate) async fn fill_buf(&self, buf: &Buf) -> io::Result<()> {
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
    pub(crate) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let start = rest.as_ptr().cast_mut().cast();
            at += self.write(&mut [libc::iovec { iov_base: start, iov_len: rest.len() }]).await?;
        }
        Ok(())
    }

    /// Sends bytes as far as that is possible at once. Must be called only while nobody else is sending.
    pub(crate) fn send_now(&self, bytes: &[u8]) {
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
    async fn write(&self, pieces: &mut [libc::iovec]) -> io::Result<usize> {
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

/// A message, and a value that is held until it is sent.
pub(crate) struct Message<K> {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Option<Buf>,
    pub(crate) keep: Option<K>,
}

/// Messages to be sent, in order. Those that come while others are being sent go out together.
pub(crate) struct Outbox<K> {
    queue: RefCell<VecDeque<Message<K>>>,
    state: Cell<Sending>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Idle,
    Busy,
    /// A message was cut off: nothing that follows could be understood.
    Broken,
}

impl<K> Default for Outbox<K> {
    fn default() -> Self {
        Outbox { queue: RefCell::default(), state: Cell::new(Sending::Idle) }
    }
}

impl<K> Outbox<K> {
    /// Queues messages, next to each other. Returns true if nobody is sending: then the caller must call
    /// [`Outbox::send`].
    #[must_use]
    pub(crate) fn push(&self, messages: Vec<Message<K>>) -> bool {
        match self.state.get() {
            Sending::Broken => return false,
            Sending::Busy | Sending::Idle => self.queue.borrow_mut().extend(messages),
        }
        self.state.replace(Sending::Busy) == Sending::Idle
    }

    /// Sends until nothing is left. Must not be dropped before its end. After an error nothing more is
    /// sent, and queued messages are dropped.
    pub(crate) async fn send(&self, link: &Link) -> io::Result<()> {
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                self.state.set(Sending::Idle);
                return Ok(());
            }
            if let Err(e) = send_all(link, &batch).await {
                self.state.set(Sending::Broken);
                // Dropped with nothing borrowed.
                drop(self.queue.take());
                return Err(e);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state.get() == Sending::Idle
    }

    fn batch(&self) -> Vec<Message<K>> {
        let mut queue = self.queue.borrow_mut();
        let (mut pieces, mut bytes, mut batch) = (0, 0, Vec::new());
        while let Some(message) = queue.front() {
            pieces += 1 + message.body.as_ref().map_or(0, |body| body.iovecs().len());
            if !batch.is_empty() && (pieces > MAX_PIECES || bytes > MAX_GATHERED) {
                break;
            }
            bytes += message.head.len() + message.body.as_ref().map_or(0, Buf::len);
            batch.extend(queue.pop_front());
        }
        batch
    }
}

async fn send_all<K>(link: &Link, batch: &[Message<K>]) -> io::Result<()> {
    let mut pieces: Vec<libc::iovec> = Vec::with_capacity(2 * batch.len());
    for message in batch {
        let start = message.head.as_ptr().cast_mut().cast();
        pieces.push(libc::iovec { iov_base: start, iov_len: message.head.len() });
        pieces.extend(message.body.iter().flat_map(|body| body.iovecs()).copied());
    }
    let mut rest = &mut pieces[..];
    loop {
        while rest.first().is_some_and(|piece| piece.iov_len == 0) {
            rest = &mut rest[1..];
        }
        if rest.is_empty() {
            return Ok(());
        }
        let mut n = link.write(rest).await?;
        for piece in rest.iter_mut() {
            let taken = n.min(piece.iov_len);
            // Inside of the piece, or at its end.
            piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(taken).cast();
            piece.iov_len -= taken;
            n -= taken;
            if n == 0 {
                break;
            }
        }
    }
}
