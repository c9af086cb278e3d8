//! The content of a simulated device as stamps: a block of 4 KiB holds a number, not bytes.
//!
//! A stamp is the number of the block of the disk that the guest wrote, and the version that it wrote there.
//! In a buffer it is 16 bytes at the block's start. Blocks that do not begin with a stamp, such as headers
//! and tables of image formats, are kept as bytes.
//!
//! Nearly everything on a disk lies as it was at first: stamps of version 0, one after the other. Such runs
//! cost four bytes for 64 KiB, and nothing where none of 32 MiB was ever changed. Blocks that are unlike
//! their run have an entry each in a map. So a disk of 256 GiB with a million changed blocks takes some 50
//! MiB.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::Buf;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// The largest device, in bytes: block numbers have 31 bits.
pub const LARGEST: u64 = (1 << 31) * BLOCK - (1 << 20);
/// Blocks of a cell, and cells of a chunk.
const CELL: u32 = 16;
const CHUNK: usize = 512;
/// The first bytes of a block that holds a stamp.
const MAGIC: u64 = 0x7374_616d_702e_21d5;
/// The bit of a cell some of whose blocks are in the map.
const ODD: u32 = 1 << 31;
/// Entries of the map for a block of zeros, and for one of bytes.
const ZERO: u64 = u64::MAX;
const BYTES: u64 = u64::MAX - 1;

/// The content of a block that a guest wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// The number of the block on the guest's disk.
    pub block: u32,
    /// The version: 0 for what was there at first.
    pub version: u32,
}

impl Stamp {
    fn pack(self) -> u64 {
        u64::from(self.version) << 32 | u64::from(self.block)
    }

    fn unpack(word: u64) -> Self {
        Stamp { block: word as u32, version: (word >> 32) as u32 }
    }

    /// Writes the stamp into a buffer, for the block at byte `at`.
    pub fn put(self, buf: &Buf, at: usize) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..].copy_from_slice(&self.pack().to_le_bytes());
        buf.write_at(at, &bytes);
    }

    /// Returns the stamp of the block at byte `at` of a buffer, if it has one.
    pub fn get(buf: &Buf, at: usize) -> Option<Stamp> {
        let mut bytes = [0; 16];
        buf.read_at(at, &mut bytes);
        let word = |part: &[u8]| part.try_into().map_or(0, u64::from_le_bytes);
        (word(&bytes[..8]) == MAGIC).then(|| Stamp::unpack(word(&bytes[8..])))
    }
}

/// The content of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Zeros.
    Zero,
    /// A stamp.
    Stamp(Stamp),
    /// Anything else.
    Bytes(Box<[u8]>),
}

/// Spreads block numbers: they need no protection against attackers, and the map is asked for each request.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(20);
    }
}

type Map<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

/// See the module. Blocks past the end of what it was created with can be used; they hold zeros.
#[derive(Default)]
pub struct Stamps {
    /// The cells that were changed. A cell is the number of its first block plus one, or 0 for zeros.
    chunks: Vec<Option<Box<[u32; CHUNK]>>>,
    /// Blocks that hold their own number and version 0 at first; the others hold zeros.
    original: u32,
    odd: Map<u64>,
    bytes: Map<Box<[u8]>>,
    /// The content before each change since the last [`Stamps::settle`], if that is kept.
    undo: Option<Vec<(u32, Content)>>,
}

impl Stamps {
    /// Creates the content of a device whose first bytes, this many, hold version 0 of what belongs there.
    pub fn new(original: u64) -> Self {
        Stamps { original: (original / BLOCK) as u32, ..Stamps::default() }
    }

    /// Has changes be kept, so that [`Stamps::undo`] can take them back.
    pub fn keep_undo(&mut self) {
        self.undo.get_or_insert_default();
    }

    /// Makes all changes until now final.
    pub fn settle(&mut self) {
        if let Some(undo) = &mut self.undo {
            undo.clear();
        }
    }

    /// Takes back all changes since the last [`Stamps::settle`], the last one first.
    pub fn undo(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        for (block, content) in undo.into_iter().rev() {
            self.set(block, content);
        }
        self.undo = Some(Vec::new());
    }

    fn untouched(&self, cell: u32) -> u32 {
        let first = cell * CELL;
        if first + CELL <= self.original { first + 1 } else { 0 }
    }

    fn cell(&self, cell: u32) -> u32 {
        match self.chunks.get(cell as usize / CHUNK) {
            Some(Some(cells)) => cells[cell as usize % CHUNK],
            _ => self.untouched(cell),
        }
    }

    fn set_cell(&mut self, cell: u32, code: u32) {
        let chunk = cell as usize / CHUNK;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        if self.chunks[chunk].is_none() {
            let first = (chunk * CHUNK) as u32;
            let mut cells = Box::new([0; CHUNK]);
            for (index, place) in cells.iter_mut().enumerate() {
                *place = self.untouched(first + index as u32);
            }
            self.chunks[chunk] = Some(cells);
        }
        if let Some(cells) = &mut self.chunks[chunk] {
            cells[cell as usize % CHUNK] = code;
        }
    }

    /// The entry that a block would have if it were in the map.
    fn word(&self, block: u32) -> u64 {
        let code = self.cell(block / CELL);
        if code & ODD != 0
            && let Some(word) = self.odd.get(&block)
        {
            return *word;
        }
        base(code, block)
    }

    /// Returns the content of a block.
    pub fn get(&self, block: u32) -> Content {
        match self.word(block) {
            ZERO => Content::Zero,
            BYTES => self.bytes.get(&block).map_or(Content::Zero, |bytes| Content::Bytes(bytes.clone())),
            word => Content::Stamp(Stamp::unpack(word)),
        }
    }

