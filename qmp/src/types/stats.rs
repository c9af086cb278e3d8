//! The answer of `query-blockstats`: QAPI's `BlockStats`, and counters of ours whose names begin with `x-`.

use crate::schema::qapi_struct;

qapi_struct! {
    /// An entry of `query-blockstats`: a drive, or an image of its chain.
    struct BlockStats {
        /// The drive; absent for an image behind its leaf.
        device: Option<String>,
        /// The path of its guest device.
        qdev: Option<String>,
        /// The image.
        node_name as "node-name": Option<String>,
        /// Its counters; images behind the leaf count nothing.
        stats: BlockDeviceStats,
    }

    /// Counters of a drive.
    struct BlockDeviceStats {
        /// Bytes read.
        rd_bytes: u64,
        /// Bytes written.
        wr_bytes: u64,
        /// Bytes appended to zones: always 0, as in the other members on zones, since no disk has any.
        zone_append_bytes: u64,
        /// Bytes discarded.
        unmap_bytes: u64,
        /// Reads done.
        rd_operations: u64,
        /// Writes done.
        wr_operations: u64,
        /// Appends to zones done.
        zone_append_operations: u64,
        /// Flushes done.
        flush_operations: u64,
        /// Discards done.
        unmap_operations: u64,
        /// The time that all reads took together, in ns.
        rd_total_time_ns: u64,
        /// The same for writes.
        wr_total_time_ns: u64,
        /// The same for appends to zones.
        zone_append_total_time_ns: u64,
        /// The same for flushes.
        flush_total_time_ns: u64,
        /// The same for discards.
        unmap_total_time_ns: u64,
        /// The largest offset that a write ended at.
        wr_highest_offset: u64,
        /// Reads that were merged: always 0.
        rd_merged: u64,
        /// The same for writes.
        wr_merged: u64,
        /// The same for appends to zones.
        zone_append_merged: u64,
        /// The same for discards.
        unmap_merged: u64,
        /// The time since the last request ended, in ns; absent before the first.
        idle_time_ns: Option<u64>,
        /// Reads that failed.
        failed_rd_operations: u64,
        /// The same for writes.
        failed_wr_operations: u64,
        /// The same for appends to zones.
        failed_zone_append_operations: u64,
        /// The same for flushes.
        failed_flush_operations: u64,
        /// The same for discards.
        failed_unmap_operations: u64,
        /// Reads that were refused, such as those outside of the disk.
        invalid_rd_operations: u64,
        /// Writes that were refused, such as those outside of the disk or to a read-only one.
        invalid_wr_operations: u64,
        /// The same for appends to zones.
        invalid_zone_append_operations: u64,
        /// The same for flushes: always 0.
        invalid_flush_operations: u64,
        /// The same for discards.
        invalid_unmap_operations: u64,
        /// True if refused requests count as accesses for the idle time.
        account_invalid: bool,
        /// True if failed requests count in times and latencies.
        account_failed: bool,
        /// Averages over intervals: always empty.
        timed_stats: Vec<BlockDeviceTimedStats>,
        /// Latencies of reads.
        rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// The same for writes.
        wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// The same for flushes.
        flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// The same latencies of reads, as quantiles.
        rd_latency as "x-rd-latency": Option<LatencyInfo>,
        /// The same for writes.
        wr_latency as "x-wr-latency": Option<LatencyInfo>,
        /// The same for flushes.
        flush_latency as "x-flush-latency": Option<LatencyInfo>,
        /// Bytes that jobs copied into the drive's images.
        copied as "x-copied": Option<CopiedInfo>,
        /// Requests that waited for a job's copy.
        job_waits as "x-job-waits": Option<u64>,
        /// The time that all of them waited together, in ns.
        job_wait_time as "x-job-wait-time-ns": Option<u64>,
    }

    /// Averages over an interval.
    struct BlockDeviceTimedStats {
        /// The interval in seconds.
        interval_length: u64,
    }

    /// A histogram of latencies.
    struct BlockLatencyHistogramInfo {
        /// The boundaries between the bins, in ns.
        boundaries: Vec<u64>,
        /// The number of requests in each bin; there is one bin more than there are boundaries.
        bins: Vec<u64>,
    }

    /// Quantiles of latencies, in ns: the time within which a share of the requests ended.
    struct LatencyInfo {
        /// Half of the requests.
        p50: u64,
        /// 99 of 100.
        p99: u64,
        /// 999 of 1000.
        p999: u64,
        /// All requests.
        max: u64,
    }

    /// Bytes that jobs copied, by method.
    struct CopiedInfo {
        /// Through memory.
        copied: u64,
        /// Made zero without writing data.
        zero: u64,
        /// Skipped, since the image had them already.
        skipped: u64,
        /// Shared or copied by the kernel between files.
        offloaded: u64,
    }
}
