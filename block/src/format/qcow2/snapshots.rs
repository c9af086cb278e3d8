//! The places of the tables that an image's snapshots keep (QEMU `docs/interop/qcow2.txt`, "Snapshots").

use std::ops::Range;

use super::header::{Fields, Header, MAX_L1_BYTES};
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

/// QEMU's limits: on the number of snapshots, and on the size of their table in bytes.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_TABLE: u64 = 64 << 20;

/// The snapshot table, and the L1 tables that it names.
#[derive(Default)]
pub(super) struct Snapshots {
    /// The table's place in the file.
    pub table: Range<u64>,
    /// L1 tables: offset and number of entries.
    pub l1: Vec<(u64, u64)>,
    /// The numbers of snapshots whose L1 table is at an impossible place.
    pub wrong: Vec<u32>,
}

impl Snapshots {
    /// Reads the table.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read to its end.
    pub(super) async fn read(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let cannot = |what: String| Error::new(ErrorKind::Corrupt, what);
        let start = header.snapshots_offset;
        let mut found = Snapshots::default();
        if header.snapshots == 0 {
            return Ok(found);
        }
        if header.snapshots > MAX_SNAPSHOTS || !start.is_multiple_of(header.cluster_size()) {
            return Err(cannot("the snapshot table's place or size is out of range".into()));
        }
        // L1 tables do not overlap, so that all together are no longer than the file.
        let mut room = storage.len();
        let mut at = start;
        for n in 0..header.snapshots {
            if at >= storage.len() || at - start > MAX_TABLE {
                return Err(cannot(format!("snapshot {n} lies past the end of its table or file")));
            }
            let head = Buf::new(40);
            storage.read(at, head.clone()).await?;
            let head = head.to_vec();
            let head = Fields(&head);
            let (offset, entries) = (head.u64(0)?, u64::from(head.u32(8)?));
            let names = head.u32(12)?;
            let len = 40 + u64::from(head.u32(36)?) + u64::from(names >> 16) + u64::from(names & 0xffff);
            at = (at + len).next_multiple_of(8);
            let aligned = offset.is_multiple_of(header.cluster_size());
            if !aligned || offset >= storage.len() || entries * 8 > MAX_L1_BYTES.min(room) {
                found.wrong.push(n);
            } else {
                room -= entries * 8;
                found.l1.push((offset, entries));
            }
        }
        found.table = start..at;
        Ok(found)
    }

    /// The places of all tables in the file, in bytes.
    pub(super) fn places(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let l1 = self.l1.iter().map(|(offset, entries)| *offset..offset + entries * 8);
        std::iter::once(self.table.clone()).chain(l1)
    }
}
