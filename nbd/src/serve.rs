//! The transmission: performs one connection's requests on the thread of their export (section
//! "Transmission").
//!
//! One task reads requests, together with the data of writes. Each request then runs as a task of its
//! own, so that replies are sent in the order in which requests end; those that end together are sent by
//! one system call. Every request holds a slot, and memory for its data, until its reply is sent. So a
//! client that does not read its replies is soon not read from any more. It achieves nothing else by
//! that, since its requests have ended in the export before their replies are queued. For the same
//! reason a write is passed to the export only when all its data have arrived.
//!
//! A guest's ring is different: there an export counts as drained only when the guest has been notified,
//! since the answer is written to memory that a switch or reset takes away. Here a reply is sent after its
//! request has left the export. Its data are in our own buffer, and a request that a switch overtakes between
//! its end and its reply was concurrent with that switch: either content is right for it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use buf::{Buf, Pool};
use executor::sync::{Permit, Semaphore};
use link::{Connection, Link, Outbox};

use crate::disconnect::Disconnect;
use crate::export::{Errno, Error, Export, Extent, Result};
use crate::handshake::{Session, Terms};
use crate::proto::{CONTEXTS, Request, command, flag};
use crate::reply::{Answer, Part, Reply, state};

/// The most data of one request, in bytes. Clients get this limit, which is also the one that the
/// protocol lets them assume (section "Size constraints").
pub const MAX_REQUEST: u32 = 32 << 20;
/// The most requests of one connection in flight at once, including those whose reply is being sent.
pub const MAX_REQUESTS: u64 = 64;
/// The most bytes of data of one connection in flight at once: room for one request of the largest size.
pub const MAX_IN_FLIGHT: u64 = MAX_REQUEST as u64;
/// The most runs that one request looks at.
const MAX_EXTENTS: usize = 1024;
/// The length in bytes from which on a read leaves zeros out of its reply; for shorter reads, looking
/// for zeros would cost more than sending them.
const SPARSE: u32 = 64 << 10;
/// The length in bytes up to which a request's memory is used again.
const POOLED: usize = 1 << 20;
/// The length of one read for `CACHE`, in bytes.
const CACHE_STEP: u64 = POOLED as u64;

/// Serves a client's requests until it disconnects, hangs up or [is hung up](Connection::hang_up), then
/// waits until none of them is in flight any more. Must run on the export's executor, where its requests
/// run as tasks, and must not be dropped before its end.
///
/// # Errors
/// [`Disconnect`], if the connection did not end as the protocol says.
pub async fn serve<E: Export>(
    connection: &Connection,
    session: Session,
    export: E,
) -> std::result::Result<(), Disconnect> {
    let server = Rc::new(Server {
        link: Link::new(connection, session.carried)?,
        terms: session.terms,
        export,
        outbox: Outbox::default(),
        in_flight: Cell::new(0),
        pool: Pool::default(),
        slots: Semaphore::new(MAX_REQUESTS),
        memory: Semaphore::new(MAX_IN_FLIGHT),
        failed: Cell::default(),
    });
    let result = server.receive().await;
    if result.is_err() {
        // Replies in flight are of no use: their client is out of step.
        server.link.hang_up();
    }
    // All slots are free when no request is in flight.
    server.slots.acquire(MAX_REQUESTS).await;
    match server.failed.take() {
        Some(e) => result.and(Err(e.into())),
        None => result,
    }
}

struct Server<E> {
    link: Link,
    terms: Terms,
    export: E,
    outbox: Outbox<InFlight<E>>,
    /// The number of requests whose reply is not sent yet.
    in_flight: Cell<u64>,
    /// The memory of requests of [`POOLED`] bytes and less.
    pool: Pool,
    slots: Rc<Semaphore>,
    memory: Rc<Semaphore>,
    /// The reason why replies cannot be sent any more.
    failed: Cell<Option<io::Error>>,
}

/// Resources that a request holds until its reply is sent.
struct InFlight<E> {
    _slot: Permit,
    _memory: Option<Permit>,
    data: Option<Buf>,
    server: Rc<Server<E>>,
}

impl<E> Drop for InFlight<E> {
    fn drop(&mut self) {
        self.server.in_flight.update(|n| n - 1);
        if let Some(data) = self.data.take().filter(|data| data.len() <= POOLED) {
            self.server.pool.put(data);
        }
    }
}

fn error<T>(errno: Errno, text: &str) -> Result<T> {
    Err(Error::new(errno, text))
}

