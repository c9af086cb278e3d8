//! An NBD server's export as storage, named `nbd://HOST[:PORT]/EXPORT` or
//! `nbd+unix:///EXPORT?socket=PATH`.
//!
//! A lost connection is made again in the background. Requests in flight and new ones wait for that until
//! `reconnect-delay` seconds after the loss (10 unless the URI says otherwise). Then they fail, and
//! further requests fail at once until the server is back. A server that accepts connections but sends
//! nothing while it owes answers is given up after `timeout` seconds (30), or ten times that while it
//! flushes, zeroes or trims, since it may have to move gigabytes. Both are parameters of the URI that only
//! Millrace knows.
//!
//! **What a flush means here.** A server may die with writes that it has answered but not flushed, and a
//! new connection does not show whether it did: the same address may be another process, on another
//! machine. So writes that were answered but not flushed when a connection ends count as lost: every later
//! flush of this storage fails, as after a failed fdatasync, until it is opened again. It does not help
//! that two connections may share a flush (`CAN_MULTI_CONN`), since that is a promise about one server's
//! lifetime. Requests that were in flight were not answered, and are sent again. There is no defence
//! against a server that still carries out an old request after its connection has ended; Linux and QEMU
//! have none either.
//!
//! Exports have no locks: the owners of an export must see to it that it has only one writer.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use executor::sync::Semaphore;
use nbd::client::{self, Client, RequestError};
use nbd::{Errno, Uri};

use super::bytes::{Blocks, Bytes};
use super::protocol::Protocol;
use super::{Extent, HostOpener, Identity, Source, Storage};
use crate::pieces::all_of;
use crate::{Buf, Error, ErrorKind, Result};
use link::Link;
use map::{Kept, Map};

mod link;
mod map;

/// The most data in one request, in bytes: small enough that a slow network still answers it in time.
const PIECE: u64 = 2 << 20;
/// Requests that one read or write is split into, in flight at once.
const PIECES: usize = 8;
/// The longest range whose status one request asks for, in bytes.
const RANGE: u64 = 1 << 30;
/// The longest range that one request zeroes or trims, in bytes: a server may have to write it.
const CLEARED: u64 = 128 << 20;
/// The device number in the identity of an export, which no device has.
const DEVICE: u64 = u64::MAX;

/// The protocols `nbd` and `nbd+unix`.
pub(super) struct Nbd;

#[async_trait(?Send)]
impl Protocol for Nbd {
    fn schemes(&self) -> &'static [&'static str] {
        &["nbd", "nbd+unix"]
    }

    async fn open(&self, _opener: &HostOpener, uri: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(NbdStorage::open(uri, writable).await?))
    }

    async fn create(&self, _opener: &HostOpener, uri: &str) -> Result<Rc<dyn Storage>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{uri}: an NBD export is created by its server")))
    }

    /// Returns the identity of the export: its server's address and its name, whatever the parameters.
    fn outside(&self, uri: &str) -> Result<Option<Identity>> {
        Ok(Some(identity_of(&parse(uri)?)))
    }
}

fn parse(name: &str) -> Result<Uri> {
    Uri::parse(name).map_err(|e| Error::new(ErrorKind::Invalid, format!("{name}: {e}")))
}

fn identity_of(uri: &Uri) -> Identity {
    // Hashed with a random key of this process, so that nobody can construct two names with one identity.
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let inode = KEY.get_or_init(RandomState::new).hash_one((&uri.address, &uri.export));
    Identity { device: DEVICE, inode }
}

/// Time limits.
#[derive(Clone, Copy)]
struct Patience {
    /// For a connection, a handshake or an answer.
    answer: Duration,
    /// For a request, counted from the loss of its connection.
    reconnect: Duration,
}

impl Patience {
    fn of(uri: &Uri, name: &str) -> Result<Self> {
        let mut patience = Patience { answer: Duration::from_secs(30), reconnect: Duration::from_secs(10) };
        for (key, value) in &uri.parameters {
            let wrong = |what| Error::new(ErrorKind::Invalid, format!("{name}: {key}={value}: {what}"));
            let seconds = |least| {
                let number = value.parse().ok().filter(|n| (least..=86_400).contains(n));
                number.map(Duration::from_secs).ok_or_else(|| wrong("must be seconds, at most 86400"))
            };
            match key.as_str() {
                "reconnect-delay" => patience.reconnect = seconds(0)?,
                "timeout" => patience.answer = seconds(1)?,
                _ => return Err(wrong("unknown parameter")),
            }
        }
        Ok(patience)
    }
}

