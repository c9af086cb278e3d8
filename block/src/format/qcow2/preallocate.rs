//! Clusters that a new image has from the start (qcow2's creation option `preallocation`).

use super::COPIED;
use super::header::Header;
use crate::format::create::Preallocation;
use crate::storage::{Storage, write_zeros};
use crate::{Buf, Result};

/// The numbers of preallocated clusters: first tables, then data.
#[derive(Clone, Copy, Default)]
pub(super) struct Layout {
    pub tables: u64,
    pub clusters: u64,
}

impl Layout {
    /// Computes the numbers for all of the disk.
    pub(super) fn new(header: &Header) -> Layout {
        Layout {
            tables: header.size.div_ceil(header.l2_coverage()),
            clusters: header.size.div_ceil(header.cluster_size()),
        }
    }

    /// Writes the L2 tables, which begin at `start`, the L1 table that names them, and the data clusters
    /// as the option asks. Nothing refers to them yet.
    pub(super) async fn write(
        self,
        storage: &dyn Storage,
        header: &Header,
        start: u64,
        kind: Preallocation,
    ) -> Result<()> {
        let cluster = header.cluster_size();
        let (per_table, width) = (cluster / header.l2_entry_size(), header.l2_entry_size() as usize);
        let data = start + self.tables * cluster;
        let l1: Vec<u8> =
            (0..self.tables).flat_map(|n| ((start + n * cluster) | COPIED).to_be_bytes()).collect();
        storage.write(header.l1_offset, Buf::from_bytes(&l1)).await?;
        for table in 0..self.tables {
            let mut bytes = vec![0; cluster as usize];
            let first = table * per_table;
            for (entry, n) in bytes.chunks_exact_mut(width).zip(first..self.clusters) {
                // An extended entry has its cluster, but no subcluster in it: the backing file shows
                // through.
                entry[..8].copy_from_slice(&((data + n * cluster) | COPIED).to_be_bytes());
            }
            storage.write(start + table * cluster, Buf::from_bytes(&bytes)).await?;
        }
        let end = data + self.clusters * cluster;
        match kind {
            // A device has its space already.
            Preallocation::Falloc if end > data && !storage.is_fixed() => {
                storage.allocate(data, end - data).await
            }
            Preallocation::Full => write_zeros(storage, data..end).await,
            _ => Ok(()),
        }
    }
}
