//! Check and repair (QEMU `docs/interop/qed_spec.txt`, "Consistency checking"): each cluster is referred
//! to once, inside of the file, aligned, and behind the header.
//!
//! The image is not open meanwhile: this works on its file, one piece of a table in memory at a time.
//! Problems are counted as QEMU counts them. A repair never changes what a sound reference reads, and
//! leaves an image that can be repaired again wherever it is cut off.

use executor::sync::Semaphore;

use super::header::{self, Header};
use super::mapping::ZERO;
use super::space::Space;
use super::used::Used;
use super::{Qed, not_sound};
use crate::format::cow::commit::patch_header;
use crate::format::{Repair, Report};
use crate::storage::Storage;
use crate::{Buf, Result};

/// Tables are read, and clusters copied, in pieces of this many bytes.
const PIECE: u64 = 1 << 20;
/// The most ranges of leaked clusters that are taken into use again.
const MAX_LEAKS: usize = 1 << 16;

/// The action for an entry that is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fix {
    /// It is only reported.
    Nothing,
    /// An entry that points past the file's end becomes absent: a write whose data a power cut took.
    Lost,
    /// An entry that points to an impossible place becomes absent; the second reference to a cluster gets
    /// a copy of it, so that both read what they read before.
    All,
}

/// The reason why an entry is wrong.
enum Fault {
    Unaligned,
    InHeader,
    Outside,
    /// This many of its clusters are referred to already.
    InUse(u64),
}

/// One pass over all of an image's metadata.
struct Pass<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    fix: Fix,
    /// The number of clusters of the file, as it was at the start.
    clusters: u64,
    /// The place of the next copy, and the number of clusters that copies may still take: the file at most
    /// doubles.
    next: u64,
    budget: u64,
    copied: bool,
    used: Used,
    report: Report,
    /// The number of corruptions that a power cut explains.
    lost: u64,
}

/// See `image::check`.
pub(crate) async fn check(storage: &dyn Storage, repair: Option<Repair>) -> Result<Report> {
    let (header, _) = Qed::read_header(storage).await?;
    if repair.is_some() {
        super::refuse_fixed(storage)?;
    }
    // The file's clusters as QEMU counts them: an incomplete one does not count.
    let whole = |storage: &dyn Storage| storage.len() / header.cluster_size;
    let mut pass = Pass::run(storage, &header, whole(storage), Fix::Nothing).await?;
    let Some(repair) = repair else { return Ok(pass.report) };
    let before = (pass.report.corruptions, pass.report.leaks);
    if before != (0, 0) && header.autoclear != 0 {
        patch(storage, |sector| sector[header::AUTOCLEAR].fill(0)).await?;
    }
    if repair == Repair::All && before.0 > 0 {
        // An incomplete last cluster reads as zeros from its end on, and must not be lost.
        storage.truncate(storage.len().next_multiple_of(header.cluster_size)).await?;
        Pass::run(storage, &header, whole(storage), Fix::All).await?;
        storage.sync().await?;
        pass = Pass::run(storage, &header, whole(storage), Fix::Nothing).await?;
    }
    let mut report = pass.report;
    // If tables contradict each other, it is not known which clusters are in use.
    if report.corruptions == 0 {
        let end = pass.used.end();
        report.leaks = report.leaks.saturating_sub(pass.clusters.saturating_sub(end));
        if end * header.cluster_size < storage.len() {
            storage.truncate(end * header.cluster_size).await?;
        }
        storage.sync().await?;
        if header.features & header::NEED_CHECK != 0 {
            let clean = |sector: &mut [u8]| header::change_features(sector, 0, header::NEED_CHECK);
            patch(storage, clean).await?;
        }
    }
    report.corruptions_fixed = before.0.saturating_sub(report.corruptions);
    report.leaks_fixed = before.1.saturating_sub(report.leaks);
    Ok(report)
}

/// Changes the header, durably.
async fn patch(storage: &dyn Storage, change: impl FnOnce(&mut [u8])) -> Result<()> {
    patch_header(storage, &Semaphore::new(1), change).await
}

