//! Traces: the ranges that a guest read, in order, in a file that people and scripts can write, too.
//!
//! A line is `OFFSET LENGTH`, in bytes and decimal. Empty lines, and lines that begin with `#`, are ignored.

use std::ops::Range;

use super::watch::LONGEST;
use crate::storage::Opener;
use crate::{Buf, Error, ErrorKind, Result};

/// The largest trace file, in bytes: more than [`LONGEST`] lines take.
const LARGEST: u64 = 64 << 20;

/// Reads the trace in file `name`.
///
/// # Errors
/// Errors of reading the file; `Invalid` if it is too large, or with the number of a malformed line.
pub(super) async fn load(opener: &dyn Opener, name: &str) -> Result<Vec<Range<u64>>> {
    let file = opener.open(name, false).await?;
    if file.len() > LARGEST {
        let text = format!("{name}: a trace must not be larger than {LARGEST} bytes");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let buf = Buf::new(file.len() as usize);
    file.read(0, buf.clone()).await?;
    let (name, bytes) = (name.to_owned(), buf.to_vec());
    // Parsing a large trace takes long, and must not block the disk's thread.
    executor::unblock(move || ranges(&name, &String::from_utf8_lossy(&bytes))).await
}

fn ranges(name: &str, text: &str) -> Result<Vec<Range<u64>>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let ranges = lines.take(LONGEST).map(|(n, line)| {
        parse(line).ok_or_else(|| {
            let text = format!("{name}: line {} is not 'OFFSET LENGTH'", n + 1);
            Error::new(ErrorKind::Invalid, text)
        })
    });
    ranges.collect()
}

fn parse(line: &str) -> Option<Range<u64>> {
    let (offset, len) = line.split_once(' ')?;
    let (offset, len): (u64, u64) = (offset.parse().ok()?, len.trim().parse().ok()?);
    Some(offset..offset.checked_add(len)?)
}

/// Writes a trace to file `name`, durably, and replaces what is there.
pub(super) async fn save(opener: &dyn Opener, name: &str, ranges: Vec<Range<u64>>) -> Result<()> {
    let write = move || {
        let mut text = String::from("# The guest's reads in their order: OFFSET LENGTH in bytes.\n");
        for range in ranges {
            text += &format!("{} {}\n", range.start, range.end - range.start);
        }
        text
    };
    let text = executor::unblock(write).await;
    let file = opener.create(name).await?;
    file.write(0, Buf::from_bytes(text.as_bytes())).await?;
    file.sync().await?;
    file.sync_name().await
}
