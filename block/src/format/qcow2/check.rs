//! Check and repair: every reference in the metadata is counted, and the counts are compared with the
//! refcounts in the file (QEMU `docs/interop/qcow2.txt`, "Host cluster management").
//!
//! The image is not open meanwhile: this works on its file, one table in memory at a time. References
//! are counted in 16 bits for each cluster of the file that is referred to, saturating (`counts`):
//! 32 MiB for 1 TiB in clusters of 64 KiB.
//!
//! A repair never changes what a sound reference reads, and leaves an image that can be repaired again
//! wherever it is cut off: new refcounts are written past the file's end, or on storage of a fixed length
//! to clusters that nothing uses, and then one sector of the header switches to them.

use std::rc::Rc;

use executor::sync::Semaphore;

use super::Qcow2;
use super::header::{Header, autoclear, incompatible};
use crate::format::cow::commit::patch_header;
use crate::format::{Repair, Report};
use crate::storage::Storage;
use crate::turns::Turns;
use crate::{Buf, Result};

mod compare;
mod counts;
mod repair;
mod walk;

use counts::Counts;

/// One pass over all of an image's metadata.
struct Pass {
    storage: Rc<dyn Storage>,
    header: Header,
    counts: Counts,
    report: Report,
    /// The number of clusters in the file.
    file_clusters: u64,
    /// L1 tables of snapshots: offset and entries.
    snapshots: Vec<(u64, u64)>,
    /// True if some refcounts are too low, or refcount blocks are at impossible places: all are written
    /// anew.
    rebuild: bool,
    /// Gives other tasks their turn: an image that was not closed is checked while a guest runs on the
    /// same thread.
    turns: Turns,
}

/// See `image::check`.
pub(crate) async fn check(storage: &Rc<dyn Storage>, repair: Option<Repair>) -> Result<Report> {
    let first = Pass::whole(storage).await?;
    let Some(repair) = repair else { return Ok(first.report) };
    let before = (first.report.corruptions, first.report.leaks);
    let mut report = first.report.clone();
    if before != (0, 0) {
        // Autoclear features that we do not know may not hold for the repaired image; bitmaps stay valid.
        if first.header.autoclear & !autoclear::BITMAPS != 0 {
            let known = first.header.autoclear & autoclear::BITMAPS;
            patch(storage, |sector| sector[88..96].copy_from_slice(&known.to_be_bytes())).await?;
        }
        repair::repair(first, repair).await?;
        report = Pass::whole(storage).await?.report;
        report.corruptions_fixed = before.0.saturating_sub(report.corruptions);
        report.leaks_fixed = before.1.saturating_sub(report.leaks);
    }
    let header = Qcow2::read_header(&**storage).await?;
    let marks = incompatible::DIRTY | incompatible::CORRUPT;
    if report.corruptions == 0 && (header.is_dirty() || header.is_corrupt()) {
        storage.sync().await?;
        let rest = header.incompatible & !marks;
        patch(storage, |sector| sector[72..80].copy_from_slice(&rest.to_be_bytes())).await?;
    }
    Ok(report)
}

/// Changes the header, durably.
async fn patch(storage: &Rc<dyn Storage>, change: impl FnOnce(&mut [u8])) -> Result<()> {
    patch_header(&**storage, &Semaphore::new(1), change).await
}

impl Pass {
    /// Counts all references except those to the refcounts themselves.
    async fn references(storage: &Rc<dyn Storage>) -> Result<Pass> {
        let header = Qcow2::read_header(&**storage).await?;
        let mut pass = Pass {
            counts: Counts::default(),
            report: Report {
                total_clusters: header.size.div_ceil(header.cluster_size()),
                ..Report::default()
            },
            file_clusters: storage.len().div_ceil(header.cluster_size()),
            snapshots: Vec::new(),
            rebuild: false,
            turns: Turns::default(),
            header,
            storage: storage.clone(),
        };
        pass.walk().await?;
        Ok(pass)
    }

    /// Counts all references, and compares them with the refcounts.
    async fn whole(storage: &Rc<dyn Storage>) -> Result<Pass> {
        let mut pass = Pass::references(storage).await?;
        pass.refcount_blocks().await?;
        pass.compare().await?;
        pass.compare_flags().await?;
        Ok(pass)
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let buf = Buf::new(len as usize);
        self.storage.read(offset, buf.clone()).await?;
        Ok(buf.to_vec())
    }

    /// Returns true if a table of one cluster can be read there.
    fn is_table(&self, offset: u64) -> bool {
        let cluster = self.header.cluster_size();
        offset != 0 && offset.is_multiple_of(cluster) && offset / cluster < self.file_clusters
    }

    /// The number of counts in a refcount block.
    fn per_block(&self) -> u64 {
        (self.header.cluster_size() * 8) >> self.header.refcount_order
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
