//! Statistics of disks in QMP's types.

use block::stats::{Copied, Latency, Requests, Stats};
use qmp::types::*;

/// The boundaries between the bins of a latency histogram, in ns.
const BOUNDARIES: [u64; 8] =
    [10_000, 100_000, 500_000, 1_000_000, 5_000_000, 20_000_000, 100_000_000, 1_000_000_000];

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

pub(super) fn counters(stats: &Stats, idle_time_ns: Option<u64>) -> BlockDeviceStats {
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
