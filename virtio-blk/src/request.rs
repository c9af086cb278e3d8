//! One request: from a chain to a command on the disk, and from its result to a status (virtio 1.2, 5.2.6).
//!
//! A driver may send reads and writes of up to 4 GiB, and discards of 2 GiB. The device does not refuse
//! them. It does a request longer than a piece ([`PIECE`]) piece by piece, and between two pieces the
//! request is not in flight: a switch, a stop and a reset have to wait for one piece of it only.

use std::ops::Range;

use block::disk::{PIECE, first_piece};
use block::{Buf, Error, ErrorAction, ErrorKind, Result};
use virtio::{Chain, Malformed, ParkedChain, Token};
use virtio_bindings::virtio_blk::*;

use crate::backend::Backend;
use crate::config::{Config, MAX_ZEROES_SECTORS, MAX_ZEROES_SEGMENTS, SECTOR};
use crate::policy::IoError;

/// Length of a request's header in bytes (virtio 1.2, 5.2.6).
const HEADER: usize = 16;

/// Length of a `struct virtio_blk_discard_write_zeroes` in bytes.
const SEGMENT: usize = 16;

/// The result that the driver gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u8,
    /// Length for the used entry: the number of bytes written, from the start of the writable part on
    /// (virtio 1.2, 2.7.8.2). After a failed read the status byte lies behind unwritten data and does not
    /// count.
    pub(crate) written: u32,
}

impl Outcome {
    /// For a driver that has asked for a reset: it gets nothing.
    pub(crate) const UNWANTED: Outcome = Outcome { status: VIRTIO_BLK_S_IOERR as u8, written: 0 };

    fn of(status: u8, written: u64) -> Self {
        // 2^32 bytes do not fit into the field; less than the real length is allowed.
        Outcome { status, written: u32::try_from(written).unwrap_or(u32::MAX) }
    }
}

/// The outcome of [`serve`].
pub(crate) enum Progress {
    /// The request has ended with this outcome.
    Done(Outcome),
    /// The request must be parked, and its last piece done again when the device is resumed.
    Park,
    /// A piece is done, and there are more.
    More,
}

/// A parsed request. Its pieces may be done again, so all that decides something is checked each time.
pub(crate) struct Request {
    /// The first bytes that the device may read, copied.
    header: [u8; HEADER],
    /// The bytes that the device may read behind the header.
    readable: Buf,
    /// The bytes that the device may write before the status byte.
    writable: Buf,
    /// The segments of a discard or write-zeroes request, copied once: the driver may change its own between
    /// a check and the use. `None` for other requests and for a list of invalid length.
    segments: Option<Vec<u8>>,
    /// Number of bytes done, of [`Request::total`].
    done: u64,
}

/// The destination of a request's result.
pub(crate) struct Answer<K: 'static> {
    /// The status byte: the last byte that the device may write.
    status: Buf,
    token: Token<K>,
}

impl Request {
    /// Parses the request in `chain`. If that has no room for a header or a status, breaks the device and
    /// returns `None`.
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
        let mut request = Request { header, readable, writable, segments: None, done: 0 };
        request.segments = request.copy_segments();
        Some((request, Answer { status, token }))
    }
}

/// A request that waits while it is not in flight: for the machine's resume, or for its next piece.
pub(crate) struct ParkedRequest<K: 'static> {
    request: Request,
    status: Buf,
    chain: ParkedChain<K>,
}

impl<K> ParkedRequest<K> {
    /// With `failed`, it waits until the device was paused and resumed; otherwise only while the device is
    /// paused.
    pub(crate) fn new(request: Request, answer: Answer<K>, failed: bool) -> Self {
        let Answer { status, token } = answer;
        let chain = if failed { token.park_until_resumed() } else { token.park() };
        ParkedRequest { request, status, chain }
    }

    /// See [`ParkedChain::ready`].
    pub(crate) async fn ready(&self) {
        self.chain.ready().await;
    }

    /// See [`ParkedChain::take_back`].
    pub(crate) fn take_back(self: Box<Self>) -> std::result::Result<(Request, Answer<K>), Box<Self>> {
        let ParkedRequest { request, status, chain } = *self;
        match chain.take_back() {
            Ok(token) => Ok((request, Answer { status, token })),
            Err(chain) => Err(Box::new(ParkedRequest { request, status, chain })),
        }
    }
}

impl<K> Answer<K> {
    /// See [`Token::is_wanted`].
    pub(crate) fn is_wanted(&self) -> bool {
        self.token.is_wanted()
    }

    /// Delivers the outcome to the driver; `keep` is dropped afterwards.
    pub(crate) fn give(self, outcome: Outcome, keep: K) {
        if self.token.is_wanted() {
            self.status.copy_from(&[outcome.status]);
        }
        self.token.complete(outcome.written, keep);
    }
}

/// Returns the driver's status for an error. Nothing else decides what the driver sees of it.
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

