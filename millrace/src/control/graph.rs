//! Finds drives and images by name, and reports their statistics.

use std::rc::Rc;

use block::job::{Info, Status};
use block::stats::{Copied, Latency, Requests, Stats};
use qmp::types::*;
use qmp::{Error, Result};

use super::{Control, blocks, generic};
use crate::drive::Drive;

/// The boundaries between the bins of a latency histogram, in ns.
const BOUNDARIES: [u64; 8] =
    [10_000, 100_000, 500_000, 1_000_000, 5_000_000, 20_000_000, 100_000_000, 1_000_000_000];

impl Control {
    /// Finds the drive of a command that takes a device's name or the node name of a leaf.
    ///
    /// # Errors
    /// Fails in QEMU's words if there is no such drive, if it has no medium, or if the image is not a leaf.
    pub(super) async fn find(&self, device: Option<&str>, node: Option<&str>) -> Result<&Rc<Drive>> {
        let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
        if let Ok(drive) = self.drive(device).or_else(|_| self.drive(node)) {
            if node_names(drive).await?.is_empty() {
                return Err(Error::generic(format!("Device '{}' has no medium", drive.options.id)));
            }
            return Ok(drive);
        }
        match self.node(node).await? {
            Some((drive, None)) => Ok(drive),
            Some((drive, Some(above))) => {
                let jobs = drive.handle.call(|disk| async move { Ok(disk.jobs()) }).await.map_err(generic)?;
                let active = |job: &&Info| job.status != Status::Concluded;
                let why = match jobs.iter().find(active) {
                    Some(job) => format!("block device is in use by block job: {}", job.kind.name()),
                    None => format!("node is used as backing hd of '{above}'"),
                };
                Err(Error::generic(format!("Node '{node}' is busy: {why}")))
            }
            None => Err(Error::generic(format!("Cannot find device='{device}' nor node-name='{node}'"))),
        }
    }

    /// Finds the drive that has an image of this node name in its chain. If that image is not the leaf, also
    /// returns the name of what is above it: a drive or an image.
    pub(super) async fn node(&self, name: &str) -> Result<Option<(&Rc<Drive>, Option<String>)>> {
        for drive in &self.drives {
            let names = node_names(drive).await?;
            if let Some(depth) = names.iter().position(|node| node == name) {
                let above = match depth {
                    0 => None,
                    1 => Some(drive.options.id.clone()),
                    _ => names.into_iter().nth(depth - 1),
                };
                return Ok(Some((drive, above)));
            }
        }
        Ok(None)
    }

    /// Returns true if an image has that node name or a drive has that id.
    pub(super) async fn is_named(&self, name: &str) -> Result<bool> {
        for drive in &self.drives {
            if drive.options.id == name || node_names(drive).await?.iter().any(|node| node == name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn nodes(&self, flat: bool) -> Result<Vec<BlockDeviceInfo>> {
        let mut nodes = Vec::new();
        for drive in &self.drives {
            nodes.extend(blocks::images(drive, flat).await.map_err(generic)?);
        }
        Ok(nodes)
    }

    pub(super) async fn blockstats(&self, nodes: bool) -> Result<Vec<BlockStats>> {
        let mut all = Vec::new();
        for drive in &self.drives {
            let call = drive.handle.call(|disk| async move {
                let stats = disk.stats();
                let idle = stats.idle();
                Ok((stats, idle.map(|time| time.as_nanos() as u64)))
            });
            let (stats, idle) = call.await.map_err(generic)?;
            let mut names = node_names(drive).await?.into_iter();
            all.push(BlockStats {
                device: (!nodes).then(|| drive.options.id.clone()),
                qdev: None,
                node_name: names.next(),
                stats: counters(&stats, idle),
            });
            // Images behind the leaf have no counters of their own.
            let behind = names.filter(|_| nodes).map(|name| BlockStats {
                device: None,
                qdev: None,
                node_name: Some(name),
                stats: counters(&Stats::default(), None),
            });
            all.extend(behind);
        }
        Ok(all)
    }
}

/// Returns the node names of a drive's chain, the leaf's first.
async fn node_names(drive: &Drive) -> Result<Vec<String>> {
    let call = drive.handle.call(|disk| async move {
        Ok(blocks::chain(&disk).filter(|_| disk.has_medium()).map(|node| node.node_name()).collect())
    });
    call.await.map_err(generic)
}

fn time(requests: &Requests) -> u64 {
    requests.time.get().as_nanos() as u64
}

fn histogram(latency: &Latency) -> BlockLatencyHistogramInfo {
    let from = [0].into_iter().chain(BOUNDARIES);
    let to = BOUNDARIES.into_iter().chain([u64::MAX]);
    BlockLatencyHistogramInfo {
        boundaries: BOUNDARIES.to_vec(),
        bins: from.zip(to).map(|(from, to)| latency.between(from, to)).collect(),
    }
}

fn shares(latency: &Latency) -> LatencyInfo {
    LatencyInfo {
        p50: latency.quantile(0.5),
        p99: latency.quantile(0.99),
        p999: latency.quantile(0.999),
        max: latency.max(),
    }
}

fn copied(copied: &Copied) -> CopiedInfo {
    CopiedInfo {
        copied: copied.copied.get(),
        zero: copied.zero.get(),
        skipped: copied.skipped.get(),
        offloaded: copied.offloaded.get(),
    }
}

fn counters(stats: &Stats, idle_time_ns: Option<u64>) -> BlockDeviceStats {
    let Stats { reads, writes, flushes, discards, .. } = stats;
    BlockDeviceStats {
        rd_bytes: reads.bytes.get(),
        wr_bytes: writes.bytes.get(),
        zone_append_bytes: 0,
        unmap_bytes: discards.bytes.get(),
        rd_operations: reads.done.get(),
        wr_operations: writes.done.get(),
        zone_append_operations: 0,
        flush_operations: flushes.done.get(),
        unmap_operations: discards.done.get(),
        rd_total_time_ns: time(reads),
        wr_total_time_ns: time(writes),
        zone_append_total_time_ns: 0,
        flush_total_time_ns: time(flushes),
        unmap_total_time_ns: time(discards),
        wr_highest_offset: stats.highest_write.get(),
        rd_merged: 0,
        wr_merged: 0,
        zone_append_merged: 0,
        unmap_merged: 0,
        idle_time_ns,
        failed_rd_operations: reads.failed.get(),
        failed_wr_operations: writes.failed.get(),
        failed_zone_append_operations: 0,
        failed_flush_operations: flushes.failed.get(),
        failed_unmap_operations: discards.failed.get(),
        invalid_rd_operations: reads.invalid.get(),
        invalid_wr_operations: writes.invalid.get(),
        invalid_zone_append_operations: 0,
        invalid_flush_operations: flushes.invalid.get(),
        invalid_unmap_operations: discards.invalid.get(),
        account_invalid: true,
        account_failed: true,
        timed_stats: Vec::new(),
        rd_latency_histogram: Some(histogram(&reads.latency)),
        wr_latency_histogram: Some(histogram(&writes.latency)),
        flush_latency_histogram: Some(histogram(&flushes.latency)),
        rd_latency: Some(shares(&reads.latency)),
        wr_latency: Some(shares(&writes.latency)),
        flush_latency: Some(shares(&flushes.latency)),
        copied: Some(copied(&stats.copied)),
        job_waits: Some(stats.waits.count.get()),
        job_wait_time: Some(stats.waits.time.get().as_nanos() as u64),
    }
}
