//! Records another backing file in the header, safe against a power cut at any moment.
//!
//! A sector is written whole or not at all, but several are not. So a name that does not fit into the
//! first sector is written to a place that nothing refers to yet, and made durable before the first sector
//! refers to it.

use std::ops::Range;

use super::Qcow2;
use super::header::{EXTENSION_BACKING_FORMAT, Fields, extensions};
use crate::format::Backing;
use crate::{Buf, Error, ErrorKind, Result};

const SECTOR: usize = 512;
/// The most of the first cluster that a header takes, in bytes.
const AREA: usize = 64 << 10;
/// The header's fields with the offset and length of its backing file's name.
const NAME_FIELDS: Range<usize> = 8..20;

/// The changes to a header.
#[derive(Debug, PartialEq, Eq)]
struct Relink {
    /// The extensions with their end mark, which begin at `start`.
    start: usize,
    extensions: Vec<u8>,
    /// If more than the first sector changes, the extensions to write in between: the backing file's
    /// format alone.
    bridge: Option<Vec<u8>>,
    name_at: usize,
    name: Vec<u8>,
}

fn put(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

impl Relink {
    /// Plans the changes to the header in `area`, the start of the first cluster.
    fn plan(area: &[u8], backing: &Backing) -> Result<Self> {
        let no_room =
            || Error::new(ErrorKind::Unsupported, "the header has no room for another backing file");
        let field = Fields(area);
        let start = if field.u32(4)? == 2 { 72 } else { field.u32(100)? as usize };
        let old_name = field.u64(8)? as usize..(field.u64(8)? + u64::from(field.u32(16)?)) as usize;
        let old = extensions(area, start, old_name.start as u64, area.len() as u64)?;
        let old_end =
            start + old.iter().map(|(_, data)| 8 + data.len().next_multiple_of(8)).sum::<usize>() + 8;
        let mut new = Vec::new();
        if let Some(format) = &backing.format {
            put(&mut new, EXTENSION_BACKING_FORMAT, format.as_bytes());
        }
        let bridge = [&new[..], &[0; 8]].concat();
        for (kind, data) in old.iter().filter(|(kind, _)| *kind != EXTENSION_BACKING_FORMAT) {
            put(&mut new, *kind, data);
        }
        new.extend_from_slice(&[0; 8]);
        let (end, name) = (start + new.len(), backing.name.clone().into_bytes());
        if end + name.len() <= SECTOR {
            return Ok(Relink { start, extensions: new, bridge: None, name_at: end, name });
        }
        // The name must not be in a sector that has the old name, nor where extensions are or will be.
        let taken = old_name.start / SECTOR * SECTOR..old_name.end.next_multiple_of(SECTOR);
        let first = end.max(old_end).next_multiple_of(SECTOR);
        let is_free = |at: &usize| {
            let end = at + name.len();
            end <= area.len() && (*at >= taken.end || end <= taken.start)
        };
        let name_at = [first, first.max(taken.end)].into_iter().find(is_free).ok_or_else(no_room)?;
        let bridge = (area.get(SECTOR..end).unwrap_or_default() != tail(start, &new)).then_some(bridge);
        if start + bridge.as_ref().map_or(0, Vec::len) > SECTOR {
            return Err(no_room());
        }
        Ok(Relink { start, extensions: new, bridge, name_at, name })
    }

    /// Puts `extensions`, and the name or its place, into the header's first sector.
    fn patch(&self, sector: &mut [u8], extensions: &[u8]) {
        sector[NAME_FIELDS][..8].copy_from_slice(&(self.name_at as u64).to_be_bytes());
        sector[NAME_FIELDS][8..].copy_from_slice(&(self.name.len() as u32).to_be_bytes());
        let len = extensions.len().min(SECTOR - self.start);
        sector[self.start..self.start + len].copy_from_slice(&extensions[..len]);
        if self.name_at < SECTOR {
            sector[self.name_at..self.name_at + self.name.len()].copy_from_slice(&self.name);
        }
    }
}

/// The part of the extensions that begin at `start` that lies behind the first sector.
fn tail(start: usize, extensions: &[u8]) -> &[u8] {
    extensions.get(SECTOR.saturating_sub(start)..).unwrap_or_default()
}

impl Qcow2 {
    /// See [`crate::format::Format::set_backing`].
    pub(crate) async fn set_backing(&self, backing: Backing) -> Result<()> {
        self.begin_change().await?;
        let plan = self.plan_backing(&backing).await?;
        if plan.name_at >= SECTOR {
            self.storage.write(plan.name_at as u64, Buf::from_bytes(&plan.name)).await?;
            self.storage.sync().await?;
        }
        if let Some(bridge) = &plan.bridge {
            self.patch_header(|sector| plan.patch(sector, bridge)).await?;
            let rest = Buf::from_bytes(tail(plan.start, &plan.extensions));
            self.storage.write(SECTOR as u64, rest).await?;
            self.storage.sync().await?;
        }
        self.patch_header(|sector| plan.patch(sector, &plan.extensions)).await?;
        self.backing.replace(Some(backing));
        Ok(())
    }

    /// See [`crate::format::Format::has_room_for`].
    pub(crate) async fn check_backing(&self, backing: &Backing) -> Result<()> {
        self.plan_backing(backing).await.map(drop)
    }

    async fn plan_backing(&self, backing: &Backing) -> Result<Relink> {
        let buf = Buf::new(AREA.min(self.cluster_size() as usize));
        self.storage.read(0, buf.clone()).await?;
        Relink::plan(&buf.to_vec(), backing).map_err(|e| e.context(self.storage.name()))
    }
}

#[cfg(test)]
#[path = "relink_tests.rs"]
mod tests;
