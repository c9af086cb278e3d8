//! The consistency check of an image that was not closed (QEMU `docs/interop/qed_spec.txt`,
//! "Consistency checking"), and the repair of leaks.

use super::header::{Header, corrupt};
use super::mapping::ZERO;
use super::space::Space;
use crate::storage::Storage;
use crate::{Buf, Error, ErrorKind, Result};

/// Tables are read in pieces of this size.
const PIECE: u64 = 1 << 20;
/// The most clusters that are checked: 128 MiB of memory, and a file of 64 TiB in clusters of 64 KiB.
const MAX_CLUSTERS: u64 = 1 << 30;
/// The most ranges of leaked clusters that are taken into use again.
const MAX_LEAKS: usize = 1 << 16;

/// Which clusters of a file are referred to.
struct Used<'a> {
    header: &'a Header,
    clusters: u64,
    bits: Vec<u64>,
    /// The end of the last one in use, in clusters.
    end: u64,
}

impl Used<'_> {
    /// Notes a reference to `len` bytes at `offset`; all rules of the section are here.
    fn refer(&mut self, what: &str, offset: u64, len: u64) -> Result<()> {
        let cluster = self.header.cluster_size;
        if !offset.is_multiple_of(cluster) {
            return Err(corrupt(format!("{what} at {offset:#x} is not aligned")));
        }
        let (first, count) = (offset / cluster, len / cluster);
        if first + count > self.clusters {
            return Err(corrupt(format!("{what} at {offset:#x} lies outside of the file")));
        }
        for n in first..first + count {
            let word = &mut self.bits[(n / 64) as usize];
            if *word >> (n % 64) & 1 == 1 {
                return Err(corrupt(format!("{what} at {offset:#x} is in use already")));
            }
            *word |= 1 << (n % 64);
        }
        self.end = self.end.max(first + count);
        Ok(())
    }

    fn is_used(&self, n: u64) -> bool {
        self.bits[(n / 64) as usize] >> (n % 64) & 1 == 1
    }

    /// The allocator that knows what is in use, and what leaked.
    fn into_space(self) -> Space {
        let cluster = self.header.cluster_size;
        let space = Space::new(cluster, self.end * cluster);
        let mut n = 0;
        let mut leaks = 0;
        while n < self.end && leaks < MAX_LEAKS {
            let start = n;
            while n < self.end && !self.is_used(n) {
                n += 1;
            }
            if n > start {
                space.free_now(start * cluster..n * cluster);
                leaks += 1;
            }
            n += 1;
        }
        space
    }
}

/// Calls `entry` for every entry of a table that is not 0. Holes are not read.
async fn entries(
    storage: &dyn Storage,
    table: u64,
    len: u64,
    mut entry: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < len {
        let n = PIECE.min(len - at);
        let extent = storage.map(table + at, len - at).await?;
        if !extent.data && extent.len >= n {
            at += extent.len - extent.len % n;
            continue;
        }
        let buf = Buf::new(n as usize);
        storage.read(table + at, buf.clone()).await?;
        for word in buf.to_vec().chunks_exact(8) {
            match word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)) {
                0 => {}
                word => entry(word)?,
            }
        }
        at += n;
    }
    Ok(())
}

/// Checks the whole image, and cuts the file off behind the last cluster in use. What was leaked before
/// it is free in the allocator that is answered. The caller clears NEED_CHECK.
///
/// # Errors
/// `Corrupt` where clusters are referred to twice, or lie where none can be: which of the two owners is
/// right, no program can say.
pub(super) async fn repair(storage: &dyn Storage, header: &Header) -> Result<Space> {
    let clusters = storage.len().div_ceil(header.cluster_size);
    if clusters > MAX_CLUSTERS {
        let text = format!("the file is too long to be checked: over {MAX_CLUSTERS} clusters");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let bits = vec![0; clusters.div_ceil(64) as usize];
    let mut used = Used { header, clusters, bits, end: 0 };
    used.refer("the header", 0, header.header_len())?;
    used.refer("the L1 table", header.l1_offset, header.table_len())?;
    let l1 = header.l1();
    for piece in l1.clone().step_by(PIECE as usize) {
        let mut tables = Vec::new();
        entries(storage, piece, PIECE.min(l1.end - piece), |table| {
            used.refer("an L2 table", table, header.table_len())?;
            tables.push(table);
            Ok(())
        })
        .await?;
        for table in tables {
            entries(storage, table, header.table_len(), |host| match host {
                ZERO => Ok(()),
                host => used.refer("a cluster", host, header.cluster_size),
            })
            .await?;
        }
    }
    let space = used.into_space();
    if space.end() < storage.len() {
        storage.truncate(space.end()).await?;
    }
    Ok(space)
}
