//! One request: from a chain to a command on the disk, and from its result to a status (virtio 1.2, 5.2.6).
//!
//! A driver may send reads and writes of up to 4 GiB, and discards of 2 GiB. The device does not refuse
//! them. It does a request longer than a piece ([`PIECE`]) piece by piece, and between two pieces the
//! request is not in flight: a switch, a stop and a reset have to wait for one piece of it only.

use std::ops::Range;

use block::disk::{Front, PIECE, first_piece};
use block::{Buf, Error, ErrorAction, ErrorKind, Result};
use virtio::{Chain, Malformed, ParkedChain, Token};
use virtio_bindings::virtio_blk::*;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::config::{Config, MAX_ZEROES_SECTORS, MAX_ZEROES_SEGMENTS, SECTOR};
use crate::policy::IoError;

/// `struct virtio_blk_outhdr`: the head of a request (virtio 1.2, 5.2.6).
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    kind: U32,
    ioprio: U32,
    sector: U64,
}

/// Length of a [`Header`] in bytes.
const HEADER: usize = size_of::<Header>();

/// `struct virtio_blk_discard_write_zeroes`, unchecked.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Segment {
    sector: U64,
    num_sectors: U32,
    flags: U32,
}

impl Segment {
    /// Returns its length in bytes.
    fn len(&self) -> u64 {
        u64::from(self.num_sectors.get()) * SECTOR
    }

    fn unmap(&self) -> bool {
        self.flags.get() & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0
    }
}

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
    header: Header,
    /// The bytes that the device may read behind the header.
    readable: Buf,
    /// The bytes that the device may write before the status byte.
    writable: Buf,
    /// The segments of a discard or write-zeroes request, copied once: the driver may change its own between
    /// a check and the use. `None` for other requests and for a list of invalid length.
    segments: Option<Vec<Segment>>,
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
        let mut header = Header::new_zeroed();
        readable.copy_to(header.as_mut_bytes());
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
pub(crate) async fn serve<F: Front>(
    disk: &F,
    ticket: &F::Ticket,
    config: &Config,
    request: &mut Request,
    answer: &Answer<F::Ticket>,
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
fn settle<F: Front>(disk: &F, config: &Config, request: &Request, error: &Error) -> ErrorAction {
    let (policy, write) = (config.errors(), !request.is_read());
    let action = policy.action(write, error);
    (policy.listener)(IoError {
        node_name: Some(disk.node_name()),
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
        self.header.kind.get()
    }

    fn is_read(&self) -> bool {
        self.kind() == VIRTIO_BLK_T_IN
    }

    fn is_discard(&self) -> bool {
        self.kind() == VIRTIO_BLK_T_DISCARD
    }

    fn copy_segments(&self) -> Option<Vec<Segment>> {
        let (count, rest) =
            (self.readable.len() / size_of::<Segment>(), self.readable.len() % size_of::<Segment>());
        let is_list = matches!(self.kind(), VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES);
        (is_list && rest == 0 && (1..=MAX_ZEROES_SEGMENTS as usize).contains(&count)).then(|| {
            let mut segments = vec![Segment::new_zeroed(); count];
            self.readable.copy_to(segments.as_mut_bytes());
            segments
        })
    }

    /// Returns the number of bytes to move in total: of data, or of the ranges to zero or discard.
    fn total(&self) -> u64 {
        match self.kind() {
            VIRTIO_BLK_T_IN => self.writable.len() as u64,
            VIRTIO_BLK_T_OUT => self.readable.len() as u64,
            _ => self.segments().iter().map(Segment::len).sum(),
        }
    }

    /// Returns the segments of a discard or write-zeroes request, unchecked.
    fn segments(&self) -> &[Segment] {
        self.segments.as_deref().unwrap_or_default()
    }

    /// Returns the range of [`Request::total`] to do with one ticket: one piece of the data or of a long
    /// range, or several short ranges that together are not longer than a piece.
    fn piece<F: Front>(&self, disk: &F) -> Range<u64> {
        let (done, total) = (self.done, self.total());
        match self.kind() {
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => {
                // An invalid sector is refused whatever the piece is.
                let offset = self.sector().wrapping_mul(SECTOR).wrapping_add(done);
                done..done + first_piece(offset, total - done, PIECE)
            }
            _ => done..done + segments_piece(self.segments(), done, disk.zero_piece()),
        }
    }

    /// Returns the number of bytes that the next piece moves.
    pub(crate) fn weight<F: Front>(&self, disk: &F) -> u64 {
        let piece = self.piece(disk);
        piece.end - piece.start
    }

    fn sector(&self) -> u64 {
        self.header.sector.get()
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
async fn execute<F: Front>(
    disk: &F,
    ticket: &F::Ticket,
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
            for segment in request.segments() {
                check_segment(segment, discard, disk.size())?;
            }
            let mut result = Ok(());
            // The first error counts, but each range is attempted: the error may be ignored.
            for range in parts(request.segments(), piece) {
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

fn check_writable<F: Front>(disk: &F, config: &Config) -> Result<()> {
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

/// Checks a segment of a discard or write-zeroes request for a disk of `size` bytes. All segments of a
/// request are checked before the first is done.
fn check_segment(segment: &Segment, discard: bool, size: u64) -> Result<()> {
    // 5.2.6.2: unknown flags, and `unmap` for a discard, are unsupported.
    let unknown = segment.flags.get() & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    if unknown || (discard && segment.unmap()) {
        return refuse(ErrorKind::Unsupported, "unknown flags of a discard or write-zeroes request");
    }
    if segment.num_sectors.get() > MAX_ZEROES_SECTORS {
        return refuse(ErrorKind::Invalid, "more sectors than a discard or write-zeroes segment may have");
    }
    in_disk(segment.sector.get(), segment.len(), size).map(|_| ())
}

/// A part of a range to be zeroed or discarded, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// Returns the number of bytes of `segments` to do next, after `done` bytes: as many whole segments as have
/// at most `most` bytes together, or the first piece of a longer one. Longer ones are cut at multiples of
/// `most`.
fn segments_piece(segments: &[Segment], done: u64, most: u64) -> u64 {
    let (mut skip, mut taken) = (done, 0);
    for segment in segments {
        let len = segment.len();
        if skip >= len {
            skip -= len;
            continue;
        }
        // A segment that wraps is refused before it is used.
        let offset = segment.sector.get().wrapping_mul(SECTOR).wrapping_add(skip);
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

/// Returns the parts of checked segments that `piece` of their bytes covers.
fn parts(segments: &[Segment], piece: &Range<u64>) -> impl Iterator<Item = Part> {
    let mut before = 0;
    segments.iter().filter_map(move |segment| {
        let all = before..before + segment.len();
        before = all.end;
        let (start, end) = (all.start.max(piece.start), all.end.min(piece.end));
        (start < end).then(|| Part {
            offset: segment.sector.get() * SECTOR + (start - all.start),
            len: end - start,
            unmap: segment.unmap(),
        })
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
