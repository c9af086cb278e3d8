//! The places of an image's metadata, so that nothing else is ever written there.
//!
//! An image may claim anything: that a guest's cluster is the L1 table, or that the header's cluster is
//! free. The tables that are held whole in memory (L1, refcount table, snapshots) name all other metadata
//! of the active image, so a look into a set before a write is enough. Two L2 entries that share a cluster
//! are not found here, but by a check.
//!
//! If a change finds a wrong table, all further changes of the image are refused, and the header gets the
//! corrupt bit (QEMU `docs/interop/qcow2.txt`, "Header", incompatible features). Reads go on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;

use super::header::{Header, incompatible};
use super::snapshots::Snapshots;
use super::{COPIED, L1, OFFSET_MASK, Qcow2};
use crate::format::cow::retire::joined;
use crate::turns::Turns;
use crate::{Error, ErrorKind, Result};

/// The host clusters that hold metadata.
pub(super) struct Metadata {
    cluster_bits: u32,
    /// For each cluster, the number of tables that claim it.
    clusters: RefCell<HashMap<u64, u32>>,
    /// Clusters of the snapshot table and of snapshots' L1 tables: in order, without overlaps.
    snapshots: Vec<Range<u64>>,
    /// The offset of a cluster that two tables claim, in bytes.
    clash: Cell<Option<u64>>,
}

impl Metadata {
    /// Makes a set that knows only the header and the tables of snapshots.
    pub(super) fn new(header: &Header, snapshots: &Snapshots) -> Self {
        let clusters = |bytes: &Range<u64>| clusters(header.cluster_bits, bytes);
        let places = snapshots.places().map(|bytes| clusters(&bytes)).filter(|range| !range.is_empty());
        let metadata = Metadata {
            cluster_bits: header.cluster_bits,
            clusters: RefCell::default(),
            snapshots: joined(places.collect()),
            clash: Cell::new(None),
        };
        metadata.add(0..header.cluster_size());
        metadata
    }

    /// Adds the L1 table of the active image and its L2 tables.
    pub(super) async fn add_l1(&self, l1: &L1) {
        let turns = Turns::default();
        self.add(l1.offset..l1.offset + l1.entries.len() as u64 * 8);
        let tables = || l1.entries.iter().filter(|entry| **entry & OFFSET_MASK != 0);
        for entry in tables().filter(|entry| **entry & COPIED != 0) {
            self.add_cluster(entry & OFFSET_MASK);
            turns.step().await;
        }
        // A table that may be shared is copied before its first change, so a clash with it does no harm.
        for entry in tables().filter(|entry| **entry & COPIED == 0) {
            *self.clusters.borrow_mut().entry((entry & OFFSET_MASK) >> self.cluster_bits).or_default() += 1;
            turns.step().await;
        }
    }

    /// Notes that the cluster at an offset is metadata.
    pub(super) fn add_cluster(&self, offset: u64) {
        self.add(offset..offset + 1);
    }

    /// Notes that a range of the file is metadata that is written in its place.
    pub(super) fn add(&self, bytes: Range<u64>) {
        for cluster in clusters(self.cluster_bits, &bytes) {
            if self.contains(cluster) {
                self.clash.set(Some(cluster << self.cluster_bits));
            }
            *self.clusters.borrow_mut().entry(cluster).or_default() += 1;
        }
    }

    /// Notes that a table has left this range.
    pub(super) fn remove(&self, bytes: Range<u64>) {
        let mut known = self.clusters.borrow_mut();
        for cluster in clusters(self.cluster_bits, &bytes) {
            match known.get_mut(&cluster) {
                Some(claims) if *claims > 1 => *claims -= 1,
                _ => drop(known.remove(&cluster)),
            }
        }
    }

    /// Returns true if the cluster of this number is metadata.
    pub(super) fn contains(&self, cluster: u64) -> bool {
        self.clusters.borrow().contains_key(&cluster) || self.is_of_snapshots(cluster)
    }

    fn is_of_snapshots(&self, cluster: u64) -> bool {
        let after = self.snapshots.partition_point(|range| range.end <= cluster);
        self.snapshots.get(after).is_some_and(|range| range.start <= cluster)
    }

    /// The end of the last cluster of metadata, in bytes.
    pub(super) fn end(&self) -> u64 {
        let last = self.snapshots.last().map_or(0, |range| range.end);
        let last = self.clusters.borrow().keys().fold(last, |end, cluster| end.max(cluster + 1));
        last << self.cluster_bits
    }

    /// Fails if one of these clusters holds metadata: the refcounts that call it free are wrong.
    pub(super) fn check_free(&self, mut clusters: Range<u64>) -> Result<()> {
        match clusters.find(|cluster| self.contains(*cluster)) {
            Some(cluster) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the metadata at {:#x} is counted as free", cluster << self.cluster_bits),
            )),
            None => Ok(()),
        }
    }
}

/// The clusters that a range touches.
fn clusters(cluster_bits: u32, bytes: &Range<u64>) -> Range<u64> {
    bytes.start >> cluster_bits..bytes.end.div_ceil(1 << cluster_bits)
}

impl Qcow2 {
    /// Returns true if a cluster may be written in place. A cluster past the file's end may not, and nothing
    /// may before the first change of an image with autoclear features, which clears them.
    pub(super) fn is_writable(&self, host: u64) -> bool {
        self.in_place.get()
            && host < self.storage.len()
            && !self.metadata.contains(host >> self.header.cluster_bits)
    }

    /// Fails, with the reason, if [`Qcow2::is_writable`] returns false.
    pub(super) fn check_writable(&self, host: u64) -> Result<()> {
        if self.is_writable(host) {
            return Ok(());
        }
        Err(self.corrupt(format_args!("the cluster at {host:#x} is metadata or past the file's end")))
    }

    /// Fails if the image's metadata was found to be wrong.
    pub(super) fn check_sound(&self) -> Result<()> {
        if self.refused.get() {
            return Err(self.corrupt("found corrupt, and not written any more"));
        }
        match self.metadata.clash.get() {
            Some(offset) => Err(self.corrupt(format_args!("two tables share the cluster at {offset:#x}"))),
            None => Ok(()),
        }
    }

    /// Refuses all further changes if this one has found wrong metadata, and marks the image before the
    /// error is returned.
    pub(super) async fn or_refuse<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        let error = match change.await {
            Err(e) if e.kind() == ErrorKind::Corrupt => e,
            other => return other,
        };
        self.in_place.set(false);
        // Version 2 has no such mark.
        if !self.refused.replace(true) && self.header.version >= 3 {
            let mark = |sector: &mut [u8]| sector[79] |= incompatible::CORRUPT as u8;
            if let Err(e) = self.patch_header(mark).await {
                executor::limited!(warn, "{}: cannot mark the image corrupt: {e}", self.storage.name());
            }
        }
        let repair = "repair it with 'millrace image check --repair all'";
        Err(Error::new(ErrorKind::Corrupt, format!("{error}; {repair}")))
    }
}
