//! Frames in a stream of bytes, each after its length: how QEMU's `-netdev stream` and passt send them.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;

use super::MOST_FRAME;

/// Bytes of a length.
const LENGTH: usize = 4;

/// Enough for the longest frame, and for some others behind it that are read with one call.
pub(super) const BUFFER: usize = 2 * (LENGTH + MOST_FRAME);

/// Takes the first frame out of what is `filled` of `bytes`, where it is there to its end.
///
/// # Errors
/// `InvalidData` for a length that no frame has: the other side speaks something else, or is out of step.
pub(super) fn next(bytes: &[u8], filled: &mut Range<usize>) -> io::Result<Option<Range<usize>>> {
    let Some(length) = bytes[filled.clone()].first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MOST_FRAME {
        let text = format!("a frame of {length} bytes was announced, {MOST_FRAME} is the most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let frame = filled.start + LENGTH..filled.start + LENGTH + length;
    if frame.end > filled.end {
        return Ok(None);
    }
    filled.start = frame.end;
    Ok(Some(frame))
}

/// Reads more bytes behind those that are `filled`, which lie at the start of `bytes` afterwards.
///
/// # Errors
/// `UnexpectedEof` where the other side has ended, and what the kernel answers.
pub(super) fn read(mut socket: &UnixStream, bytes: &mut [u8], filled: &mut Range<usize>) -> io::Result<()> {
    bytes.copy_within(filled.clone(), 0);
    *filled = 0..filled.len();
    // Less than a whole frame is there, so there is room.
    match socket.read(&mut bytes[filled.end..])? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has closed the connection")),
        count => {
            filled.end += count;
            Ok(())
        }
    }
}

/// Writes some of `bytes`, which are not none: how many.
///
/// # Errors
/// What the kernel answers.
pub(super) fn write(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
