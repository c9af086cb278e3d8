//! Figures of disks for clients that draw them, and the guest's lines.

use super::prelude::*;

commands! {
    /// Figures of disks for clients that draw them, and the guest's lines.
    WatchCommands:

    /// Returns the state of a disk's clusters, or of those that have changed.
    "x-query-block-map" x_query_block_map: XQueryBlockMap {
        /// The disk.
        device: String,
        /// The generation of an earlier answer; all cells unless given.
        since: Option<u64>,
        /// The first cell; 0 unless given.
        first: Option<u64>,
        /// The number of cells; all that follow unless given.
        cells: Option<u64>,
        /// The size of a cell in bytes, a power of two. Unless given, a cluster, or so many that the
        /// disk has 1,048,576 cells at most.
        cell_size as "cell-size": Option<u64>,
    } -> BlockMap;

    /// Returns a disk's latencies in intervals of 100 ms, of the last ten minutes.
    "x-query-latency" x_query_latency: XQueryLatency {
        /// The disk.
        device: String,
        /// The first interval, as `next` of an earlier answer; the oldest unless given.
        since: Option<u64>,
    } -> DiskLatency;

    /// Returns each request around a disk's last switch.
    "x-query-flight" x_query_flight: XQueryFlight {
        /// The disk.
        device: String,
        /// The first request; 0 unless given. An answer has 4,096 at most.
        first: Option<u64>,
    } -> DiskFlight;

    /// Lists the guest's serial ports and consoles.
    "query-chardev" query_chardev: QueryChardev {} -> Vec<ChardevInfo>;
}
