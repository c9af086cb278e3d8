//! The client side: [`negotiate`] with a server, then a [`Client`] with any number of requests in flight.
//!
//! Nothing that a server sends is trusted: the length of each message is checked against what was asked
//! before it is read, data are only written to the memory of their request, and a server that breaks the
//! protocol is hung up on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use buf::Buf;
use executor::sync::{Event, OneSender, Permit, Semaphore, oneshot};
use link::{Connection, Link, Message, Outbox};

use crate::export::{Errno, Error};
use crate::proto::{REQUEST_MAGIC, Request, command, flag};

mod negotiate;
mod receive;
#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

pub use negotiate::{NegotiateError, Offer, Terms, negotiate};

/// The most requests in flight at once; further requests wait.
pub const MAX_IN_FLIGHT: u64 = 128;

/// The factor of the time-out for requests whose duration the client cannot foresee: flush, write zeroes,
/// trim.
pub const SLOW: u32 = 10;

/// The reason why a request failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The server refused it.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The connection ended first; it is not known whether the request was done.
    #[error("{0}")]
    Disconnected(Rc<str>),
}

/// A run of `base:allocation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its length in bytes, at least 1.
    pub len: u32,
    /// True if it reads as zeros.
    pub zero: bool,
}

/// A request whose answer is not complete yet.
struct Pending {
    request: Request,
    /// The memory that a read fills; the data of a write, held as long.
    buf: Option<Buf>,
    answer: Option<OneSender<Result<Vec<Status>, Error>>>,
    /// The ranges of a read that have arrived: from, to; both relative to the request.
    arrived: BTreeMap<u32, u32>,
    status: Vec<Status>,
    error: Option<Error>,
    chunks: u64,
    _slot: Permit,
}

struct Shared {
    link: Link,
    terms: Terms,
    outbox: Outbox<()>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    /// The number of answers that are not complete yet.
    owed: Cell<u64>,
    cookie: Cell<u64>,
    slots: Rc<Semaphore>,
    /// The time of the last answer, or of the first request while none was due.
    progress: Cell<Duration>,
    end: RefCell<Option<Rc<str>>>,
    ended: Event,
}

/// A transmission with a server, on the executor that made it. Ends when it is dropped.
pub struct Client(Rc<Shared>);

impl Client {
    /// Continues where the negotiation ended. A server that answers nothing for `patience` while answers
    /// are due is hung up on; it has [`SLOW`] times as long while a flush, or a range to zero or to
    /// trim, is among them.
    ///
    /// # Errors
    /// The host's error for the descriptor.
    pub fn new(connection: &Connection, offer: Offer, patience: Duration) -> std::io::Result<Self> {
        let shared = Rc::new(Shared {
            link: Link::new(connection, offer.carried)?,
            terms: offer.terms,
            outbox: Outbox::default(),
            pending: RefCell::default(),
            owed: Cell::new(0),
            cookie: Cell::new(0),
            slots: Semaphore::new(MAX_IN_FLIGHT),
            progress: Cell::new(executor::now()),
            end: RefCell::default(),
            ended: Event::new(),
        });
        let receiving = shared.clone();
        executor::spawn(async move {
            let why = match receiving.receive().await {
                Ok(()) => "the server hung up".to_owned(),
                Err(e) => e.to_string(),
            };
            receiving.finish(&why);
        });
        let watched = Rc::downgrade(&shared);
        executor::spawn(async move {
            while let Some(left) = watched.upgrade().and_then(|shared| shared.watch(patience)) {
                executor::sleep(left).await;
            }
        });
        Ok(Client(shared))
    }

    /// Returns the negotiated properties of the export.
    pub fn terms(&self) -> &Terms {
        &self.0.terms
    }

    /// Reads into the whole of `buf`, which must not be too long for one request: see
    /// [`Terms::max_payload`].
    pub async fn read(&self, offset: u64, buf: Buf) -> Result<(), RequestError> {
        let len = buf.len() as u32;
        self.request(0, command::READ, offset, len, Some(buf)).await.map(drop)
    }

    /// Writes the whole of `buf`, with the same limit.
    pub async fn write(&self, offset: u64, buf: Buf) -> Result<(), RequestError> {
        let len = buf.len() as u32;
        self.request(0, command::WRITE, offset, len, Some(buf)).await.map(drop)
    }

    /// Makes everything durable that was answered before this call.
    pub async fn flush(&self) -> Result<(), RequestError> {
        self.request(0, command::FLUSH, 0, 0, None).await.map(drop)
    }

    /// Makes a range read as zeros. With `may_unmap` the server may give its space back; without, the
    /// range must have space afterwards (NBD_CMD_FLAG_NO_HOLE).
    pub async fn write_zeroes(&self, offset: u64, len: u32, may_unmap: bool) -> Result<(), RequestError> {
        let flags = if may_unmap { 0 } else { flag::NO_HOLE };
        self.request(flags, command::WRITE_ZEROES, offset, len, None).await.map(drop)
    }