/// Repairs an image that was not closed: entries that point past the file's end become absent, and the
/// file is cut off behind the last cluster in use. Returns an allocator in which the clusters that leaked
/// before that end are free. The caller clears NEED_CHECK.
///
/// # Errors
/// `Corrupt` if clusters are referred to twice, or lie at impossible places. The file is not changed then:
/// no program can say which of two owners is right.
pub(super) async fn repair_unclosed(storage: &dyn Storage, header: &Header) -> Result<Space> {
    // A file may end inside of its last cluster, which reads as zeros from there on.
    let clusters = storage.len().div_ceil(header.cluster_size);
    let mut pass = Pass::run(storage, header, clusters, Fix::Nothing).await?;
    if pass.report.corruptions > pass.lost {
        let first = pass.report.problems.into_iter().find(|problem| !problem.ends_with(OUTSIDE));
        return Err(not_sound(first.unwrap_or_default()));
    }
    if pass.lost > 0 {
        executor::limited!(
            warn,
            "{}: {} entries behind the file's end are dropped",
            storage.name(),
            pass.lost
        );
        Pass::run(storage, header, clusters, Fix::Lost).await?;
        pass = Pass::run(storage, header, clusters, Fix::Nothing).await?;
    }
    let cluster = header.cluster_size;
    let space = Space::new(cluster, pass.used.end() * cluster);
    for gap in pass.used.gaps(MAX_LEAKS) {
        space.free_now(gap.start * cluster..gap.end * cluster);
    }
    if space.end() != storage.len() {
        storage.truncate(space.end()).await?;
    }
    Ok(space)
}

/// The end of the message for [`Fault::Outside`].
const OUTSIDE: &str = "lies outside of the file";

/// Little-endian words.
fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        .collect()
}

/// Returns the next piece of a table from `at` on: its offset and its entries; `None` if there is none
/// before `end`. Holes are not read.
pub(super) async fn next_piece(
    storage: &dyn Storage,
    mut at: u64,
    end: u64,
) -> Result<Option<(u64, Vec<u64>)>> {
    while at < end {
        let len = PIECE.min(end - at);
        let extent = storage.map(at, end - at).await?;
        if !extent.data && extent.len >= len {
            at += extent.len - extent.len % len;
            continue;
        }
        let buf = Buf::new(len as usize);
        storage.read(at, buf.clone()).await?;
        return Ok(Some((at, words(&buf.to_vec()))));
    }
    Ok(None)
}

impl<'a> Pass<'a> {
    async fn run(storage: &'a dyn Storage, header: &'a Header, clusters: u64, fix: Fix) -> Result<Self> {
        let report =
            Report { total_clusters: header.size.div_ceil(header.cluster_size), ..Report::default() };
        let mut pass = Pass {
            storage,
            header,
            fix,
            clusters,
            next: clusters,
            budget: clusters,
            copied: false,
            used: Used::default(),
            report,
            lost: 0,
        };
        for cluster in 0..header.header_size.min(clusters) {
            pass.used.take(cluster)?;
        }
        let l1 = header.l1();
        if pass.refer(l1.start, header.table_len())?.is_some() {
            pass.report.corruption(|| format!("ERROR: the L1 table at {:#x} {OUTSIDE}", l1.start));
        }
        let mut at = l1.start;
        while let Some((start, entries)) = next_piece(storage, at, l1.end).await? {
            at = start + entries.len() as u64 * 8;
            pass.l1_piece(start, entries).await?;
        }
        pass.report.leaks = pass.next.saturating_sub(pass.used.count());
        pass.report.image_end = pass.used.end() * header.cluster_size;
        Ok(pass)
    }

    /// Notes a reference to `len` bytes. Returns its fault, if it has one.
    fn refer(&mut self, offset: u64, len: u64) -> Result<Option<Fault>> {
        let cluster = self.header.cluster_size;
        if !offset.is_multiple_of(cluster) {
            return Ok(Some(Fault::Unaligned));
        }
        let (first, count) = (offset / cluster, len / cluster);
        if first < self.header.header_size {
            return Ok(Some(Fault::InHeader));
        }
        if first + count > self.clusters {
            return Ok(Some(Fault::Outside));
        }
        let mut again = 0;
        for n in first..first + count {
            again += u64::from(!self.used.take(n)?);
        }
        Ok((again > 0).then_some(Fault::InUse(again)))
    }

