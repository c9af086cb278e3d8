//! The blocks that the agent has written, and the check that they are still there.
//!
//! For each block the agent keeps two sequence numbers: the last write that the device acknowledged, and
//! the last one that was requested. They differ if a write failed: then both the old and the new content
//! are right.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_agent::pattern::{self, BLOCK, Digest, Fault, Stamp};
use guest_agent::wire::Fields;

use crate::device::{Buffer, Device};

/// The length of sequential reads and writes, in bytes.
const CHUNK: usize = 128 << 10;
const MAX_EXAMPLES: usize = 16;
/// Set in a cell while its block is claimed.
const BUSY: u64 = 1 << 63;
const SEQ_BITS: u32 = 31;
/// The highest sequence number.
pub const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;

/// The expected content of a range of a device.
pub struct Region {
    pub seed: u64,
    offset: u64,
    /// One cell per block: the busy bit, the sequence number requested, and the one acknowledged.
    cells: Vec<AtomicU64>,
    /// The number of jobs that use the region.
    pub users: AtomicUsize,
}

/// A block that nobody else reads or writes until it is released.
pub struct Claim<'a> {
    cell: &'a AtomicU64,
    pub offset: u64,
    pub acknowledged: u64,
    pub asked: u64,
}

impl Claim<'_> {
    /// Releases the block and stores its new sequence numbers.
    pub fn release(self, acknowledged: u64, asked: u64) {
        self.cell.store(pack(acknowledged, asked), Ordering::Release);
    }
}

fn pack(acknowledged: u64, asked: u64) -> u64 {
    asked << SEQ_BITS | acknowledged
}

impl Region {
    pub fn blocks(&self) -> u64 {
        self.cells.len() as u64
    }

    /// Claims the block `index`. Returns `None` if it is claimed already.
    pub fn claim(&self, index: usize) -> Option<Claim<'_>> {
        let cell = self.cells.get(index)?;
        let value = cell.fetch_or(BUSY, Ordering::Acquire);
        (value & BUSY == 0).then(|| Claim {
            cell,
            offset: self.offset + (index * BLOCK) as u64,
            acknowledged: value & MAX_SEQ,
            asked: value >> SEQ_BITS & MAX_SEQ,
        })
    }

    /// A digest of the acknowledged sequence numbers.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        self.cells.iter().for_each(|cell| digest.add(cell.load(Ordering::Acquire) & MAX_SEQ));
        digest.value()
    }

    /// Writes every block of a range with sequence number `seq`, and flushes.
    pub fn fill(device: &Device, offset: u64, length: u64, seed: u64, seq: u64) -> Result<Self, String> {
        device.check_range(offset, length)?;
        for_each_chunk(offset, length, |at, buffer| {
            for (block, offset) in buffer.chunks_exact_mut(BLOCK).zip((at..).step_by(BLOCK)) {
                pattern::write(block, Stamp { offset, seq, seed });
            }
            device.write(at, buffer)
        })?;
        device.sync()?;
        let cells = (0..length / BLOCK as u64).map(|_| AtomicU64::new(pack(seq, seq))).collect();
        Ok(Region { seed, offset, cells, users: AtomicUsize::new(0) })
    }

    /// Reads every block back and compares it. The content found is expected from now on if it is right
    /// or explained by a failed write.
    pub fn verify(&self, device: &Device) -> Result<Report, String> {
        let mut report = Report::default();
        let mut index = 0;
        for_each_chunk(self.offset, self.blocks() * BLOCK as u64, |at, buffer| {
            device.read(at, buffer)?;
            for block in buffer.chunks_exact(BLOCK) {
                let claim = self.claim(index).ok_or("a job runs on this region")?;
                index += 1;
                let found = pattern::read(block, claim.offset, self.seed);
                let (acknowledged, asked) = (claim.acknowledged, claim.asked);
                match report.add(claim.offset, pattern::judge(found, acknowledged, asked), acknowledged) {
                    Some(seq) => claim.release(seq, seq),
                    None => claim.release(acknowledged, asked),
                }
            }
            Ok(())
        })?;
        Ok(report)
    }

    /// Takes over a range with the content that it has. Each block must have been written at least
    /// `oldest` times.
    pub fn adopt(
        device: &Device,
        offset: u64,
        length: u64,
        seed: u64,
        oldest: u64,
    ) -> Result<(Self, Report), String> {
        device.check_range(offset, length)?;
        let mut report = Report::default();
        let mut cells = Vec::new();
        for_each_chunk(offset, length, |at, buffer| {
            device.read(at, buffer)?;
            for (block, offset) in buffer.chunks_exact(BLOCK).zip((at..).step_by(BLOCK)) {
                let judged = pattern::judge(pattern::read(block, offset, seed), oldest, MAX_SEQ);
                let seq = report.add(offset, judged, oldest).unwrap_or(oldest);
                cells.push(AtomicU64::new(pack(seq, seq)));
            }
            Ok(())
        })?;
        Ok((Region { seed, offset, cells, users: AtomicUsize::new(0) }, report))
    }
}

/// Calls `act` with the offset of each part of a range, and a buffer of the part's length.
pub fn for_each_chunk(
    offset: u64,
    length: u64,
    mut act: impl FnMut(u64, &mut Buffer) -> Result<(), String>,
) -> Result<(), String> {
    let mut buffer = Buffer::new(CHUNK);
    let end = offset + length;
    for at in (offset..end).step_by(CHUNK) {
        buffer.shorten(usize::try_from(end - at).unwrap_or(CHUNK));
        act(at, &mut buffer)?;
    }
    Ok(())
}

/// The result of reading back a region.
#[derive(Default)]
pub struct Report {
    blocks: u64,
    oldest: Option<u64>,
    newest: u64,
    digest: Digest,
    faults: BTreeMap<&'static str, u64>,
    pub examples: Vec<String>,
}

impl Report {
    /// Counts one block. Returns its sequence number if it is right.
    fn add(&mut self, offset: u64, judged: Result<u64, Fault>, expected: u64) -> Option<u64> {
        self.blocks += 1;
        match judged {
            Ok(seq) => {
                self.oldest = Some(self.oldest.unwrap_or(seq).min(seq));
                self.newest = self.newest.max(seq);
                self.digest.add(seq);
                Some(seq)
            }
            Err(fault) => {
                *self.faults.entry(fault.kind()).or_default() += 1;
                if self.examples.len() < MAX_EXAMPLES {
                    self.examples.push(format!("offset {offset}: {fault}, expected sequence {expected}"));
                }
                None
            }
        }
    }

    pub fn fields(&self) -> Fields {
        let kinds = ["lost", "stale", "ahead", "torn", "misplaced", "foreign", "corrupt"];
        let fields = Fields::new()
            .with("blocks", self.blocks)
            .with("oldest", self.oldest.unwrap_or_default())
            .with("newest", self.newest)
            .with("digest", self.digest.value());
        kinds.into_iter().fold(fields, |fields, kind| fields.with(kind, self.faults.get(kind).unwrap_or(&0)))
    }
}
