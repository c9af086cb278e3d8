//! Pictures of a screen, from files that VNC clients and `screendump` write.

use std::ops::Range;
use std::path::Path;

use crate::{Failure, check};

/// A picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its width and height in pixels.
    pub size: (u32, u32),
    /// The pixels as `0xRRGGBB`, line after line.
    pub pixels: Vec<u32>,
}

/// The width and height of a character on the kernel's console, in pixels (its font VGA8x16).
const CELL: (u32, u32) = (8, 16);

impl Picture {
    /// Reads a PNG or a binary PPM file.
    ///
    /// # Errors
    /// If the file is not whole, or has other than 8 bits a colour.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let file = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (size, bytes, samples) = if file.starts_with(b"P6") { ppm(&file)? } else { png(&file)? };
        let pixel = |rgb: &[u8]| u32::from_be_bytes([0, rgb[0], rgb[1], rgb[2]]);
        let pixels: Vec<u32> = bytes.chunks_exact(samples).map(pixel).collect();
        let is_whole = pixels.len() == size.0 as usize * size.1 as usize;
        check(is_whole, format!("{} has all pixels", path.display()))?;
        Ok(Picture { size, pixels })
    }

    /// Returns true if it is black.
    pub fn is_black(&self) -> bool {
        self.pixels.iter().all(|pixel| *pixel == 0)
    }

    /// The pixels of some columns of some lines.
    pub fn part(&self, columns: Range<u32>, lines: Range<u32>) -> Vec<u32> {
        let all = lines.flat_map(|y| columns.clone().map(move |x| (x, y)));
        let there = all.filter(|(x, y)| *x < self.size.0 && *y < self.size.1);
        there.map(|(x, y)| self.pixels[(y * self.size.0 + x) as usize]).collect()
    }

    /// The pixels of some characters of a row of the kernel's console.
    pub fn characters(&self, row: u32, columns: Range<u32>) -> Vec<u32> {
        self.part(columns.start * CELL.0..columns.end * CELL.0, row * CELL.1..(row + 1) * CELL.1)
    }

    /// The rows of text of the kernel's console, without empty ones at the end: `x` for each character, and a
    /// blank for each space.
    pub fn text(&self) -> Vec<String> {
        let cell = |row, column| self.characters(row, column..column + 1);
        let character =
            |row, column| if cell(row, column).iter().all(|pixel| *pixel == 0) { ' ' } else { 'x' };
        let row = |row| (0..self.size.0 / CELL.0).map(|column| character(row, column)).collect::<String>();
        let mut rows: Vec<_> =
            (0..self.size.1 / CELL.1).map(row).map(|row| row.trim_end().to_owned()).collect();
        rows.truncate(rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1));
        rows
    }
}

type Decoded = ((u32, u32), Vec<u8>, usize);

fn ppm(file: &[u8]) -> Result<Decoded, Failure> {
    let mut fields = file.splitn(4, |byte| byte.is_ascii_whitespace());
    let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok()).ok_or("a PPM file");
    field()?;
    let (width, height) = (field()?.parse()?, field()?.parse()?);
    let rest = fields.next().and_then(|rest| rest.strip_prefix(b"255\n")).ok_or("255 values a colour")?;
    Ok(((width, height), rest.to_vec(), 3))
}

fn png(file: &[u8]) -> Result<Decoded, Failure> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("a large picture")?];
    let info = reader.next_frame(&mut bytes)?;
    check(info.bit_depth == png::BitDepth::Eight, "8 bits a colour")?;
    bytes.truncate(info.buffer_size());
    Ok(((info.width, info.height), bytes, info.color_type.samples()))
}
