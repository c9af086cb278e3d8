//! A writer of small ISO 9660 images (ECMA-119): one directory, a few files, level 1 names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Failure, check};

/// A logical block and a logical sector, in bytes (ECMA-119, 6.1.2 and 6.2.2).
const BLOCK: usize = 2048;

/// The positions of the parts, in blocks. The system area comes first (6.2.1).
const VOLUME: u32 = 16;
const TERMINATOR: u32 = 17;
const PATHS_LITTLE_ENDIAN: u32 = 18;
const PATHS_BIG_ENDIAN: u32 = 19;
const ROOT: u32 = 20;
const FILES: u32 = 21;

/// Length, in bytes, of a path table with only the root: a record with a name of one byte, padded (9.4).
const PATHS_LEN: u32 = 10;

/// File flags (9.1.6).
const DIRECTORY: u8 = 2;

/// Writes an image with these files. A name has at most 8 capital letters and digits, a dot, and at most
/// 3 more of them; Linux shows it in lower case.
pub fn write(path: &Path, files: &[(&str, &[u8])]) -> Result<(), Failure> {
    let image = File::create(path)?;
    let put = |block: u32, bytes: &[u8]| image.write_all_at(bytes, u64::from(block) * BLOCK as u64);
    let mut root =
        [record(ROOT, BLOCK as u32, DIRECTORY, b"\0"), record(ROOT, BLOCK as u32, DIRECTORY, b"\x01")]
            .concat();
    let mut next = FILES;
    for (name, content) in files {
        let length = u32::try_from(content.len())?;
        root.extend(record(next, length, 0, format!("{name};1").as_bytes()));
        put(next, content)?;
        next += length.div_ceil(BLOCK as u32);
    }
    check(root.len() <= BLOCK, "all files fit one block of a directory")?;
    put(ROOT, &root)?;
    put(VOLUME, &primary(next))?;
    put(TERMINATOR, b"\xffCD001\x01")?;
    // Name length, extended attributes, position, parent, and the name, which is a zero byte.
    let paths = |root: [u8; 4], parent: [u8; 2]| [&[1, 0][..], &root, &parent, &[0, 0]].concat();
    put(PATHS_LITTLE_ENDIAN, &paths(ROOT.to_le_bytes(), 1_u16.to_le_bytes()))?;
    put(PATHS_BIG_ENDIAN, &paths(ROOT.to_be_bytes(), 1_u16.to_be_bytes()))?;
    image.set_len(u64::from(next) * BLOCK as u64)?;
    Ok(image.sync_all()?)
}

/// A number in both byte orders (7.3.3 and 7.2.3).
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// A directory record (9.1).
fn record(block: u32, length: u32, flags: u8, name: &[u8]) -> Vec<u8> {
    // 1 January 2000, Greenwich time (9.1.5).
    const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];
    let mut record = vec![0, 0];
    record.extend(both32(block));
    record.extend(both32(length));
    record.extend(DATE);
    // Not interleaved.
    record.extend([flags, 0, 0]);
    record.extend(both16(1));
    record.push(name.len() as u8);
    record.extend(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

/// The primary volume descriptor of an image of `blocks` (8.4). Offsets here count from 0, those of the
/// standard from 1.
fn primary(blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"\x01CD001\x01");
    put(8, &[b' '; 64]); // System and volume identifiers
    put(80, &both32(blocks));
    put(120, &both16(1)); // Volume set size
    put(124, &both16(1)); // Volume sequence number
    put(128, &both16(BLOCK as u16));
    put(132, &both32(PATHS_LEN));
    put(140, &PATHS_LITTLE_ENDIAN.to_le_bytes());
    put(148, &PATHS_BIG_ENDIAN.to_be_bytes());
    put(156, &record(ROOT, BLOCK as u32, DIRECTORY, b"\0"));
    put(190, &[b' '; 623]); // Identifiers of volume set, publisher, preparer, application and files
    for at in [813, 830, 847, 864] {
        put(at, &[b'0'; 16]); // Dates that are not specified
    }
    put(881, &[1]); // File structure version
    bytes
}

#[cfg(test)]
#[path = "iso_tests.rs"]
mod tests;
