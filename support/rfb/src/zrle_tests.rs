use flate2::{Decompress, FlushDecompress};

use super::*;
use crate::pixel::Format;

/// A decoder by the specification, for pixels of our own format.
struct Decoder {
    zlib: Decompress,
    /// The forms of tiles that were seen.
    forms: Vec<u8>,
}

impl Decoder {
    fn rect(&mut self, rect: Rect, bytes: &[u8]) -> Vec<u32> {
        let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(len, bytes.len() - 4);
        let mut plain = Vec::with_capacity(4 << 20);
        self.zlib.decompress_vec(&bytes[4..], &mut plain, FlushDecompress::Sync).unwrap();
        let mut bytes = plain.into_iter();
        let (width, height) = (usize::from(rect.width), usize::from(rect.height));
        let mut pixels = vec![0xdead_beef; width * height];
        for y in (0..height).step_by(SIDE) {
            for x in (0..width).step_by(SIDE) {
                let (columns, lines) = (SIDE.min(width - x), SIDE.min(height - y));
                let tile = self.tile(columns, lines, &mut bytes);
                for (line, pixel) in tile.chunks(columns).zip(0..) {
                    pixels[(y + pixel) * width + x..][..columns].copy_from_slice(line);
                }
            }
        }
        assert_eq!(bytes.next(), None);
        pixels
    }

    fn tile(&mut self, columns: usize, lines: usize, bytes: &mut impl Iterator<Item = u8>) -> Vec<u32> {
        let form = bytes.next().unwrap();
        self.forms.push(form);
        let mut byte = move || bytes.next().unwrap();
        let colour = |byte: &mut dyn FnMut() -> u8| u32::from_le_bytes([byte(), byte(), byte(), 0]);
        let length = |byte: &mut dyn FnMut() -> u8| {
            let mut len = 1;
            loop {
                let more = byte();
                len += usize::from(more);
                if more != 255 {
                    return len;
                }
            }
        };
        let total = columns * lines;
        let mut tile = Vec::new();
        match form {
            0 => tile.extend((0..total).map(|_| colour(&mut byte))),
            1 => tile.resize(total, colour(&mut byte)),
            2..=16 => {
                let palette: Vec<u32> = (0..form).map(|_| colour(&mut byte)).collect();
                let bits = if form == 2 {
                    1
                } else if form <= 4 {
                    2
                } else {
                    4
                };
                for _ in 0..lines {
                    let (mut some, mut left) = (0, 0);
                    for _ in 0..columns {
                        if left == 0 {
                            (some, left) = (byte(), 8);
                        }
                        left -= bits;
                        tile.push(palette[usize::from(some >> left & ((1 << bits) - 1))]);
                    }
                }
            }
            128 => {
                while tile.len() < total {
                    let colour = colour(&mut byte);
                    tile.resize(tile.len() + length(&mut byte), colour);
                }
            }
            130.. => {
                let palette: Vec<u32> = (0..form - 128).map(|_| colour(&mut byte)).collect();
                while tile.len() < total {
                    let index = byte();
                    let run = if index & 128 != 0 { length(&mut byte) } else { 1 };
                    tile.resize(tile.len() + run, palette[usize::from(index & 127)]);
                }
            }
            other => panic!("a tile of form {other}"),
        }
        assert_eq!(tile.len(), total);
        tile
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) % u64::from(below)) as u32
    }
}

#[test]
fn every_form_of_tile_is_what_the_specification_says_in_one_stream() {
    let (mut zrle, mut random) = (Zrle::new(), Random(7));
    let mut decoder = Decoder { zlib: Decompress::new(true), forms: Vec::new() };
    let converter = Converter::new(Format::OURS);
    for (colours, longest) in [
        (1, 9),
        (2, 3),
        (2, 3000),
        (4, 2),
        (5, 5),
        (16, 2),
        (17, 2),
        (40, 30),
        (127, 40),
        (128, 600),
        (1 << 24, 1),
    ] {
        for (width, height) in [(64, 64), (1, 1), (3, 70), (130, 16), (65, 129), (1000, 64)] {
            let rect = Rect { x: 0, y: 0, width, height };
            let total = usize::from(width) * usize::from(height);
            let mut pixels = Vec::new();
            while pixels.len() < total {
                let colour = random.next(colours).wrapping_mul(0x0001_0203) & 0x00ff_ffff;
                let run = 1 + random.next(longest) as usize;
                pixels.resize((pixels.len() + run).min(total), colour);
            }
            let mut bytes = Vec::new();
            zrle.append(&converter, rect, &pixels, &mut bytes);
            assert!(decoder.rect(rect, &bytes) == pixels, "{colours} colours, {width}x{height}");
        }
    }
    decoder.forms.sort_unstable();
    decoder.forms.dedup();
    let seen = |forms: std::ops::RangeInclusive<u8>| decoder.forms.iter().any(|form| forms.contains(form));
    for forms in [0..=0, 1..=1, 2..=2, 3..=4, 5..=16, 128..=128, 130..=144, 145..=255] {
        assert!(seen(forms.clone()), "{forms:?} is not among {:?}", decoder.forms);
    }
}

#[test]
fn a_text_console_takes_a_few_kilobytes() {
    // Two colours, in the random pattern of letters.
    let mut random = Random(3);
    let rect = Rect { x: 0, y: 0, width: 1024, height: 64 };
    let glyphs: Vec<[u32; 8]> =
        (0..64).map(|_| std::array::from_fn(|_| 0x00aa_aaaa * random.next(2))).collect();
    let pixels: Vec<u32> = (0..8192).flat_map(|_| glyphs[random.next(64) as usize]).collect();
    let mut bytes = Vec::new();
    Zrle::new().append(&Converter::new(Format::OURS), rect, &pixels, &mut bytes);
    assert!(bytes.len() < 9_000, "{}", bytes.len());
}