/// An open export.
pub(crate) struct NbdStorage {
    link: Link,
    writable: bool,
    identity: Identity,
    /// Access that is not aligned to the server's blocks.
    bytes: Bytes,
    /// The last block status.
    kept: Kept,
    mapping: Rc<Semaphore>,
    /// Number of changes that were answered, and the number of those that have been flushed.
    written: Cell<u64>,
    flushed: Cell<u64>,
    sync_failed: Cell<bool>,
    /// A connection was lost with answered changes that were not flushed.
    lost: Cell<bool>,
    /// Number of lost connections at the last look.
    losses: Cell<u64>,
}

impl NbdStorage {
    /// Connects. Fails at once if the server is not there.
    pub(crate) async fn open(name: &str, writable: bool) -> Result<Self> {
        let uri = parse(name)?;
        let patience = Patience::of(&uri, name)?;
        let identity = identity_of(&uri);
        let link = Link::open(name, uri, patience, writable).await?;
        Ok(NbdStorage {
            bytes: Bytes::new(link.min_block(), false, true, link.size()),
            link,
            writable,
            identity,
            kept: Kept::default(),
            mapping: Semaphore::new(1),
            written: Cell::new(0),
            flushed: Cell::new(0),
            sync_failed: Cell::new(false),
            lost: Cell::new(false),
            losses: Cell::new(0),
        })
    }

    /// Makes later flushes fail if a connection was lost with answered changes that were not flushed.
    fn look_for_losses(&self) {
        if self.losses.replace(self.link.losses()) != self.link.losses() && self.written != self.flushed {
            self.lose();
        }
    }

    fn lose(&self) {
        self.sync_failed.set(true);
        self.lost.set(true);
    }

    /// Sends a request that changes something.
    async fn change(
        &self,
        doing: &str,
        at: u64,
        request: impl AsyncFn(&Client) -> std::result::Result<(), RequestError>,
    ) -> Result<()> {
        let answered_by = Cell::new(0);
        let noting = async |client: &Client| {
            answered_by.set(self.link.losses());
            request(client).await
        };
        self.link.run(doing, at, noting).await?;
        self.look_for_losses();
        self.written.update(|n| n + 1);
        if answered_by.get() != self.link.losses() {
            // The connection ended between its answer and now.
            self.lose();
        }
        Ok(())
    }

    fn piece(&self) -> u64 {
        self.link.max_payload().min(PIECE)
    }

    /// Reads or writes whole blocks in pieces that the server takes.
    async fn in_pieces(
        &self,
        offset: u64,
        buf: &Buf,
        one: impl AsyncFn(u64, Buf) -> Result<()>,
    ) -> Result<()> {
        let piece = self.piece() as usize;
        if buf.len() <= piece {
            return one(offset, buf.clone()).await;
        }
        let one = &one;
        let pieces = (0..buf.len()).step_by(piece).map(|at| {
            let part = buf.slice(at..(at + piece).min(buf.len()));
            async move { one(offset + at as u64, part).await }
        });
        all_of(pieces, PIECES).await
    }

    fn refused(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("{}: an NBD export {what}", self.name()))
    }

    /// Makes the part of a range that lies inside of the export read as zeros; with `unmap` its space may
    /// be given back.
    async fn zero_range(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        // The export may have become larger with a new connection.
        self.bytes.measured(self.len());
        let end = (offset + len).min(self.len());
        let _changing = self.kept.clearing(offset, len);
        self.bytes.clear(self, offset.min(end)..end, unmap, self.bytes.unit()).await
    }

    /// Does something to a range, one step after the other.
    async fn in_steps(&self, range: Range<u64>, one: impl AsyncFn(u64, u32) -> Result<()>) -> Result<()> {
        for at in range.clone().step_by(CLEARED as usize) {
            one(at, CLEARED.min(range.end - at) as u32).await?;
        }
        Ok(())
    }
}

impl Blocks for NbdStorage {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let one = async |at: u64, part: Buf| {
            self.link.run("reading", at, async |client| client.read(at, part.clone()).await).await
        };
        self.in_pieces(offset, buf, one).await
    }

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        let one = async |at: u64, part: Buf| {
            self.change("writing", at, async |client| client.write(at, part.clone()).await).await
        };
        self.in_pieces(offset, buf, one).await
    }

    async fn clear_blocks(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        // TRIM is of no use: a trimmed range need not read as zeros.
        if !self.link.can_write_zeroes() {
            return Ok(false);
        }
        let one = async |at: u64, len: u32| {
            self.change("zeroing", at, async |client| client.write_zeroes(at, len, unmap).await).await
        };
        match self.in_steps(offset..offset + len, one).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(false),
            done => done.map(|()| true),
        }
    }

    async fn set_end(&self, _len: u64) -> Result<()> {
        Err(self.refused("has the size that its server gives it"))
    }
}

