//! Compressed clusters (QEMU `docs/interop/qcow2.txt`, "Compressed Clusters Descriptor").
//!
//! They are only read: a write to one goes to a new, uncompressed cluster. A descriptor gives the byte at
//! which the compressed data begins, and the 512-byte sector in which it ends; several clusters may share
//! a host cluster, and one may begin in one host cluster and end in the next. So the compressed bytes are
//! bounded by the descriptor and the decompressed ones by the cluster size, whatever the image says.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;

use flate2::{Decompress, FlushDecompress};

use super::Qcow2;
use super::header::Header;
use crate::format::Compressed;
use crate::storage::ranges::RangeLocks;
use crate::{Buf, Result};

/// Decompressed clusters that are kept, in bytes; always at least one cluster.
const CACHE: u64 = 2 << 20;
/// The largest cluster that is decompressed on the disk's own thread, in bytes; larger ones go to a
/// worker.
const INLINE: u64 = 16 << 10;
/// The largest zstd window that is accepted. Writers use no more than the cluster size, or, without
/// knowing that, the 2 MiB of zstd's default level.
const MAX_ZSTD_WINDOW: u64 = 8 << 20;

impl Compressed {
    /// Reads bits 0-61 of an L2 entry.
    pub(crate) fn parse(word: u64, cluster_bits: u32) -> Compressed {
        // The split moves with the cluster size: an offset of 62 - (cluster_bits - 8) bits.
        let bits = 62 - (cluster_bits - 8);
        let offset = word & ((1 << bits) - 1);
        let sectors = (word >> bits) & ((1 << (cluster_bits - 8)) - 1);
        Compressed { offset, len: (sectors + 1) * 512 - offset % 512 }
    }

    /// The host clusters that it touches, as a range of bytes of the file.
    pub(crate) fn clusters(&self, header: &Header) -> std::ops::Range<u64> {
        let cluster = header.cluster_size();
        self.offset / cluster * cluster..(self.offset + self.len).next_multiple_of(cluster)
    }
}

/// The last decompressed clusters of an image.
pub(super) struct Unpacked {
    recent: RefCell<VecDeque<(Compressed, Rc<[u8]>)>>,
    /// Serializes the reads of a cluster: those that waited find it in the cache.
    locks: Rc<RangeLocks>,
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { recent: RefCell::default(), locks: RangeLocks::new() }
    }
}

impl Unpacked {
    /// Returns a cluster if it is in memory. It cannot be stale: no compressed cluster is ever written, so
    /// none changes in its place.
    fn find(&self, packed: Compressed) -> Option<Rc<[u8]>> {
        self.recent.borrow().iter().find(|(at, _)| *at == packed).map(|(_, bytes)| bytes.clone())
    }

    fn keep(&self, packed: Compressed, bytes: Rc<[u8]>) {
        let mut recent = self.recent.borrow_mut();
        while !recent.is_empty() && (recent.len() as u64 + 1) * bytes.len() as u64 > CACHE {
            recent.pop_front();
        }
        recent.push_back((packed, bytes));
    }
}

impl Qcow2 {
    /// Reads from inside of a compressed cluster that a map returned.
    pub(crate) async fn read_compressed(&self, packed: Compressed, within: u64, part: Buf) -> Result<()> {
        let bytes = self.unpacked(packed).await?;
        let within = within as usize;
        part.copy_from(&bytes[within..within + part.len()]);
        Ok(())
    }

    async fn unpacked(&self, packed: Compressed) -> Result<Rc<[u8]>> {
        let _one = self.unpacked.locks.lock(packed.offset..packed.offset + 1).await;
        if let Some(bytes) = self.unpacked.find(packed) {
            return Ok(bytes);
        }
        if packed.offset >= self.storage.len() {
            let text = format_args!("a compressed cluster at {:#x} lies past the end", packed.offset);
            return Err(self.corrupt(text));
        }
        let buf = Buf::new(packed.len as usize);
        // A table may claim more than the file has; missing bytes read as zeros.
        let inside = packed.len.min(self.storage.len() - packed.offset) as usize;
        self.storage.read(packed.offset, buf.slice(0..inside)).await?;
        let (from, len, zstd) = (buf.to_vec(), self.cluster_size(), self.header.zstd);
        let work = move || if zstd { unzstd(&from, len as usize) } else { inflate(&from, len as usize) };
        let bytes = if len > INLINE { executor::unblock(work).await } else { work() };
        let bytes: Rc<[u8]> = bytes
            .ok_or_else(|| {
                self.corrupt(format_args!(
                    "the compressed cluster at {:#x} does not decompress",
                    packed.offset
                ))
            })?
            .into();
        self.unpacked.keep(packed, bytes.clone());
        Ok(bytes)
    }
}

/// Inflates raw deflate data until one cluster is full. Ignores what follows in the last sector.
fn inflate(from: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let mut state = Decompress::new(false);
    state.decompress(from, &mut out, FlushDecompress::Finish).ok()?;
    (state.total_out() == len as u64).then_some(out)
}

/// Decompresses one zstd frame, as [`inflate`].
fn unzstd(from: &[u8], len: usize) -> Option<Vec<u8>> {
    if zstd_window(from)? > MAX_ZSTD_WINDOW {
        return None;
    }
    let mut out = vec![0; len];
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(from).ok()?;
    decoder.read_exact(&mut out).ok()?;
    Some(out)
}

/// The memory that a zstd frame asks for, in bytes (RFC 8878, 3.1.1.1): the decoder allocates it at once.
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let descriptor = *frame.get(4)?;
    let single_segment = descriptor >> 5 & 1 == 1;
    if !single_segment {
        let window = *frame.get(5)?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The window of a single segment is its content; the size comes after the ID of a dictionary.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let width = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let bytes = frame.get(at..at + width)?;
    Some(bytes.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)))
}

#[cfg(test)]
#[path = "compressed_tests.rs"]
mod tests;
