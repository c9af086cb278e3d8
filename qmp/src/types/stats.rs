//! What `query-blockstats` answers: QAPI's `BlockStats`, and counters of ours whose names begin with `x-`.

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
        /// Bytes appended to zones: no disk has any, as in the members below that are named so.
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
        /// How long reads took together, in ns.
        rd_total_time_ns: u64,
        /// The same for writes.
        wr_total_time_ns: u64,
        /// The same for appends to zones.
        zone_append_total_time_ns: u64,
        /// The same for flushes.
        flush_total_time_ns: u64,
        /// The same for discards.
        unmap_total_time_ns: u64,
        /// The end of the highest byte that was written.
        wr_highest_offset: u64,
        /// Reads that were merged: none is.
        rd_merged: u64,
        /// The same for writes.
        wr_merged: u64,
        /// The same for appends to zones.
        zone_append_merged: u64,
        /// The same for discards.
        unmap_merged: u64,
        /// For how long no request has ended, in ns; absent before the first.
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
        /// Reads that were refused, as outside of the disk.
        invalid_rd_operations: u64,
        /// Writes that were refused, as outside of the disk or to a read-only one.
        invalid_wr_operations: u64,
        /// The same for appends to zones.
        invalid_zone_append_operations: u64,
        /// The same for flushes: none is.
        invalid_flush_operations: u64,
        /// The same for discards.
        invalid_unmap_operations: u64,
        /// Whether refused requests count as accesses for the idle time.
        account_invalid: bool,
        /// Whether failed requests count in times and latencies.
        account_failed: bool,
        /// Averages over intervals: none is kept.
        timed_stats: Vec<BlockDeviceTimedStats>,
        /// Latencies of reads.
        rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// The same for writes.
        wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// The same for flushes.
        flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
        /// Latencies of reads, the same ones by share.
        rd_latency as "x-rd-latency": Option<LatencyInfo>,
        /// The same for writes.
        wr_latency as "x-wr-latency": Option<LatencyInfo>,
        /// The same for flushes.
        flush_latency as "x-flush-latency": Option<LatencyInfo>,
        /// What jobs did to the drive's images.
        copied as "x-copied": Option<CopiedInfo>,
        /// Requests that waited for a job's copy.
        job_waits as "x-job-waits": Option<u64>,
        /// How long they did together, in ns.
        job_wait_time as "x-job-wait-time-ns": Option<u64>,
    }

    /// Averages over an interval.
    struct BlockDeviceTimedStats {
        /// The interval in seconds.
        interval_length: u64,
    }

    /// A histogram of latencies.
    struct BlockLatencyHistogramInfo {
        /// Where one bin ends and the next begins, in ns.
        boundaries: Vec<u64>,
        /// How many requests fell into each bin: one more than there are boundaries.
        bins: Vec<u64>,
    }

    /// Latencies by the share of requests that took no longer, in ns.
    struct LatencyInfo {
        /// Half of them.
        p50: u64,
        /// 99 of 100.
        p99: u64,
        /// 999 of 1000.
        p999: u64,
        /// All of them.
        max: u64,
    }

    /// What jobs copied, in bytes.
    struct CopiedInfo {
        /// Through memory.
        copied: u64,
        /// Made zero without writing data.
        zero: u64,
        /// Passed over, since they were there already.
        skipped: u64,
        /// Shared or copied by the kernel between files.
        offloaded: u64,
    }
}
