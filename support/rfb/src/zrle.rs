//! ZRLE, the compressed encoding (RFC 6143, section 7.7.6): tiles of 64 pixels, each in the form that takes
//! the fewest bytes, in one zlib stream for the whole connection.

use flate2::{Compress, Compression, FlushCompress};

use crate::pixel::Converter;
use crate::tiles::Rect;

/// The side of a tile of ZRLE in pixels.
const SIDE: usize = 64;
/// The most colours of a palette with run lengths.
const MAX_PALETTE: usize = 127;
/// The most colours of a palette of packed pixels.
const MAX_PACKED: usize = 16;
/// Room that is added to the output of zlib at a time, in bytes.
const ROOM: usize = 32 << 10;

/// The encoder of one connection.
pub(crate) struct Zrle {
    zlib: Compress,
    tile: Tile,
    /// What goes into zlib for a rectangle.
    plain: Vec<u8>,
}

impl Zrle {
    pub(crate) fn new() -> Self {
        // Faster levels send more, and slower ones gain a few percent for several times the processor time.
        Zrle { zlib: Compress::new(Compression::new(2), true), tile: Tile::default(), plain: Vec::new() }
    }

    /// Appends a rectangle's pixels: the length of the compressed data, and these.
    pub(crate) fn append(&mut self, converter: &Converter, rect: Rect, pixels: &[u32], to: &mut Vec<u8>) {
        let (width, height) = (usize::from(rect.width), usize::from(rect.height));
        self.plain.clear();
        for y in (0..height).step_by(SIDE) {
            for x in (0..width).step_by(SIDE) {
                let lines = pixels[y * width..].chunks(width).take(SIDE.min(height - y));
                let lines = lines.map(|line| &line[x..(x + SIDE).min(width)]);
                self.tile.take(lines.flatten().map(|pixel| converter.convert(*pixel)));
                self.tile.append(SIDE.min(width - x), converter, &mut self.plain);
            }
        }
        let start = to.len();
        to.extend([0; 4]);
        self.compress(to);
        let len = (to.len() - start - 4) as u32;
        to[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Appends what zlib makes of `plain`, complete.
    fn compress(&mut self, to: &mut Vec<u8>) {
        let mut at = 0;
        loop {
            to.reserve(ROOM);
            let before = self.zlib.total_in();
            // It fails only for a stream that was used wrongly, which the client would find too.
            let result = self.zlib.compress_vec(&self.plain[at..], to, FlushCompress::Sync);
            at += (self.zlib.total_in() - before) as usize;
            if result.is_err() || (at == self.plain.len() && to.len() < to.capacity()) {
                return;
            }
        }
    }
}

/// A tile that is being encoded.
#[derive(Default)]
struct Tile {
    /// Converted pixels.
    pixels: Vec<u32>,
    palette: Palette,
    /// Runs of one colour: their number, and how many of them are one pixel long.
    runs: usize,
    singles: usize,
}

impl Tile {
    fn take(&mut self, pixels: impl Iterator<Item = u32>) {
        self.pixels.clear();
        self.pixels.extend(pixels);
        self.palette.clear();
        (self.runs, self.singles) = (0, 0);
        for run in self.pixels.chunk_by(|a, b| a == b) {
            self.runs += 1;
            self.singles += usize::from(run.len() == 1);
            self.palette.insert(run[0]);
        }
    }

    fn append(&self, width: usize, converter: &Converter, to: &mut Vec<u8>) {
        let (colours, pixel) = (self.palette.colours.len(), converter.compressed_len());
        let bits = match colours {
            0..=2 => 1,
            3..=4 => 2,
            _ => 4,
        };
        let none = usize::MAX;
        let raw = self.pixels.len() * pixel;
        // Runs longer than 255 take more, but there are few of them.
        let plain_runs = self.runs * (pixel + 1);
        let has_palette = !self.palette.overflown;
        let palette_runs = if has_palette { colours * pixel + 2 * self.runs - self.singles } else { none };
        let packed = match has_palette && colours <= MAX_PACKED {
            true => colours * pixel + (self.pixels.len() / width) * (width * bits).div_ceil(8),
            false => none,
        };
        let best = raw.min(plain_runs).min(palette_runs).min(packed);
        let append = |colour: u32, to: &mut Vec<u8>| converter.append_compressed(colour, to);
        if has_palette && colours == 1 {
            to.push(1);
            append(self.pixels[0], to);
        } else if best == packed {
            to.push(colours as u8);
            self.palette.colours.iter().for_each(|colour| append(*colour, to));
            self.append_packed(width, bits, to);
        } else if best == palette_runs {
            to.push(128 + colours as u8);
            self.palette.colours.iter().for_each(|colour| append(*colour, to));
            for run in self.pixels.chunk_by(|a, b| a == b) {
                let index = self.palette.index(run[0]);
                if run.len() == 1 {
                    to.push(index);
                } else {
                    to.push(128 + index);
                    append_length(run.len(), to);
                }
            }
        } else if best == plain_runs {
            to.push(128);
            for run in self.pixels.chunk_by(|a, b| a == b) {
                append(run[0], to);
                append_length(run.len(), to);
            }
        } else {
            to.push(0);
            self.pixels.iter().for_each(|colour| append(*colour, to));
        }
    }

    /// Appends the indices of the pixels, the leftmost in the highest bits; each line begins with a byte.
    fn append_packed(&self, width: usize, bits: usize, to: &mut Vec<u8>) {
        for line in self.pixels.chunks(width) {
            for some in line.chunks(8 / bits) {
                let mut byte = 0;
                for (n, colour) in some.iter().enumerate() {
                    byte |= self.palette.index(*colour) << (8 - bits * (n + 1));
                }
                to.push(byte);
            }
        }
    }
}

/// Appends the length of a run: bytes whose sum is one less than it; only the last one is not 255.
fn append_length(len: usize, to: &mut Vec<u8>) {
    let rest = len - 1;
    to.resize(to.len() + rest / 255, 255);
    to.push((rest % 255) as u8);
}

/// The size of the hash table of a palette: a power of two, more than twice as large as a palette.
const SLOTS: usize = 512;

/// The colours of a tile in the order in which they were met.
struct Palette {
    colours: Vec<u32>,
    /// True if there are more than a palette can have.
    overflown: bool,
    /// Positions in `colours` plus 1, by a hash of the colour; 0 is free.
    slots: [u8; SLOTS],
}

impl Default for Palette {
    fn default() -> Self {
        Palette { colours: Vec::with_capacity(MAX_PALETTE), overflown: false, slots: [0; SLOTS] }
    }
}

impl Palette {
    fn clear(&mut self) {
        self.colours.clear();
        self.overflown = false;
        self.slots.fill(0);
    }

    /// Returns the slot of a colour, or the free one where it would be.
    fn slot(&self, colour: u32) -> usize {
        let mut slot = (colour.wrapping_mul(0x9e37_79b1) >> (32 - SLOTS.ilog2())) as usize;
        // The table is never full.
        while self.slots[slot] != 0 && self.colours[usize::from(self.slots[slot] - 1)] != colour {
            slot = (slot + 1) % SLOTS;
        }
        slot
    }

    fn insert(&mut self, colour: u32) {
        if self.overflown {
            return;
        }
        let slot = self.slot(colour);
        if self.slots[slot] == 0 {
            if self.colours.len() == MAX_PALETTE {
                self.overflown = true;
                return;
            }
            self.colours.push(colour);
            self.slots[slot] = self.colours.len() as u8;
        }
    }

    /// Returns the position of a colour of the palette.
    fn index(&self, colour: u32) -> u8 {
        self.slots[self.slot(colour)].saturating_sub(1)
    }
}

#[cfg(test)]
#[path = "zrle_tests.rs"]
mod tests;