impl<E: Export> Server<E> {
    async fn receive(self: &Rc<Self>) -> std::result::Result<(), Disconnect> {
        loop {
            let mut head = [0; Request::LEN];
            if !self.link.fill_or_end(&mut head).await? {
                return Ok(());
            }
            let Some(request) = Request::parse(&head) else {
                return Err(Disconnect::Protocol("sent something that is not a request"));
            };
            if request.command == command::DISC {
                return Ok(());
            }
            let slot = self.slots.acquire(1).await;
            let writes = request.command == command::WRITE;
            if writes && request.len > MAX_REQUEST {
                return Err(Disconnect::Protocol("sent a write that is too long"));
            }
            let data = match request.command {
                command::WRITE => request.len,
                // A longer request is refused when it is performed.
                command::READ if request.len <= MAX_REQUEST => request.len,
                command::CACHE if request.len <= MAX_REQUEST => request.len.min(CACHE_STEP as u32),
                _ => 0,
            };
            let memory = if data > 0 { Some(self.memory.acquire(u64::from(data)).await) } else { None };
            self.in_flight.update(|n| n + 1);
            let mut held = InFlight { _slot: slot, _memory: memory, data: None, server: self.clone() };
            if writes {
                let payload = self.buffer(data as usize);
                self.link.fill_buf(&payload).await?;
                held.data = Some(payload);
            }
            let server = self.clone();
            executor::spawn(async move {
                let result = server.perform(request, &mut held).await;
                server.reply(request.cookie, result, held).await;
            });
        }
    }

    /// Returns memory with any content.
    fn buffer(&self, len: usize) -> Buf {
        if len <= POOLED { self.pool.get(len) } else { Buf::new(len) }
    }

    async fn reply(&self, cookie: u64, result: Result<Answer>, held: InFlight<E>) {
        if !self.outbox.push(Reply::messages(self.terms.structured, cookie, result, held)) {
            return;
        }
        if self.in_flight.get() > 1 {
            // Requests that end now go out with this one.
            executor::yield_now().await;
        }
        if let Err(e) = self.outbox.send(&self.link).await {
            // This also ends `receive`.
            self.link.hang_up();
            self.failed.set(Some(e));
        }
    }

    async fn perform(&self, request: Request, held: &mut InFlight<E>) -> Result<Answer> {
        self.check(&request)?;
        let Request { flags, offset, .. } = request;
        let len = u64::from(request.len);
        match request.command {
            command::READ => return self.read(&request, held).await,
            command::BLOCK_STATUS => return self.block_status(&request).await,
            // The requests below, except `FLUSH`, are skipped if their length is 0.
            _ if len == 0 && request.command != command::FLUSH => {}
            command::CACHE => self.cache(offset, len).await?,
            command::WRITE => {
                let payload = held.data.clone().unwrap_or_else(|| Buf::new(0));
                self.export.write(offset, payload).await?;
            }
            command::TRIM => self.export.trim(offset, len).await?,
            command::WRITE_ZEROES => {
                self.export.write_zeroes(offset, len, flags & flag::NO_HOLE == 0).await?
            }
            _ => self.export.flush().await?,
        }
        if flags & flag::FUA != 0 && !matches!(request.command, command::FLUSH | command::CACHE) {
            self.export.flush().await?;
        }
        Ok(Answer::Done)
    }

    /// Refuses invalid requests (section "Request types").
    fn check(&self, request: &Request) -> Result<()> {
        let (known, changes) = match request.command {
            command::READ if self.terms.structured => (flag::DF, false),
            command::READ | command::FLUSH | command::CACHE => (0, false),
            command::WRITE | command::TRIM => (0, true),
            command::WRITE_ZEROES => (flag::NO_HOLE | flag::FAST_ZERO, true),
            command::BLOCK_STATUS => (flag::REQ_ONE, false),
            _ => return error(Errno::Invalid, "unknown command"),
        };
        if request.flags & !(known | flag::FUA) != 0 {
            return error(Errno::Invalid, "unknown command flags");
        }
        if changes && self.terms.read_only {
            return error(Errno::Perm, "the export is read-only");
        }
        if request.command == command::FLUSH {
            return Ok(());
        }
        let end = request.offset.checked_add(u64::from(request.len));
        if end.is_none_or(|end| end > self.export.size()) {
            let writes = matches!(request.command, command::WRITE | command::WRITE_ZEROES);
            let errno = if writes { Errno::NoSpace } else { Errno::Invalid };
            return error(errno, "outside of the export");
        }
        if request.flags & flag::FAST_ZERO != 0 && request.command == command::WRITE_ZEROES {
            // It is not known before zeros are written whether that is fast, and then a server "MUST
            // fail quickly" ("NBD_CMD_WRITE_ZEROES").
            return error(Errno::NotSupported, "fast zeroing cannot be promised");
        }
        Ok(())
    }