    /// Sets the content of a block.
    pub fn set(&mut self, block: u32, content: Content) {
        if self.undo.is_some() {
            let old = self.get(block);
            if let Some(undo) = &mut self.undo {
                undo.push((block, old));
            }
        }
        let word = match content {
            Content::Zero => ZERO,
            Content::Stamp(stamp) => stamp.pack(),
            Content::Bytes(bytes) => {
                self.bytes.insert(block, bytes);
                BYTES
            }
        };
        let code = self.cell(block / CELL);
        let before = match base(code, block) == word {
            true if code & ODD != 0 => self.odd.remove(&block),
            true => None,
            false => {
                if code & ODD == 0 {
                    self.set_cell(block / CELL, code | ODD);
                }
                self.odd.insert(block, word)
            }
        };
        if before == Some(BYTES) && word != BYTES {
            self.bytes.remove(&block);
        }
    }

    /// Sets a whole cell: to zeros, or to a run that begins with this block, in version 0.
    fn set_run(&mut self, cell: u32, first: Option<u32>) {
        if self.undo.is_some() {
            for index in 0..CELL {
                let stamp = |first: u32| Content::Stamp(Stamp { block: first + index, version: 0 });
                self.set(cell * CELL + index, first.map_or(Content::Zero, stamp));
            }
            return;
        }
        let code = self.cell(cell);
        if code & ODD != 0 {
            for block in cell * CELL..(cell + 1) * CELL {
                if self.odd.remove(&block) == Some(BYTES) {
                    self.bytes.remove(&block);
                }
            }
        }
        let new = first.map_or(0, |first| first + 1);
        if new != code {
            self.set_cell(cell, new);
        }
    }

    /// Makes whole blocks zeros.
    pub fn clear(&mut self, first: u32, count: u32) {
        let (mut block, end) = (first, first + count);
        while block < end {
            if block.is_multiple_of(CELL) && end - block >= CELL {
                self.set_run(block / CELL, None);
                block += CELL;
            } else {
                self.set(block, Content::Zero);
                block += 1;
            }
        }
    }

    /// Fills a buffer of whole blocks.
    pub fn read(&self, first: u32, buf: &Buf) {
        const EMPTY: [u8; BLOCK as usize] = [0; BLOCK as usize];
        for (index, at) in (0..buf.len()).step_by(BLOCK as usize).enumerate() {
            let block = first + index as u32;
            match self.word(block) {
                ZERO => buf.write_at(at, &EMPTY),
                BYTES => buf.write_at(at, self.bytes.get(&block).map_or(&EMPTY[..], |bytes| bytes)),
                word => Stamp::unpack(word).put(buf, at),
            }
        }
    }

    /// Returns how many blocks of a buffer are unlike those from `first` on.
    pub fn differences(&self, first: u32, buf: &Buf) -> u64 {
        let mut count = 0;
        for (index, at) in (0..buf.len()).step_by(BLOCK as usize).enumerate() {
            let block = first + index as u32;
            let same = match (self.word(block), Stamp::get(buf, at)) {
                (ZERO | BYTES, _) => content(buf, at) == self.get(block),
                (word, found) => found.is_some_and(|found| found.pack() == word),
            };
            count += u64::from(!same);
        }
        count
    }

    /// Stores a buffer of whole blocks.
    pub fn write(&mut self, first: u32, buf: &Buf) {
        let count = (buf.len() as u64 / BLOCK) as u32;
        let mut index = 0;
        while index < count {
            let (block, at) = (first + index, index as usize * BLOCK as usize);
            if block.is_multiple_of(CELL)
                && count - index >= CELL
                && let Some(run) = run(buf, at)
            {
                self.set_run(block / CELL, Some(run));
                index += CELL;
                continue;
            }
            self.set(block, content(buf, at));
            index += 1;
        }
    }

    /// Returns for how many blocks from `first` on, at most `count`, there is data, or else none.
    pub fn map(&self, first: u32, count: u32) -> (u32, bool) {
        let data = self.cell(first / CELL) != 0;
        let (mut block, end) = ((first / CELL + 1) * CELL, first + count);
        while block < end && (self.cell(block / CELL) != 0) == data {
            block += CELL;
        }
        (block.min(end) - first, data)
    }
}

/// The entry of a block that its cell means.
fn base(code: u32, block: u32) -> u64 {
    match code & !ODD {
        0 => ZERO,
        first => Stamp { block: first - 1 + block % CELL, version: 0 }.pack(),
    }
}

/// The first block of a cell's run, if the buffer has one at byte `at`.
fn run(buf: &Buf, at: usize) -> Option<u32> {
    let first = Stamp::get(buf, at).filter(|stamp| stamp.version == 0)?.block;
    let follows = |index: u32| {
        let stamp = Stamp::get(buf, at + index as usize * BLOCK as usize);
        stamp == Some(Stamp { block: first + index, version: 0 })
    };
    (1..CELL).all(follows).then_some(first)
}

/// The content of the block at byte `at` of a buffer.
fn content(buf: &Buf, at: usize) -> Content {
    if let Some(stamp) = Stamp::get(buf, at) {
        return Content::Stamp(stamp);
    }
    let mut bytes = vec![0; BLOCK as usize].into_boxed_slice();
    buf.read_at(at, &mut bytes);
    if crate::buf::is_zero(&bytes) { Content::Zero } else { Content::Bytes(bytes) }
}

#[cfg(test)]
#[path = "stamps_tests.rs"]
mod tests;
