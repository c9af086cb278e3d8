//! One request: from a chain to a command on the disk, and from its result to a status (virtio 1.2, 5.2.6).

use block::{Buf, Error, ErrorKind, Result};
use virtio_bindings::virtio_blk::*;
use virtqueue::{Aside, Chain, Malformed, Token};

use crate::backend::Backend;
use crate::config::{Config, MAX_ZEROES_SECTORS, MAX_ZEROES_SEGMENTS, SECTOR};
use crate::policy::{Action, IoError};

/// Length of a request's header in bytes (virtio 1.2, 5.2.6).
const HEADER: usize = 16;

/// Length of a `struct virtio_blk_discard_write_zeroes` in bytes.
const SEGMENT: usize = 16;

/// What the driver gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u8,
    /// For the used entry: so many bytes were written from the start of the writable part on
    /// (virtio 1.2, 2.7.8.2). The status byte lies behind a failed read's unwritten data and does not
    /// count then.
    pub(crate) written: u32,
}

/// A request taken apart. It may be done again: what decides something is checked each time.
pub(crate) struct Request {
    /// The first bytes that the device may read, copied.
    header: [u8; HEADER],
    /// What it may read behind the header.
    readable: Buf,
    /// What it may write before the status byte.
    writable: Buf,
}

/// Where a request's answer goes.
pub(crate) struct Answer<K: 'static> {
    /// The last byte that the device may write.
    status: Buf,
    token: Token<K>,
}

impl Request {
    /// The request in `chain`. Where it has no room for a header or a status, the device is broken.
    pub(crate) fn of<K>(chain: Chain<K>) -> Option<(Self, Answer<K>)> {
        let Chain { readable, writable, token } = chain;
        let (sent, room) = (readable.len(), writable.len());
        if room == 0 {
            token.refuse(Malformed("a request without room for its status"));
            return None;
        }
        if sent < HEADER {
            token.refuse(Malformed("a request without a whole header"));
            return None;
        }
        let mut header = [0; HEADER];
        readable.copy_to(&mut header);
        let status = writable.slice(room - 1..room);
        let (readable, writable) = (readable.slice(HEADER..sent), writable.slice(0..room - 1));
        Some((Request { header, readable, writable }, Answer { status, token }))
    }
}

/// A request that waits for the machine to go on, out of flight.
pub(crate) struct Kept<K: 'static> {
    request: Request,
    status: Buf,
    aside: Aside<K>,
}

impl<K> Kept<K> {
    pub(crate) fn new(request: Request, answer: Answer<K>) -> Self {
        Kept { request, status: answer.status, aside: answer.token.set_aside() }
    }

    /// [`Aside::resumed`].
    pub(crate) async fn resumed(&self) {
        self.aside.resumed().await;
    }

    /// [`Aside::take_back`].
    pub(crate) fn take_back(self: Box<Self>) -> std::result::Result<(Request, Answer<K>), Box<Self>> {
        let Kept { request, status, aside } = *self;
        match aside.take_back() {
            Ok(token) => Ok((request, Answer { status, token })),
            Err(aside) => Err(Box::new(Kept { request, status, aside })),
        }
    }
}

impl<K> Answer<K> {
    /// Tells the driver; `keep` is dropped when that is done.
    pub(crate) fn give(self, outcome: Outcome, keep: K) {
        if self.token.is_wanted() {
            self.status.copy_from(&[outcome.status]);
        }
        self.token.complete(outcome.written, keep);
    }
}

/// The one place that decides what the driver sees of an error.
fn status(error: &Error) -> u8 {
    let status = match error.kind() {
        ErrorKind::Unsupported => VIRTIO_BLK_S_UNSUPP,
        _ => VIRTIO_BLK_S_IOERR,
    };
    status as u8
}

fn refuse<T>(kind: ErrorKind, why: &str) -> Result<T> {
    Err(Error::new(kind, why))
}

