//! Counts the references to each cluster, in memory that grows with the clusters that are referred to.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, Result};

/// Clusters that are counted in one piece of memory, 4 KiB.
pub(super) const CHUNK: u64 = 2048;
/// The most pieces: 512 MiB, enough for 16 TiB in clusters of 64 KiB. A small file with references
/// strewn over a huge hole could otherwise take any amount.
const MOST_CHUNKS: usize = 128 << 10;

/// Sixteen bits for each cluster. 65535 means that many or more.
#[derive(Default)]
pub(super) struct Counts {
    chunks: BTreeMap<u64, Box<[u16]>>,
}

impl Counts {
    /// Adds `times` references to a cluster.
    pub(super) fn add(&mut self, cluster: u64, times: u64) -> Result<()> {
        let full = self.chunks.len() >= MOST_CHUNKS;
        let chunk = match self.chunks.entry(cluster / CHUNK) {
            std::collections::btree_map::Entry::Vacant(_) if full => {
                let text = "checking the image needs more than 512 MiB of memory";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            entry => entry.or_insert_with(|| vec![0; CHUNK as usize].into()),
        };
        let count = &mut chunk[(cluster % CHUNK) as usize];
        *count = count.saturating_add(u16::try_from(times).unwrap_or(u16::MAX));
        Ok(())
    }

    /// The number of references that were counted.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        self.chunks.get(&(cluster / CHUNK)).map_or(0, |chunk| chunk[(cluster % CHUNK) as usize].into())
    }

    /// Returns true if a refcount agrees with the references.
    pub(super) fn agrees(&self, cluster: u64, refcount: u64) -> bool {
        let counted = self.get(cluster);
        counted == refcount || counted == u64::from(u16::MAX) && refcount > counted
    }

    /// The numbers of refcount blocks, of `per_block` counts each, that have something to count.
    pub(super) fn blocks(&self, per_block: u64) -> impl Iterator<Item = u64> + '_ {
        self.chunks.iter().flat_map(move |(number, chunk)| {
            let start = number * CHUNK;
            let in_use = chunk.iter().enumerate().filter(|(_, count)| **count > 0);
            let mut blocks: Vec<u64> = in_use.map(|(n, _)| (start + n as u64) / per_block).collect();
            blocks.dedup();
            blocks
        })
    }
}
