//! The lists of snapshots and bitmaps, which only `image info` shows (QEMU `docs/interop/qcow2.txt`,
//! "Snapshots", "Bitmap directory").

use super::header::{Fields, Header, corrupt};
use crate::storage::Storage;
use crate::{Buf, Result};

/// QEMU's limits: on the number of snapshots and of bitmaps, and on the bytes of one list.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BITMAPS: u32 = 65535;
const MAX_LIST: u64 = 64 << 20;
/// Bits of a bitmap's flags, and the names that QEMU gives them.
const FLAGS: [(u32, &str); 2] = [(1 << 0, "in-use"), (1 << 1, "auto")];

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Time at which it was taken: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// The guest's clock then, in nanoseconds.
    pub vm_clock: u64,
    /// Size of the state of the machine in bytes.
    pub vm_state_size: u64,
    /// The guest's instruction count then, if it was recorded.
    pub icount: Option<u64>,
}

/// A persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// "in-use", "auto".
    pub flags: Vec<&'static str>,
}

/// A list of records in the file, read one piece after another; a piece past the file's end is an error.
struct List<'a> {
    storage: &'a dyn Storage,
    at: u64,
    end: u64,
}

impl<'a> List<'a> {
    fn new(storage: &'a dyn Storage, at: u64) -> Self {
        List { storage, at, end: at.saturating_add(MAX_LIST).min(storage.len()) }
    }

    async fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        if self.at.checked_add(len).is_none_or(|end| end > self.end) {
            return Err(corrupt("a list of snapshots or bitmaps is too long, or lies outside of the file"));
        }
        let buf = Buf::new(len as usize);
        self.storage.read(self.at, buf.clone()).await?;
        self.at += len;
        Ok(buf.to_vec())
    }

    async fn text(&mut self, len: u64) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.take(len).await?).into_owned())
    }

    /// Moves on to the next record: they begin at multiples of 8.
    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

/// The internal snapshots, in their order.
pub(crate) async fn snapshots(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    let mut list = List::new(storage, header.snapshots_offset);
    let mut found = Vec::new();
    for _ in 0..header.snapshots.min(MAX_SNAPSHOTS) {
        let bytes = list.take(40).await?;
        let head = Fields(&bytes);
        let names = head.u32(12)?;
        let extra = list.take(head.u32(36)?.into()).await?;
        let extra = Fields(&extra);
        found.push(Snapshot {
            id: list.text((names >> 16).into()).await?,
            name: list.text((names & 0xffff).into()).await?,
            date: (head.u32(16)?, head.u32(20)?),
            vm_clock: head.u64(24)?,
            vm_state_size: extra.u64(0).or_else(|_| head.u32(32).map(u64::from))?,
            icount: extra.u64(16).ok().filter(|count| *count != u64::MAX),
        });
        list.align();
    }
    Ok(found)
}

/// The persistent bitmaps, in their order.
pub(crate) async fn bitmaps(storage: &dyn Storage, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(directory) = header.bitmaps else { return Ok(Vec::new()) };
    let mut list = List::new(storage, directory.directory);
    let mut found = Vec::new();
    for _ in 0..directory.count.min(MAX_BITMAPS) {
        let bytes = list.take(24).await?;
        let head = Fields(&bytes);
        let (flags, kind) = (head.u32(12)?, head.u32(16)?);
        list.take(head.u32(20)?.into()).await?;
        found.push(Bitmap {
            name: list.text((kind & 0xffff).into()).await?,
            granularity: 1u64.checked_shl(kind >> 16 & 0xff).unwrap_or(0),
            flags: FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect(),
        });
        list.align();
    }
    Ok(found)
}
