//! The answers of `x-query-block-map`, `x-query-latency` and `x-query-flight`, and of `query-chardev`.

use crate::schema::{qapi_enum, qapi_struct};

qapi_struct! {
    /// A disk's map, or what of it has changed.
    struct BlockMap {
        /// The disk's size in bytes.
        size: u64,
        /// The leaf's cluster size in bytes; 1 for a raw image.
        cluster_size as "cluster-size": u64,
        /// The size of a cell in bytes.
        cell_size as "cell-size": u64,
        /// The number of cells of the whole disk; the last one may be short.
        total_cells as "total-cells": u64,
        /// The generation to give as `since` in the next question.
        generation: u64,
        /// True if the generation that was given is too old, or of another chain, so that this is everything.
        resync: bool,
        /// The cell to go on with, as `first`, if the answer ends before what was asked for.
        next: Option<u64>,
        /// The runs of cells, in base64; see docs/qmp.md.
        runs: String,
    }

    /// Latencies of a disk by intervals. Times are in ns since the disk's thread began.
    struct DiskLatency {
        /// The time of this answer.
        now: u64,
        /// The length of an interval.
        interval: u64,
        /// The number of an interval to give as `since` in the next question.
        next: u64,
        /// Requests in flight.
        in_flight as "in-flight": u32,
        /// True if the gate is closed: requests wait outside for a switch.
        gate_closed as "gate-closed": bool,
        /// Closed intervals, the oldest first, without those in which nothing happened.
        intervals: Vec<LatencyInterval>,
    }

    /// An interval.
    struct LatencyInterval {
        /// Its number; it began at this times the length of an interval.
        number: u32,
        /// The time for which the gate was closed, in ns.
        gate_closed as "gate-closed": u32,
        /// The most requests that were in flight when one ended.
        in_flight as "in-flight": u32,
        /// Requests that failed.
        failed: u32,
        /// Reads; absent if none ended.
        read: Option<IntervalLatency>,
        /// The same for writes, also of zeros.
        write: Option<IntervalLatency>,
        /// The same for flushes.
        flush: Option<IntervalLatency>,
        /// The same for discards.
        discard: Option<IntervalLatency>,
    }

    /// The requests of one kind that ended in an interval. Latencies are in ns.
    struct IntervalLatency {
        /// The number of requests.
        count: u32,
        /// Bytes of those that succeeded.
        bytes: u64,
        /// Half of them took no longer, to 7 %.
        p50: u64,
        /// 99 of 100 of them took no longer, to 7 %.
        p99: u64,
        /// The longest.
        max: u64,
    }

    /// The requests around a disk's last switch. Times are in ns since the disk's thread began.
    struct DiskFlight {
        /// The number of the switch, from 1 on; 0 if there was none.
        switch: u64,
        /// The time of the switch; absent if there was none.
        time: Option<u64>,
        /// The time before and after it that was recorded.
        around: u64,
        /// True if there were more requests than are kept: those nearest to the switch are here.
        cut: bool,
        /// The number of all requests that are kept.
        total: u64,
        /// The requests from `first` on, in the order in which they ended.
        requests: Vec<FlightRequest>,
    }

    /// A request.
    struct FlightRequest {
        /// The time at which it ended.
        time: u64,
        /// Its latency in ns.
        latency: u64,
        /// Its kind.
        kind: RequestKind,
        /// Its offset on the disk in bytes; 0 for a flush.
        offset: u64,
        /// True if it failed; absent if not.
        failed: Option<bool>,
    }

    /// A character device: a line to the guest (QAPI `ChardevInfo`).
    struct ChardevInfo {
        /// Its name: `serial0`, `serial1`, `console0` and so on.
        label: String,
        /// Its other end: `unix:PATH,server=on`, `stdio`, `null` or `file`.
        filename: String,
        /// True if the guest's side is there: always.
        frontend_open as "frontend-open": bool,
    }
}

qapi_enum! {
    /// A kind of request.
    enum RequestKind {
        /// A read.
        Read = "read",
        /// A write, also of zeros.
        Write = "write",
        /// A flush.
        Flush = "flush",
        /// A discard.
        Discard = "discard",
    }
}
