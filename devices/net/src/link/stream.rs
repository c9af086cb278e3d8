//! Frames in a stream of bytes, each preceded by its length, as QEMU's `-netdev stream` and passt send them.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;

use super::MOST_FRAME;

/// Size of the length before a frame, in bytes.
const LENGTH: usize = 4;

/// Size of the buffer: enough for the longest frame, and for some others behind it that are read at once.
pub(super) const BUFFER: usize = 2 * (LENGTH + MOST_FRAME);

/// Takes the first frame out of the part of `bytes` that is `filled`, if that holds all of it.
///
/// # Errors
/// `InvalidData` for a length that no frame has: the other side uses another format, or is out of step.
pub(super) fn next(bytes: &[u8], filled: &mut Range<usize>) -> io::Result<Option<Range<usize>>> {
    let Some(length) = bytes[filled.clone()].first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MOST_FRAME {
        let text = format!("a frame of {length} bytes was announced; the maximum is {MOST_FRAME}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let frame = filled.start + LENGTH..filled.start + LENGTH + length;
    if frame.end > filled.end {
        return Ok(None);
    }
    filled.start = frame.end;
    Ok(Some(frame))
}

/// Reads more bytes behind those that are `filled`, after moving these to the start of `bytes`.
///
/// # Errors
/// `UnexpectedEof` if the other side has closed the connection, or the kernel's error.
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

/// Writes some of `bytes`, which must not be empty, and returns their number.
///
/// # Errors
/// The kernel's error.
pub(super) fn write(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
