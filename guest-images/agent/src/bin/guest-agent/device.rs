//! A block device (in tests, a file) that is read and written around the page cache.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use guest_agent::pattern::BLOCK;
use rustix::fs::OFlags;

/// An open device. All offsets and lengths are in bytes.
pub struct Device(File);

impl Device {
    pub fn open(path: &str) -> Result<Self, String> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        let file = File::options().read(true).write(true).custom_flags(flags).open(path);
        file.map(Device).map_err(|error| format!("{path}: {error}"))
    }

    pub fn size(&self) -> io::Result<u64> {
        (&self.0).seek(SeekFrom::End(0))
    }

    /// `offset` and the buffer's length must be multiples of [`BLOCK`].
    pub fn read(&self, offset: u64, buffer: &mut Buffer) -> Result<(), String> {
        self.0.read_exact_at(buffer, offset).map_err(|error| format!("read at {offset}: {error}"))
    }

    /// `offset` and the buffer's length must be multiples of [`BLOCK`].
    pub fn write(&self, offset: u64, buffer: &Buffer) -> Result<(), String> {
        self.0.write_all_at(buffer, offset).map_err(|error| format!("write at {offset}: {error}"))
    }

    pub fn sync(&self) -> Result<(), String> {
        self.0.sync_data().map_err(|error| format!("flush: {error}"))
    }

    /// Checks that a range consists of whole blocks and lies within the device; the error says what is
    /// wrong.
    pub fn check_range(&self, offset: u64, length: u64) -> Result<(), String> {
        let size = self.size().map_err(|error| error.to_string())?;
        let block = BLOCK as u64;
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) || length == 0 {
            return Err(format!("offset={offset} and length={length} must be multiples of {block}"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(format!("offset={offset} length={length} is past the device's end at {size}")),
        }
    }
}

/// Memory aligned as direct I/O requires, whatever the device's block size.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Self {
        // Over-allocated, so that it contains an aligned part. The vector's memory never moves.
        let bytes = vec![0; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Buffer { bytes, start, length }
    }

    /// Uses only the first `length` bytes from now on. Never grows beyond the original length.
    pub fn shorten(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