/// Why a request failed.
enum Failure {
    /// It is one that no driver should send: policy has no say.
    Refused(Error),
    /// The disk failed it.
    Disk(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

/// The error of a disk that was asked for what looked right.
fn failed(error: Error) -> Failure {
    match error.kind() {
        // It has shrunk since it was asked for its size, or cannot do such a thing at all.
        ErrorKind::OutOfRange | ErrorKind::Unsupported => Failure::Refused(error),
        _ => Failure::Disk(error),
    }
}

/// Does what `request` asks for. `None` where the request is to be kept and done again.
pub(crate) async fn serve<B: Backend>(
    disk: &B,
    ticket: &B::Ticket,
    config: &Config,
    request: &Request,
    answer: &Answer<B::Ticket>,
) -> Option<Outcome> {
    let room = request.writable.len() as u64;
    let done = |data: u64| {
        let all = data == room;
        // A chain of 2^32 bytes does not fit the field; less than the truth is allowed.
        let written = u32::try_from(data + u64::from(all)).unwrap_or(u32::MAX);
        Some(Outcome { status: VIRTIO_BLK_S_OK as u8, written })
    };
    let error = match execute(disk, ticket, config, request).await {
        Ok(data) => return done(data),
        // After the driver's reset nobody waits for it any more.
        Err(Failure::Disk(error)) if answer.token.is_wanted() => {
            match settle(disk, config, request, &error) {
                Action::Report => error,
                Action::Stop => return None,
                Action::Ignore if request.is_read() => {
                    request.writable.zero();
                    return done(room);
                }
                Action::Ignore => return done(0),
            }
        }
        Err(Failure::Refused(error) | Failure::Disk(error)) => error,
    };
    tracing::debug!("a request failed: {error}");
    Some(Outcome { status: status(&error), written: u32::from(room == 0) })
}

/// The one place that decides what an error of the disk leads to, and tells of it.
fn settle<B: Backend>(disk: &B, config: &Config, request: &Request, error: &Error) -> Action {
    let (policy, write) = (config.errors(), !request.is_read());
    let action = policy.action(write, error);
    (policy.tell)(IoError {
        node_name: disk.node_name(),
        write,
        action,
        no_space: error.kind() == ErrorKind::NoSpace,
        reason: error.to_string(),
    });
    action
}

impl Request {
    fn kind(&self) -> u32 {
        let [k0, k1, k2, k3, ..] = self.header;
        u32::from_le_bytes([k0, k1, k2, k3])
    }

    fn is_read(&self) -> bool {
        self.kind() == VIRTIO_BLK_T_IN
    }
}

/// The answer counts the data bytes written to guest memory.
async fn execute<B: Backend>(
    disk: &B,
    ticket: &B::Ticket,
    config: &Config,
    request: &Request,
) -> std::result::Result<u64, Failure> {
    let Request { header, readable, writable } = request;
    let kind = request.kind();
    // A write is stable at its end only if the cache was write-through from submission on (5.2.6.2).
    let write_through = !config.writeback();
    match kind {
        VIRTIO_BLK_T_IN => {
            let len = writable.len() as u64;
            let offset = data_range(header, len, disk.size())?;
            disk.read(ticket, offset, writable.clone()).await.map_err(failed)?;
            Ok(len)
        }
        VIRTIO_BLK_T_OUT => {
            check_writable(disk, config)?;
            let offset = data_range(header, readable.len() as u64, disk.size())?;
            disk.write(ticket, offset, readable.clone()).await.map_err(failed)?;
            if write_through {
                disk.flush(ticket).await.map_err(failed)?;
            }
            Ok(0)
        }
        VIRTIO_BLK_T_FLUSH => disk.flush(ticket).await.map(|()| 0).map_err(failed),
        VIRTIO_BLK_T_GET_ID => {
            let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
            id[..config.serial().len()].copy_from_slice(config.serial());
            let len = writable.len().min(id.len());
            writable.copy_from(&id[..len]);
            Ok(len as u64)
        }
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            check_writable(disk, config)?;
            let discard = kind == VIRTIO_BLK_T_DISCARD;
            let mut result = Ok(());
            // The first error counts, but each range has its attempt: the error may be ignored.
            for range in zeroes_ranges(readable, discard, disk.size())? {
                result = result.and(if discard {
                    disk.discard(ticket, range.offset, range.len).await
                } else {
                    disk.write_zeroes(ticket, range.offset, range.len, range.unmap).await
                });
            }
            result.map_err(failed)?;
            if write_through && !discard {
                disk.flush(ticket).await.map_err(failed)?;
            }
            Ok(0)
        }
        _ => Ok(refuse(ErrorKind::Unsupported, "an unknown request type")?),
    }
}

fn check_writable<B: Backend>(disk: &B, config: &Config) -> Result<()> {
    if config.read_only() || disk.read_only() {
        return refuse(ErrorKind::ReadOnly, "a write to a read-only disk");
    }
    Ok(())
}

/// The offset of a read or write of `len` bytes, inside of a disk of `size` bytes.
fn data_range(header: &[u8; HEADER], len: u64, size: u64) -> Result<u64> {
    if !len.is_multiple_of(SECTOR) {
        return refuse(ErrorKind::Invalid, "data that is no multiple of 512 bytes");
    }
    let [.., s0, s1, s2, s3, s4, s5, s6, s7] = *header;
    in_disk(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), len, size)
}

/// The byte offset of `sector`, if `len` bytes from there on are inside of a disk of `size` bytes.
fn in_disk(sector: u64, len: u64, size: u64) -> Result<u64> {
    let offset = sector.checked_mul(SECTOR);
    match offset.and_then(|offset| offset.checked_add(len)) {
        Some(end) if end <= size => Ok(end - len),
        _ => refuse(ErrorKind::OutOfRange, "sectors beyond the end of the disk"),
    }
}

/// A checked `struct virtio_blk_discard_write_zeroes`, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct ZeroesRange {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// All segments of a discard or write-zeroes request, each checked before the first is done.
fn zeroes_ranges(data: &Buf, discard: bool, size: u64) -> Result<Vec<ZeroesRange>> {
    let segments = data.len() / SEGMENT;
    if !data.len().is_multiple_of(SEGMENT) || segments == 0 || segments > MAX_ZEROES_SEGMENTS as usize {
        return refuse(ErrorKind::Invalid, "a list of segments of a bad length");
    }
    // Copied once: the driver may change its own copy between a check and the use.
    let bytes = data.to_vec();
    let (segments, _) = bytes.as_chunks::<SEGMENT>();
    segments.iter().map(|segment| zeroes_range(segment, discard, size)).collect()
}

fn zeroes_range(segment: &[u8; SEGMENT], discard: bool, size: u64) -> Result<ZeroesRange> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = *segment;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    // 5.2.6.2: unknown flags, and `unmap` for a discard, are unsupported.
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
        return refuse(ErrorKind::Unsupported, "unknown flags of a discard or write-zeroes request");
    }
    if sectors > MAX_ZEROES_SECTORS {
        return refuse(ErrorKind::Invalid, "more sectors than a discard or write-zeroes segment may have");
    }
    let len = u64::from(sectors) * SECTOR;
    Ok(ZeroesRange { offset: in_disk(sector, len, size)?, len, unmap })
}

#[cfg(test)]
mod tests;
