//! Pictures of a screen in the formats of `screendump`.

use std::io;

use crate::screen::Size;

fn check(size: Size, pixels: &[u32]) -> io::Result<()> {
    if pixels.len() != usize::from(size.width) * usize::from(size.height) || pixels.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the pixels do not fill the picture"));
    }
    Ok(())
}

/// Returns the colours of pixels, three bytes each: red, green, blue.
fn colours(pixels: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * pixels.len());
    for pixel in pixels {
        let [_, red, green, blue] = pixel.to_be_bytes();
        bytes.extend([red, green, blue]);
    }
    bytes
}

/// Returns a picture as a PNG file (8 bits for each of red, green and blue). `pixels` are those of
/// [`Screen::read_line`](crate::Screen::read_line), line after line.
///
/// # Errors
/// If the number of pixels is not that of `size`, or 0.
pub fn png(size: Size, pixels: &[u32]) -> io::Result<Vec<u8>> {
    check(size, pixels)?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.width.into(), size.height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&colours(pixels))?;
    writer.finish()?;
    Ok(file)
}

/// Returns a picture as a PPM file (the binary form, `P6`). `pixels` are those of
/// [`Screen::read_line`](crate::Screen::read_line), line after line.
///
/// # Errors
/// If the number of pixels is not that of `size`, or 0.
pub fn ppm(size: Size, pixels: &[u32]) -> io::Result<Vec<u8>> {
    check(size, pixels)?;
    let mut file = format!("P6\n{} {}\n255\n", size.width, size.height).into_bytes();
    file.extend(colours(pixels));
    Ok(file)
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