/// The reason for a request's failure.
enum Failure {
    /// No driver should send such a request: the policy does not apply.
    Refused(Error),
    /// The disk failed it.
    Disk(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

/// Classifies an error of the disk for a request that has passed the device's checks.
fn failed(error: Error) -> Failure {
    match error.kind() {
        // The disk has shrunk since its size was checked, or does not support the operation.
        ErrorKind::OutOfRange | ErrorKind::Unsupported => Failure::Refused(error),
        _ => Failure::Disk(error),
    }
}

/// Does the next piece of `request`.
pub(crate) async fn serve<B: Backend>(
    disk: &B,
    ticket: &B::Ticket,
    config: &Config,
    request: &mut Request,
    answer: &Answer<B::Ticket>,
) -> Progress {
    let piece = request.piece(disk);
    let error = match execute(disk, ticket, config, request, &piece).await {
        Ok(()) => None,
        // After the driver's reset nobody waits for the request any more.
        Err(Failure::Disk(error)) if answer.is_wanted() => match settle(disk, config, request, &error) {
            ErrorAction::Report => Some(error),
            ErrorAction::Stop => return Progress::Park,
            ErrorAction::Ignore => {
                if request.is_read() {
                    request.writable.slice(piece.start as usize..piece.end as usize).zero();
                }
                None
            }
        },
        Err(Failure::Refused(error) | Failure::Disk(error)) => Some(error),
    };
    if let Some(error) = error {
        tracing::debug!("a request failed: {error}");
        return Progress::Done(Outcome::of(status(&error), u64::from(request.writable.is_empty())));
    }
    request.done = piece.end;
    if request.done < request.total() { Progress::More } else { Progress::Done(request.success()) }
}

/// Decides what an error of the disk leads to, and reports it. Nothing else does so.
fn settle<B: Backend>(disk: &B, config: &Config, request: &Request, error: &Error) -> ErrorAction {
    let (policy, write) = (config.errors(), !request.is_read());
    let action = policy.action(write, error);
    (policy.listener)(IoError {
        node_name: disk.node_name(),
        write,
        action,
        no_space: error.kind() == ErrorKind::NoSpace,
        reason: error.reason(),
        detail: error.to_string(),
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

    fn is_discard(&self) -> bool {
        self.kind() == VIRTIO_BLK_T_DISCARD
    }

    fn copy_segments(&self) -> Option<Vec<u8>> {
        let most = MAX_ZEROES_SEGMENTS as usize * SEGMENT;
        let is_list = matches!(self.kind(), VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES);
        let len = self.readable.len();
        (is_list && len > 0 && len <= most && len.is_multiple_of(SEGMENT)).then(|| self.readable.to_vec())
    }

    /// Returns the number of bytes to move in total: of data, or of the ranges to zero or discard.
    fn total(&self) -> u64 {
        match self.kind() {
            VIRTIO_BLK_T_IN => self.writable.len() as u64,
            VIRTIO_BLK_T_OUT => self.readable.len() as u64,
            _ => self.raw_ranges().map(|(_, len, _)| len).sum(),
        }
    }

    /// Returns the segments of a discard or write-zeroes request, unchecked: first sector, bytes, flags.
    fn raw_ranges(&self) -> impl Iterator<Item = (u64, u64, u32)> {
        self.segments.iter().flat_map(|bytes| bytes.as_chunks().0).map(raw_range)
    }

    /// Returns the range of [`Request::total`] to do with one ticket: one piece of the data or of a long
    /// range, or several short ranges that together are not longer than a piece.
    fn piece<B: Backend>(&self, disk: &B) -> Range<u64> {
        let (done, total) = (self.done, self.total());
        match self.kind() {
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => {
                // An invalid sector is refused whatever the piece is.
                let offset = self.sector().wrapping_mul(SECTOR).wrapping_add(done);
                done..done + first_piece(offset, total - done, PIECE)
            }
            _ => done..done + ranges_piece(self.raw_ranges(), done, disk.zero_piece()),
        }
    }

    /// Returns the number of bytes that the next piece moves.
    pub(crate) fn weight<B: Backend>(&self, disk: &B) -> u64 {
        let piece = self.piece(disk);
        piece.end - piece.start
    }

    fn sector(&self) -> u64 {
        let [.., s0, s1, s2, s3, s4, s5, s6, s7] = self.header;
        u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])
    }

    /// Returns the outcome of a request whose last piece is done.
    fn success(&self) -> Outcome {
        let room = self.writable.len() as u64;
        let data = match self.kind() {
            VIRTIO_BLK_T_IN => room,
            VIRTIO_BLK_T_GET_ID => room.min(VIRTIO_BLK_ID_BYTES.into()),
            _ => 0,
        };
        Outcome::of(VIRTIO_BLK_S_OK as u8, data + u64::from(data == room))
    }
}

/// Does a piece of a request.
async fn execute<B: Backend>(
    disk: &B,
    ticket: &B::Ticket,
    config: &Config,
    request: &Request,
    piece: &Range<u64>,
) -> std::result::Result<(), Failure> {
    let Request { readable, writable, .. } = request;
    let part = |data: &Buf| data.slice(piece.start as usize..piece.end as usize);
    // A write is stable at its end only if the cache was write-through from submission on (5.2.6.2).
    let flush = !config.writeback() && piece.end == request.total();
    match request.kind() {
        VIRTIO_BLK_T_IN => {
            let offset = data_range(request.sector(), writable.len() as u64, disk.size())?;
            disk.read(ticket, offset + piece.start, part(writable)).await.map_err(failed)
        }
        VIRTIO_BLK_T_OUT => {
            check_writable(disk, config)?;
            let offset = data_range(request.sector(), readable.len() as u64, disk.size())?;
            disk.write(ticket, offset + piece.start, part(readable)).await.map_err(failed)?;
            if flush {
                disk.flush(ticket).await.map_err(failed)?;
            }
            Ok(())
        }
        VIRTIO_BLK_T_FLUSH => disk.flush(ticket).await.map_err(failed),
        VIRTIO_BLK_T_GET_ID => {
            let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
            id[..config.serial().len()].copy_from_slice(config.serial());
            let len = writable.len().min(id.len());
            writable.copy_from(&id[..len]);
            Ok(())
        }
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            check_writable(disk, config)?;
            if request.segments.is_none() {
                refuse(ErrorKind::Invalid, "a list of segments of a bad length")?;
            }
            let discard = request.is_discard();
            for segment in request.raw_ranges() {
                check_range(segment, discard, disk.size())?;
            }
            let mut result = Ok(());
            // The first error counts, but each range is attempted: the error may be ignored.
            for range in parts(request.raw_ranges(), piece) {
                result = result.and(if discard {
                    disk.discard(ticket, range.offset, range.len).await
                } else {
                    disk.write_zeroes(ticket, range.offset, range.len, range.unmap).await
                });
            }
            result.map_err(failed)?;
            if flush && !discard {
                disk.flush(ticket).await.map_err(failed)?;
            }
            Ok(())
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

/// Returns the offset of a read or write of `len` bytes at `sector`, if it lies inside a disk of `size`
/// bytes.
fn data_range(sector: u64, len: u64, size: u64) -> Result<u64> {
    if !len.is_multiple_of(SECTOR) {
        return refuse(ErrorKind::Invalid, "data that is not a multiple of 512 bytes");
    }
    in_disk(sector, len, size)
}

/// Returns the byte offset of `sector`, if `len` bytes from there on lie inside a disk of `size` bytes.
fn in_disk(sector: u64, len: u64, size: u64) -> Result<u64> {
    let offset = sector.checked_mul(SECTOR);
    match offset.and_then(|offset| offset.checked_add(len)) {
        Some(end) if end <= size => Ok(end - len),
        _ => refuse(ErrorKind::OutOfRange, "sectors beyond the end of the disk"),
    }
}

/// Parses a `struct virtio_blk_discard_write_zeroes`: first sector, bytes, flags.
fn raw_range(segment: &[u8; SEGMENT]) -> (u64, u64, u32) {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = *segment;
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    (
        u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        u64::from(sectors) * SECTOR,
        u32::from_le_bytes([f0, f1, f2, f3]),
    )
}

/// Checks a segment of a discard or write-zeroes request for a disk of `size` bytes. All segments of a
/// request are checked before the first is done.
fn check_range((sector, len, flags): (u64, u64, u32), discard: bool, size: u64) -> Result<()> {
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    // 5.2.6.2: unknown flags, and `unmap` for a discard, are unsupported.
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
        return refuse(ErrorKind::Unsupported, "unknown flags of a discard or write-zeroes request");
    }
    if len > u64::from(MAX_ZEROES_SECTORS) * SECTOR {
        return refuse(ErrorKind::Invalid, "more sectors than a discard or write-zeroes segment may have");
    }
    in_disk(sector, len, size).map(|_| ())
}

/// A part of a range to be zeroed or discarded, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// Returns the number of bytes of `ranges` to do next, after `done` bytes: as many whole ranges as have at
/// most `most` bytes together, or the first piece of a longer range. Longer ranges are cut at multiples of
/// `most`.
fn ranges_piece(ranges: impl Iterator<Item = (u64, u64, u32)>, done: u64, most: u64) -> u64 {
    let (mut skip, mut taken) = (done, 0);
    for (sector, len, _) in ranges {
        if skip >= len {
            skip -= len;
            continue;
        }
        // A range that wraps is refused before it is used.
        let offset = sector.wrapping_mul(SECTOR).wrapping_add(skip);
        let rest = len - std::mem::take(&mut skip);
        let piece = first_piece(offset, rest, most);
        if taken > 0 && taken + piece > most {
            break;
        }
        taken += piece;
        if piece < rest {
            break;
        }
    }
    taken
}

/// Returns the parts of checked ranges that `piece` of their bytes covers.
fn parts(ranges: impl Iterator<Item = (u64, u64, u32)>, piece: &Range<u64>) -> impl Iterator<Item = Part> {
    let mut before = 0;
    ranges.filter_map(move |(sector, len, flags)| {
        let all = before..before + len;
        before = all.end;
        let (start, end) = (all.start.max(piece.start), all.end.min(piece.end));
        (start < end).then(|| Part {
            offset: sector * SECTOR + (start - all.start),
            len: end - start,
            unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
        })
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
