//! The content that the guest writes into its blocks. It allows a reader to tell every kind of damage
//! apart.
//!
//! Each 512-byte sector of a 4 KiB block carries its own device offset, the block's sequence number and
//! the workload's seed, and fills the rest with a pseudo-random stream keyed by these three. A sector is
//! therefore its own checksum: it is valid only if regenerating it gives the same 512 bytes. Each sector
//! has its own stamp because a disk guarantees atomicity only for one sector, and a torn block must be
//! told from a corrupt one.

use std::fmt;

/// The unit of every workload, in bytes.
pub const BLOCK: usize = 4096;
/// The unit that a disk writes atomically, in bytes.
pub const SECTOR: usize = 512;

const MAGIC: u64 = u64::from_le_bytes(*b"MRsector");
const HEADER_WORDS: usize = 4;

/// The identity of one write of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The block's offset on the device, in bytes.
    pub offset: u64,
    /// The number of this write among the writes of the block, counted from 1.
    pub seq: u64,
    /// The seed of the workload that wrote it.
    pub seed: u64,
}

/// The content of a block that was read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// One whole write of this block by this workload.
    Written {
        /// Its sequence number.
        seq: u64,
    },
    /// Only zero bytes.
    Zeros,
    /// Sectors of more than one write (or of a write and of zeros), each intact.
    Torn,
    /// An intact sector that was written for another place.
    Misplaced {
        /// The device offset it was written for, in bytes.
        from: u64,
    },
    /// An intact sector that another workload wrote.
    Foreign {
        /// The seed of that workload.
        seed: u64,
    },
    /// A sector with unknown content.
    Corrupt,
}

/// The reason why a block is not as expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Zeros although a write was acknowledged.
    Lost,
    /// An older write than the last acknowledged one.
    Stale {
        /// The sequence number that was read.
        found: u64,
    },
    /// A newer write than any that was requested.
    Ahead {
        /// The sequence number that was read.
        found: u64,
    },
    /// See [`Found::Torn`].
    Torn,
    /// See [`Found::Misplaced`].
    Misplaced {
        /// The device offset it was written for, in bytes.
        from: u64,
    },
    /// See [`Found::Foreign`].
    Foreign {
        /// The other workload's seed.
        seed: u64,
    },
    /// See [`Found::Corrupt`].
    Corrupt,
}

impl Fault {
    /// The fault's name in reports, one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Lost => "lost",
            Fault::Stale { .. } => "stale",
            Fault::Ahead { .. } => "ahead",
            Fault::Torn => "torn",
            Fault::Misplaced { .. } => "misplaced",
            Fault::Foreign { .. } => "foreign",
            Fault::Corrupt => "corrupt",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Fault::Stale { found } | Fault::Ahead { found } => write!(f, " (sequence {found})"),
            Fault::Misplaced { from } => write!(f, " (written for offset {from})"),
            Fault::Foreign { seed } => write!(f, " (seed {seed})"),
            Fault::Lost | Fault::Torn | Fault::Corrupt => Ok(()),
        }
    }
}

/// Fills one block with the content of `stamp`. Panics unless `block` is [`BLOCK`] bytes long: callers
/// slice constant sizes.
pub fn write(block: &mut [u8], stamp: Stamp) {
    assert_eq!(block.len(), BLOCK);
    for (index, sector) in block.as_chunks_mut::<SECTOR>().0.iter_mut().enumerate() {
        let offset = stamp.offset.wrapping_add((index * SECTOR) as u64);
        write_sector(sector, Stamp { offset, ..stamp });
    }
}

