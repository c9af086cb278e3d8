//! The guest's screen: its frame buffer.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use guest_agent::pattern;

const FRAME_BUFFER: &str = "/dev/fb0";
const CLASS: &str = "/sys/class/graphics/fb0";
const CONSOLE: &str = "/dev/tty1";
/// The escape sequence of Linux's console that hides the cursor (console_codes(4)).
const HIDE_CURSOR: &[u8] = b"\x1b[?25l";

/// Draws the pattern of `seed` ([`pattern::pixel`]) on the whole screen. Returns its width and height.
///
/// The console is left without a cursor, which the kernel would draw over the pattern.
pub fn draw(seed: u32) -> Result<(u32, u32), String> {
    let failed = |error: io::Error| format!("{FRAME_BUFFER}: {error}");
    let text = |name: &str| fs::read_to_string(Path::new(CLASS).join(name)).map_err(failed);
    let number = |text: &str| text.trim().parse::<u32>().map_err(|error| format!("{CLASS}: {error}"));
    let size = text("virtual_size")?;
    let (width, height) = size.split_once(',').ok_or("a screen without a size")?;
    let (width, height, stride) = (number(width)?, number(height)?, number(&text("stride")?)?);
    if number(&text("bits_per_pixel")?)? != 32 {
        return Err("the screen does not have 32 bits a pixel".to_owned());
    }
    let console = File::options().write(true).open(CONSOLE).and_then(|mut file| file.write_all(HIDE_CURSOR));
    console.map_err(|error| format!("{CONSOLE}: {error}"))?;
    let frame = File::options().write(true).open(FRAME_BUFFER).map_err(failed)?;
    for y in 0..height {
        let line: Vec<u8> = (0..width).flat_map(|x| pattern::pixel(seed, x, y).to_le_bytes()).collect();
        frame.write_all_at(&line, u64::from(y) * u64::from(stride)).map_err(failed)?;
    }
    Ok((width, height))
}
