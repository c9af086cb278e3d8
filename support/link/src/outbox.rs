//! Messages that are sent together, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;

use buf::Buf;

use crate::link::{Link, MAX_PIECES};

/// The number of bytes after which no more are gathered into one system call: that would gain nothing.
const MAX_GATHERED: usize = 1 << 20;

/// A message, and a value that is held until it is sent.
pub struct Message<K> {
    /// Its first bytes.
    pub head: Vec<u8>,
    /// The bytes that follow, if any.
    pub body: Option<Buf>,
    /// Dropped when the message was sent, or when it cannot be sent any more.
    pub keep: Option<K>,
}

/// Messages to be sent, in order. Those that come while others are being sent go out together.
pub struct Outbox<K> {
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
    pub fn push(&self, messages: Vec<Message<K>>) -> bool {
        match self.state.get() {
            Sending::Broken => return false,
            Sending::Busy | Sending::Idle => self.queue.borrow_mut().extend(messages),
        }
        self.state.replace(Sending::Busy) == Sending::Idle
    }

    /// Sends until nothing is left. Must not be dropped before its end. After an error nothing more is
    /// sent, and queued messages are dropped.
    ///
    /// # Errors
    /// The host's error.
    pub async fn send(&self, link: &Link) -> io::Result<()> {
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

    /// Returns true if nothing is queued or being sent.
    pub fn is_idle(&self) -> bool {
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
