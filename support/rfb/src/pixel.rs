//! Pixel formats of clients (RFC 6143, section 7.4).

/// The form in which a client wants its pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// Bits of a pixel: 8, 16 or 32.
    bits: u8,
    depth: u8,
    big_endian: bool,
    /// False if pixels are indices of a colour map.
    true_colour: bool,
    /// The largest values of red, green and blue.
    max: [u16; 3],
    /// The shifts of red, green and blue to the left.
    shift: [u8; 3],
}

impl Format {
    /// The number of bytes on the wire.
    pub(crate) const LEN: usize = 16;

    /// The format of [`Screen::read_line`](crate::Screen::read_line), which every client gets that requests
    /// no other.
    pub(crate) const OURS: Format = Format {
        bits: 32,
        depth: 24,
        big_endian: false,
        true_colour: true,
        max: [255; 3],
        shift: [16, 8, 0],
    };

    /// The colours of the map for clients with one: three bits of red and green, two of blue.
    const MAPPED: Format =
        Format { bits: 8, depth: 8, big_endian: false, true_colour: false, max: [7, 7, 3], shift: [5, 2, 0] };

    /// Parses a format. `None` for one that no pixel can have; with a colour map, a pixel needs 8 bits.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let [bits, depth, big_endian, true_colour, r0, r1, g0, g1, b0, b1, rs, gs, bs, ..] = *bytes;
        if true_colour == 0 {
            return (bits == 8).then_some(Format { depth, ..Self::MAPPED });
        }
        let format = Format {
            bits,
            depth,
            big_endian: big_endian != 0,
            true_colour: true,
            max: [[r0, r1], [g0, g1], [b0, b1]].map(u16::from_be_bytes),
            shift: [rs, gs, bs],
        };
        let fits = |(max, shift): (&u16, &u8)| {
            u32::from(*shift) < u32::from(bits) && u64::from(*max) << shift < 1 << bits
        };
        let known = matches!(bits, 8 | 16 | 32) && format.max.iter().zip(&format.shift).all(fits);
        known.then_some(format)
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&[self.bits, self.depth, self.big_endian.into(), self.true_colour.into()]);
        for (to, max) in bytes[4..10].chunks_exact_mut(2).zip(self.max) {
            to.copy_from_slice(&max.to_be_bytes());
        }
        bytes[10..13].copy_from_slice(&self.shift);
        bytes
    }

    /// Returns true if pixels are indices of [`colour_map`].
    pub(crate) fn is_mapped(&self) -> bool {
        !self.true_colour
    }
}

/// Returns the colour map for clients with one: red, green and blue of each of the 256 pixels, from 0 to
/// 65,535.
pub(crate) fn colour_map() -> impl Iterator<Item = [u16; 3]> {
    let part = |pixel: u16, n: usize| {
        let (max, shift) = (Format::MAPPED.max[n], Format::MAPPED.shift[n]);
        // At most 7 times 65,535 / 3.
        (u32::from(pixel >> shift & max) * 65_535 / u32::from(max)) as u16
    };
    (0..256).map(move |pixel| [0, 1, 2].map(|n| part(pixel, n)))
}

/// Converts pixels to a client's format. What it returns has the bytes of the wire, the first one lowest.
pub(crate) struct Converter {
    format: Format,
    /// The share of each value of red, green and blue in a pixel. `None` if nothing is to be converted.
    tables: Option<Box<[[u32; 256]; 3]>>,
    compressed: Compressed,
}

/// The bytes of a pixel that ZRLE sends (`CPIXEL`, RFC 6143, section 7.7.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compressed {
    All,
    FirstThree,
    LastThree,
}

impl Converter {
    pub(crate) fn new(format: Format) -> Self {
        let on_the_wire = |value: u32| match format.bits {
            16 if format.big_endian => u32::from((value as u16).swap_bytes()),
            32 if format.big_endian => value.swap_bytes(),
            _ => value,
        };
        let share = |n: usize, value: u32| {
            let max = u32::from(format.max[n]);
            on_the_wire(((value * max + 127) / 255) << format.shift[n])
        };
        let ours = Format { depth: format.depth, ..Format::OURS };
        let tables = (format != ours)
            .then(|| Box::new([0, 1, 2].map(|n| std::array::from_fn(|value| share(n, value as u32)))));
        let used = (0..3).fold(0, |used, n| used | share(n, 255)).to_le_bytes();
        let compressed = match format {
            Format { bits: 32, depth: ..=24, .. } if used[3] == 0 => Compressed::FirstThree,
            Format { bits: 32, depth: ..=24, .. } if used[0] == 0 => Compressed::LastThree,
            _ => Compressed::All,
        };
        Converter { format, tables, compressed }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Returns a pixel of the screen in the client's format.
    pub(crate) fn convert(&self, pixel: u32) -> u32 {
        match &self.tables {
            None => pixel,
            Some(tables) => {
                let [blue, green, red, _] = pixel.to_le_bytes();
                tables[0][usize::from(red)] | tables[1][usize::from(green)] | tables[2][usize::from(blue)]
            }
        }
    }

    /// Appends pixels of the screen as the client wants them.
    pub(crate) fn append(&self, pixels: &[u32], to: &mut Vec<u8>) {
        match self.format.bits {
            8 => to.extend(pixels.iter().map(|pixel| self.convert(*pixel) as u8)),
            16 => to.extend(pixels.iter().flat_map(|pixel| (self.convert(*pixel) as u16).to_le_bytes())),
            _ => {
                let start = to.len();
                to.resize(start + 4 * pixels.len(), 0);
                for (to, pixel) in to[start..].chunks_exact_mut(4).zip(pixels) {
                    to.copy_from_slice(&self.convert(*pixel).to_le_bytes());
                }
            }
        }
    }

    /// Returns the number of bytes of a pixel in ZRLE.
    pub(crate) fn compressed_len(&self) -> usize {
        match self.compressed {
            Compressed::All => usize::from(self.format.bits / 8),
            Compressed::FirstThree | Compressed::LastThree => 3,
        }
    }

    /// Appends a pixel that was converted already as ZRLE sends it.
    pub(crate) fn append_compressed(&self, converted: u32, to: &mut Vec<u8>) {
        let bytes = converted.to_le_bytes();
        to.extend(match self.compressed {
            Compressed::All => &bytes[..usize::from(self.format.bits / 8)],
            Compressed::FirstThree => &bytes[..3],
            Compressed::LastThree => &bytes[1..],
        });
    }
}

#[cfg(test)]
#[path = "pixel_tests.rs"]
mod tests;
