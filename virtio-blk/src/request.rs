//! One request: from a chain to a command on the disk, and from its result to a status (virtio 1.2, 5.2.6).

use block::{Buf, Error, ErrorKind, Result};
use virtio_bindings::virtio_blk::*;
use virtqueue::{Chain, Malformed, Token};

use crate::backend::Backend;
use crate::config::{Config, MAX_ZEROES_SECTORS, MAX_ZEROES_SEGMENTS, SECTOR};

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

/// A request taken apart.
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

/// Does what `request` asks for.
pub(crate) async fn serve<B: Backend>(
    disk: &B,
    ticket: &B::Ticket,
    config: &Config,
    request: Request,
) -> Outcome {
    let room = request.writable.len() as u64;
    match execute(disk, ticket, config, request).await {
        Ok(data) => {
            let all = data == room;
            // A chain of 2^32 bytes does not fit the field; less than the truth is allowed.
            let written = u32::try_from(data + u64::from(all)).unwrap_or(u32::MAX);
            Outcome { status: VIRTIO_BLK_S_OK as u8, written }
        }
        Err(error) => {
            tracing::debug!("a request failed: {error}");
            Outcome { status: status(&error), written: u32::from(room == 0) }
        }
    }
}

/// The answer counts the data bytes written to guest memory.
async fn execute<B: Backend>(disk: &B, ticket: &B::Ticket, config: &Config, request: Request) -> Result<u64> {
    let Request { header, readable, writable } = request;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    // A write is stable at its end only if the cache was write-through from submission on (5.2.6.2).
    let write_through = !config.writeback();
    match kind {
        VIRTIO_BLK_T_IN => {
            let len = writable.len() as u64;
            let offset = data_range(&header, len, disk.size())?;
            disk.read(ticket, offset, writable).await?;
            Ok(len)
        }
        VIRTIO_BLK_T_OUT => {
            check_writable(disk, config)?;
            let offset = data_range(&header, readable.len() as u64, disk.size())?;
            disk.write(ticket, offset, readable).await?;
            if write_through {
                disk.flush(ticket).await?;
            }
            Ok(0)
        }
        VIRTIO_BLK_T_FLUSH => disk.flush(ticket).await.map(|()| 0),
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
            for range in zeroes_ranges(&readable, discard, disk.size())? {
                if discard {
                    disk.discard(ticket, range.offset, range.len).await?;
                } else {
                    disk.write_zeroes(ticket, range.offset, range.len, range.unmap).await?;
                }
            }
            if write_through && !discard {
                disk.flush(ticket).await?;
            }
            Ok(0)
        }
        _ => refuse(ErrorKind::Unsupported, "an unknown request type"),
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