    /// Reports the fault of an entry, and returns the value that the entry is to have.
    async fn fault(&mut self, what: &str, fault: Fault, entry: u64, len: u64) -> Result<u64> {
        let (count, says) = match fault {
            Fault::Unaligned => (1, "is not aligned"),
            Fault::InHeader => (1, "lies in the header"),
            Fault::Outside => (1, OUTSIDE),
            Fault::InUse(clusters) => (clusters, "is in use already"),
        };
        self.report.corruptions += count;
        self.report.tell(|| format!("ERROR: {what} at {entry:#x} {says}"));
        if let Fault::Outside = fault {
            self.lost += count;
        }
        match (self.fix, fault) {
            (Fix::Lost | Fix::All, Fault::Outside) => Ok(0),
            (Fix::Nothing | Fix::Lost, _) => Ok(entry),
            (Fix::All, Fault::InUse(_)) => Ok(self.copy(entry, len).await?.unwrap_or(entry)),
            (Fix::All, _) => Ok(0),
        }
    }

    /// Copies clusters to the file's end. Returns `None` if that would take too many.
    async fn copy(&mut self, offset: u64, len: u64) -> Result<Option<u64>> {
        let cluster = self.header.cluster_size;
        let count = len / cluster;
        let to = self.next * cluster;
        if count > self.budget || to.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Ok(None);
        }
        for n in self.next..self.next + count {
            self.used.take(n)?;
        }
        (self.next, self.budget, self.copied) = (self.next + count, self.budget - count, true);
        self.storage.truncate(to + len).await?;
        let mut at = 0;
        while at < len {
            let buf = Buf::new(PIECE.min(len - at) as usize);
            self.storage.read(offset + at, buf.clone()).await?;
            if !crate::buf::is_zero(&buf.to_vec()) {
                self.storage.write(to + at, buf.clone()).await?;
            }
            at += buf.len() as u64;
        }
        Ok(Some(to))
    }

    async fn l1_piece(&mut self, at: u64, entries: Vec<u64>) -> Result<()> {
        let len = self.header.table_len();
        let mut fixed = entries.clone();
        for (entry, fixed) in entries.iter().zip(&mut fixed).filter(|(entry, _)| **entry != 0) {
            match self.refer(*entry, len)? {
                None => self.l2(*entry).await?,
                Some(fault) => {
                    *fixed = self.fault("an L2 table", fault, *entry, len).await?;
                    if *fixed != 0 && fixed != entry {
                        self.l2(*fixed).await?;
                    }
                }
            }
        }
        self.put(at, &entries, &fixed).await
    }

    async fn l2(&mut self, table: u64) -> Result<()> {
        let (end, cluster) = (table + self.header.table_len(), self.header.cluster_size);
        let mut expected = None;
        let mut at = table;
        while let Some((start, entries)) = next_piece(self.storage, at, end).await? {
            at = start + entries.len() as u64 * 8;
            let mut fixed = entries.clone();
            for (entry, fixed) in entries.iter().zip(&mut fixed).filter(|(entry, _)| **entry > ZERO) {
                self.report.allocated_clusters += 1;
                if expected.is_some_and(|expected| expected != *entry) {
                    self.report.fragmented_clusters += 1;
                }
                expected = Some(entry.wrapping_add(cluster));
                if let Some(fault) = self.refer(*entry, cluster)? {
                    *fixed = self.fault("a cluster", fault, *entry, cluster).await?;
                }
            }
            self.put(start, &entries, &fixed).await?;
        }
        Ok(())
    }

    /// Writes a piece of a table that was changed, after the copies that it refers to.
    async fn put(&mut self, at: u64, old: &[u64], new: &[u64]) -> Result<()> {
        if old == new {
            return Ok(());
        }
        if std::mem::take(&mut self.copied) {
            self.storage.sync().await?;
        }
        let bytes: Vec<u8> = new.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.storage.write(at, Buf::from_bytes(&bytes)).await
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