    /// Tells the server that a range is not needed any more; the server decides what it reads as
    /// afterwards. Must be called only if [`Terms::can_trim`].
    pub async fn trim(&self, offset: u64, len: u32) -> Result<(), RequestError> {
        self.request(0, command::TRIM, offset, len, None).await.map(drop)
    }

    /// Returns the runs at `offset`: at least one, together no longer than `len`. Must be called only if
    /// [`Terms::has_status`].
    pub async fn block_status(&self, offset: u64, len: u32) -> Result<Vec<Status>, RequestError> {
        self.request(0, command::BLOCK_STATUS, offset, len, None).await
    }

    /// Returns the reason why the transmission has ended, if it has.
    pub fn end(&self) -> Option<Rc<str>> {
        self.0.end.borrow().clone()
    }

    /// Waits for the end and returns its reason. The future does not keep the client alive.
    pub fn ended(&self) -> impl Future<Output = Rc<str>> + use<> {
        let shared = self.0.clone();
        async move {
            loop {
                if let Some(why) = &*shared.end.borrow() {
                    return why.clone();
                }
                shared.ended.wait().await;
            }
        }
    }

    /// Ends the transmission: requests in flight fail with `Disconnected`.
    pub fn hang_up(&self, why: &str) {
        self.0.finish(why);
    }

    async fn request(
        &self,
        flags: u16,
        command: u16,
        offset: u64,
        len: u32,
        buf: Option<Buf>,
    ) -> Result<Vec<Status>, RequestError> {
        let shared = &self.0;
        let slot = shared.slots.acquire(1).await;
        if let Some(why) = self.end() {
            return Err(RequestError::Disconnected(why));
        }
        let cookie = shared.cookie.get();
        shared.cookie.set(cookie.wrapping_add(1));
        let request = Request { flags, command, cookie, offset, len };
        let body = buf.clone().filter(|_| command == command::WRITE);
        let (sender, answer) = oneshot();
        let pending = Pending {
            request,
            buf,
            answer: Some(sender),
            arrived: BTreeMap::new(),
            status: Vec::new(),
            error: None,
            chunks: 0,
            _slot: slot,
        };
        if shared.owed.replace(shared.owed.get() + 1) == 0 {
            shared.progress.set(executor::now());
        }
        shared.pending.borrow_mut().insert(cookie, pending);
        if shared.outbox.push(vec![Message { head: request.to_bytes(), body, keep: None }]) {
            // Its own task: the caller's future may be dropped, but a message is sent whole or not at all.
            let shared = shared.clone();
            executor::spawn(async move {
                if let Err(e) = shared.outbox.send(&shared.link).await {
                    shared.finish(&e.to_string());
                }
            });
        }
        match answer.await {
            Some(result) => result.map_err(RequestError::Refused),
            None => Err(RequestError::Disconnected(self.end().unwrap_or_else(|| "hung up".into()))),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.end().is_none() {
            // Without this message the server takes the end for an accident, which changes nothing else.
            let goodbye = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, len: 0 };
            if self.0.outbox.is_idle() {
                self.0.link.send_now(&goodbye.to_bytes());
            }
            self.0.finish("hung up");
        }
    }
}

impl Shared {
    /// Ends the transmission; the first reason counts.
    fn finish(&self, why: &str) {
        if self.end.borrow().is_none() {
            *self.end.borrow_mut() = Some(why.into());
        }
        self.link.hang_up();
        // Dropping the senders of their answers wakes the callers: nothing may be borrowed then.
        let pending = self.pending.take();
        drop(pending);
        self.ended.notify();
    }

    /// Hangs up on a server that is silent for too long. Returns the time until the next check.
    fn watch(&self, patience: Duration) -> Option<Duration> {
        if self.end.borrow().is_some() {
            return None;
        }
        let silent = executor::now().saturating_sub(self.progress.get());
        let is_slow = |pending: &Pending| {
            matches!(pending.request.command, command::FLUSH | command::WRITE_ZEROES | command::TRIM)
        };
        let patience = if self.pending.borrow().values().any(is_slow) { patience * SLOW } else { patience };
        if self.owed.get() == 0 {
            return Some(patience);
        }
        if silent >= patience {
            self.finish(&format!("the server did not answer for {} s", patience.as_secs()));
            return None;
        }
        Some(patience - silent)
    }
}

impl Request {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend(REQUEST_MAGIC.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes
    }
}

/// Returns the error that a server's number means.
fn errno(number: u32) -> Errno {
    let known = [
        Errno::Perm,
        Errno::NoMem,
        Errno::Invalid,
        Errno::NoSpace,
        Errno::Overflow,
        Errno::NotSupported,
        Errno::Shutdown,
    ];
    known.into_iter().find(|errno| *errno as u32 == number).unwrap_or(Errno::Io)
}

/// Returns a server's text in a form that is fit for a terminal.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