#[async_trait(?Send)]
impl Source for NbdStorage {
    fn name(&self) -> &str {
        self.link.name()
    }

    fn len(&self) -> u64 {
        self.link.size()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        let inside = self.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        if inside < buf.len() {
            buf.slice(inside..buf.len()).zero();
        }
        if inside == 0 { Ok(()) } else { self.bytes.read(self, offset, &buf.slice(0..inside)).await }
    }

    fn is_fixed(&self) -> bool {
        true
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        if offset >= self.len() {
            return Ok(Extent { len, data: false });
        }
        if !self.link.has_status() {
            return Ok(Extent { len, data: true });
        }
        if let Some(extent) = self.kept.at(offset, len, self.link.losses()) {
            return Ok(extent);
        }
        // One at a time: an answer may take some MiB, and the next caller may find what it needs in it.
        let _one = self.mapping.acquire(1).await;
        if let Some(extent) = self.kept.at(offset, len, self.link.losses()) {
            return Ok(extent);
        }
        let start = offset - offset % self.bytes.unit();
        // One request covers the range of later ones too.
        let end = start.saturating_add(RANGE).next_multiple_of(self.bytes.unit()).min(self.len());
        let ask = (end - start) as u32;
        self.kept.asks(self.link.losses());
        let asked = self.link.run("mapping", start, async |client| client.block_status(start, ask).await);
        let map = match asked.await {
            Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(Extent { len, data: true }),
            asked => Map::new(start, &asked?),
        };
        // A server that does not describe `offset` cannot tell, so it counts as data.
        let extent = map.at(offset, len).unwrap_or(Extent { len: len.min(self.bytes.unit()), data: true });
        self.kept.keep(map);
        Ok(extent)
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }
}

#[async_trait(?Send)]
impl Storage for NbdStorage {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        if offset + buf.len() as u64 > self.len() {
            let text = format!("writing {} at {offset}: behind the export's end", self.name());
            return Err(Error::new(ErrorKind::NoSpace, text));
        }
        if buf.is_empty() {
            return Ok(());
        }
        let _changing = self.kept.writing(offset, buf.len() as u64);
        self.bytes.write(self, offset, &buf).await
    }

    async fn sync(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        self.look_for_losses();
        let written = self.written.get();
        if !self.sync_failed.get() && written != self.flushed.get() {
            if self.link.can_flush() {
                let flushed = self.link.run("flushing", 0, async |client| client.flush().await).await;
                self.look_for_losses();
                if let Err(e) = flushed {
                    self.sync_failed.set(true);
                    return Err(e);
                }
            }
            self.flushed.update(|flushed| flushed.max(written));
        }
        if self.sync_failed.get() {
            let text =
                format!("syncing {}: the connection was lost with data that was not flushed", self.name());
            return Err(Error::new(ErrorKind::Io, text));
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        self.lost.get()
    }

    async fn returned(&self) {
        self.link.returned().await;
    }

    fn hang_up(&self) {
        self.link.close();
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        if len <= self.len() { Ok(()) } else { self.set_end(len).await }
    }

    async fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(self.refused("has no space to allocate"))
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_range(offset, len, true).await
    }

    async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.zero_range(offset, len, false).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<()> {
        if !self.link.can_trim() {
            return Err(self.refused("of this server does not support discards"));
        }
        let (unit, end) = (self.bytes.unit(), (offset + len).min(self.len()));
        let inner = offset.next_multiple_of(unit)..end - end % unit;
        if inner.start >= inner.end {
            return Ok(());
        }
        let _changing = self.kept.clearing(offset, len);
        let _lock = self.bytes.hold(inner.start, inner.end - inner.start).await;
        let one = async |at: u64, len: u32| {
            self.change("discarding", at, async |client| client.trim(at, len).await).await
        };
        self.in_steps(inner, one).await
    }
}

/// Returns the error kind for a server's refusal. The server's number stays with the error.
fn kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NoSpace => ErrorKind::NoSpace,
        Errno::Perm => ErrorKind::ReadOnly,
        Errno::NotSupported => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
#[path = "nbd_tests.rs"]
mod tests;
