//! Pictures of a screen.

use std::path::Path;

use guest_images::micro;
use harness::{Failure, check};

use crate::SIZE;

/// A picture: its width, height, and pixels as `0xRRGGBB`.
#[derive(PartialEq, Eq)]
pub struct Picture {
    pub size: (u32, u32),
    pixels: Vec<u32>,
}

impl Picture {
    /// Reads a PNG or a binary PPM file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let file = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (size, bytes, samples) = if file.starts_with(b"P6") { ppm(&file)? } else { png(&file)? };
        let pixel = |rgb: &[u8]| u32::from_be_bytes([0, rgb[0], rgb[1], rgb[2]]);
        let pixels: Vec<u32> = bytes.chunks_exact(samples).map(pixel).collect();
        check(
            pixels.len() == size.0 as usize * size.1 as usize,
            format!("{} has all pixels", path.display()),
        )?;
        Ok(Picture { size, pixels })
    }

    /// Fails at the first pixel that is not as the guest has drawn it, with these lines made white.
    pub fn shows_the_pattern(&self, white: &[u8]) -> Result<(), Failure> {
        check(self.size == SIZE, format!("a picture of {:?}", self.size))?;
        for (at, pixel) in self.pixels.iter().enumerate() {
            let (x, y) = (at as u32 % SIZE.0, at as u32 / SIZE.0);
            let is_white = white.iter().any(|line| u32::from(*line) == y);
            let expected = if is_white { 0xff_ffff } else { micro::pixel(x, y) & 0xff_ffff };
            check(*pixel == expected, format!("({x}, {y}) is {pixel:06x}, not {expected:06x}"))?;
        }
        Ok(())
    }

    /// Returns true if it is black.
    pub fn is_black(&self) -> bool {
        self.pixels.iter().all(|pixel| *pixel == 0)
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