    /// Reads a range and drops the data: the use is what copy-on-read or the host's page cache keeps of it.
    async fn cache(&self, offset: u64, len: u64) -> Result<()> {
        if len > u64::from(MAX_REQUEST) {
            return error(Errno::Invalid, "more than 32 MiB at once");
        }
        let buf = self.pool.get(len.min(CACHE_STEP) as usize);
        for at in (0..len).step_by(CACHE_STEP as usize) {
            let part = buf.slice(0..CACHE_STEP.min(len - at) as usize);
            self.export.read(offset + at, part).await?;
        }
        self.pool.put(buf);
        Ok(())
    }

    async fn read(&self, request: &Request, held: &mut InFlight<E>) -> Result<Answer> {
        let Request { flags, offset, len, .. } = *request;
        if len > MAX_REQUEST {
            return error(Errno::Invalid, "more than 32 MiB at once");
        }
        if len == 0 {
            return Ok(Answer::Done);
        }
        let mut parts = vec![Part { len, data: true }];
        if self.terms.structured && len >= SPARSE && flags & flag::DF == 0 {
            parts = self.parts(offset, len).await?;
        }
        // The extents are looked up first, and the data are read afterwards: a write meanwhile may be
        // missed, as by any read that is concurrent with a write, but all earlier data are read.
        let some_data = parts.iter().any(|part| part.data);
        let buf = if some_data { self.buffer(len as usize) } else { Buf::new(0) };
        if some_data {
            held.data = Some(buf.clone());
            self.export.read(offset, buf.clone()).await?;
        }
        match parts.iter().all(|part| part.data) {
            true => Ok(Answer::Data { offset, buf }),
            false => Ok(Answer::Sparse { offset, buf, parts }),
        }
    }

    /// Returns the parts of a range that are data and those that are zeros.
    async fn parts(&self, offset: u64, len: u32) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let extents = self.extents(offset, len, |_, _| true).await?;
        let mut left = len;
        for extent in extents {
            let len = extent.len as u32;
            left -= len;
            match parts.last_mut() {
                Some(last) if last.data == extent.data => last.len += len,
                _ => parts.push(Part { len, data: extent.data }),
            }
        }
        // After [`MAX_EXTENTS`] runs it is not worth looking on: the rest counts as data.
        match parts.last_mut() {
            Some(last) if last.data => last.len += left,
            _ if left > 0 => parts.push(Part { len: left, data: true }),
            _ => {}
        }
        Ok(parts)
    }

    /// Returns the runs at `offset`: at least one, at most [`MAX_EXTENTS`], together no longer than
    /// `len`. Stops before a run for which `goes_on`, called with the first run and that run, is false.
    async fn extents(
        &self,
        offset: u64,
        len: u32,
        goes_on: impl Fn(&Extent, &Extent) -> bool,
    ) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut left = u64::from(len);
        while left > 0 && extents.len() < MAX_EXTENTS {
            let found = self.export.block_status(offset + u64::from(len) - left, left).await?;
            let extent = Extent { len: found.len.clamp(1, left), ..found };
            if extents.first().is_some_and(|first| !goes_on(first, &extent)) {
                break;
            }
            left -= extent.len;
            extents.push(extent);
        }
        Ok(extents)
    }

    async fn block_status(&self, request: &Request) -> Result<Answer> {
        let contexts = self.terms.contexts;
        if !contexts.contains(&true) {
            return error(Errno::Invalid, "no metadata context was negotiated");
        }
        if request.len == 0 {
            return error(Errno::Invalid, "the length is 0");
        }
        // With `REQ_ONE`, each context gets one extent, which ends where any of them changes.
        let one = request.flags & flag::REQ_ONE != 0;
        let same = |first: &Extent, next: &Extent| {
            (0..CONTEXTS.len()).all(|id| !one || !contexts[id] || state(id, first) == state(id, next))
        };
        let extents = self.extents(request.offset, request.len, same).await?;
        Ok(Answer::Status { contexts, extents })
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