/// Determines the content of `block`, which was read at device offset `offset` in a region of workload
/// `seed`. Panics unless `block` is [`BLOCK`] bytes long.
pub fn read(block: &[u8], offset: u64, seed: u64) -> Found {
    assert_eq!(block.len(), BLOCK);
    let mut first = None;
    let mut torn = false;
    for (index, sector) in block.as_chunks::<SECTOR>().0.iter().enumerate() {
        let seq = match read_sector(sector) {
            // A sequence number of zero stands for zeros: writes count from 1.
            Sector::Zeros => 0,
            Sector::Corrupt => return Found::Corrupt,
            Sector::Intact(stamp) if stamp.seed != seed => {
                return Found::Foreign { seed: stamp.seed };
            }
            Sector::Intact(stamp) if stamp.offset != offset.wrapping_add((index * SECTOR) as u64) => {
                return Found::Misplaced { from: stamp.offset };
            }
            Sector::Intact(stamp) => stamp.seq,
        };
        torn |= *first.get_or_insert(seq) != seq;
    }
    match first {
        _ if torn => Found::Torn,
        None | Some(0) => Found::Zeros,
        Some(seq) => Found::Written { seq },
    }
}

/// Compares `found` with the expected sequence numbers: from `oldest` (the last acknowledged write) to
/// `newest` (the last one requested). Returns the sequence number found, 0 for zeros.
pub fn judge(found: Found, oldest: u64, newest: u64) -> Result<u64, Fault> {
    match found {
        Found::Written { seq } if seq < oldest => Err(Fault::Stale { found: seq }),
        Found::Written { seq } if seq > newest => Err(Fault::Ahead { found: seq }),
        Found::Written { seq } => Ok(seq),
        Found::Zeros if oldest > 0 => Err(Fault::Lost),
        Found::Zeros => Ok(0),
        Found::Torn => Err(Fault::Torn),
        Found::Misplaced { from } => Err(Fault::Misplaced { from }),
        Found::Foreign { seed } => Err(Fault::Foreign { seed }),
        Found::Corrupt => Err(Fault::Corrupt),
    }
}

/// One round of SplitMix64: good enough to make different bytes, and cheap enough for an emulated CPU. The
/// crate `seeded` has it too; the agent keeps its own, because the cache of its binary has the files of this
/// crate as its key.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A digest of a region's sequence numbers, in the order of their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest of nothing.
    pub const fn new() -> Self {
        Digest(0)
    }

    /// Adds the next block's sequence number.
    pub fn add(&mut self, seq: u64) {
        self.0 = mix(self.0 ^ seq).rotate_left(1);
    }

    /// The digest of everything added so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

enum Sector {
    Intact(Stamp),
    Zeros,
    Corrupt,
}

fn write_sector(sector: &mut [u8; SECTOR], stamp: Stamp) {
    let (words, _) = sector.as_chunks_mut::<8>();
    for (word, value) in words.iter_mut().zip([MAGIC, stamp.offset, stamp.seq, stamp.seed]) {
        *word = value.to_le_bytes();
    }
    let mut state = mix(stamp.offset ^ mix(stamp.seq ^ mix(stamp.seed)));
    for word in &mut words[HEADER_WORDS..] {
        state = mix(state);
        *word = state.to_le_bytes();
    }
}

fn read_sector(sector: &[u8; SECTOR]) -> Sector {
    let (words, _) = sector.as_chunks::<8>();
    let word = |index: usize| u64::from_le_bytes(words[index]);
    let stamp = Stamp { offset: word(1), seq: word(2), seed: word(3) };
    if word(0) == MAGIC && stamp.seq > 0 {
        let mut expected = [0; SECTOR];
        write_sector(&mut expected, stamp);
        if expected == *sector {
            return Sector::Intact(stamp);
        }
    } else if *sector == [0; SECTOR] {
        return Sector::Zeros;
    }
    Sector::Corrupt
}

/// A pixel of the pattern that a guest draws on its screen: red in bits 16 to 23, green in 8 to 15, blue
/// below. Every bit of it changes from pixel to pixel, and with the seed.
pub const fn pixel(seed: u32, x: u32, y: u32) -> u32 {
    let mixed = (x ^ (y << 16)).wrapping_add(seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35) >> 8
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
