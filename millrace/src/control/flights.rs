//! Maps, latencies and the requests around a switch, for clients that draw them; and the guest's lines.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::clusters::Question;
use block::flight::{AROUND, INTERVAL, Interval, Request};
use block::stats::Op;
use qmp::Result;
use qmp::command::*;
use qmp::types::*;
use vmm::serial::Backend;

use super::{Control, generic};
use crate::options::{MachineKind, Run};

/// The most intervals of one answer: a minute.
const MOST_INTERVALS: usize = 600;
/// The most requests of one answer.
const MOST_REQUESTS: usize = 4096;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn kind(op: Op) -> RequestKind {
    match op {
        Op::Read => RequestKind::Read,
        Op::Write => RequestKind::Write,
        Op::Flush => RequestKind::Flush,
        Op::Discard => RequestKind::Discard,
    }
}

fn interval(interval: &Interval) -> LatencyInterval {
    let of = |op| {
        let kind = interval.of(op);
        (kind.count > 0).then_some(IntervalLatency {
            count: kind.count,
            bytes: kind.bytes,
            p50: kind.p50 as u64,
            p99: kind.p99 as u64,
            max: kind.max as u64,
        })
    };
    LatencyInterval {
        number: interval.number,
        gate_closed: interval.gate_closed,
        in_flight: interval.in_flight,
        failed: interval.failed,
        read: of(Op::Read),
        write: of(Op::Write),
        flush: of(Op::Flush),
        discard: of(Op::Discard),
    }
}

fn request(request: Request) -> FlightRequest {
    FlightRequest {
        time: nanos(request.ended),
        latency: request.latency as u64,
        kind: kind(request.op),
        offset: request.offset,
        failed: request.failed.then_some(true),
    }
}

/// Returns the lines to the guest that the command line asks for.
pub(crate) fn chardevs(options: &Run, default_serial: &[Backend]) -> Vec<ChardevInfo> {
    if options.machine == MachineKind::None {
        return Vec::new();
    }
    let serial = if options.serial.is_empty() { default_serial } else { &options.serial };
    let unix = |path: &std::path::Path| format!("unix:{},server=on", path.display());
    let entry = |label, filename| ChardevInfo { label, filename, frontend_open: true };
    let serial = serial.iter().enumerate().map(|(n, backend)| {
        let filename = match backend {
            Backend::Stdio => "stdio".into(),
            Backend::Null => "null".into(),
            Backend::File(_) => "file".into(),
            Backend::Unix(path) => unix(path),
        };
        entry(format!("serial{n}"), filename)
    });
    let console = options.console.iter().enumerate();
    serial.chain(console.map(|(n, path)| entry(format!("console{n}"), unix(path)))).collect()
}

impl WatchCommands for Control {
    async fn x_query_block_map(&self, arguments: XQueryBlockMap) -> Result<BlockMap> {
        let drive = self.drive(&arguments.device)?;
        let XQueryBlockMap { since, first, cells, cell_size, .. } = arguments;
        let question = Question { since, first: first.unwrap_or(0), cells, cell_size };
        let map = drive.handle.call(move |disk| async move { disk.block_map(question).await });
        let map = map.await.map_err(generic)?;
        Ok(BlockMap {
            size: map.size,
            cluster_size: map.cluster_size,
            cell_size: map.cell_size,
            total_cells: map.total,
            generation: map.generation,
            resync: map.resync,
            next: map.next,
            runs: STANDARD.encode(map.runs),
        })
    }

    async fn x_query_latency(&self, arguments: XQueryLatency) -> Result<DiskLatency> {
        let drive = self.drive(&arguments.device)?;
        let since = arguments.since.unwrap_or(0);
        let call = drive.handle.call(move |disk| async move { Ok(disk.latencies(since, MOST_INTERVALS)) });
        let latencies = call.await.map_err(generic)?;
        let last = latencies.intervals.last().filter(|_| latencies.intervals.len() == MOST_INTERVALS);
        Ok(DiskLatency {
            now: nanos(latencies.now),
            interval: nanos(INTERVAL),
            next: last.map_or(latencies.open, |last| u64::from(last.number) + 1),
            in_flight: latencies.in_flight,
            gate_closed: latencies.is_closed,
            intervals: latencies.intervals.iter().map(interval).collect(),
        })
    }

    async fn x_query_flight(&self, arguments: XQueryFlight) -> Result<DiskFlight> {
        let drive = self.drive(&arguments.device)?;
        let call = drive.handle.call(|disk| async move { Ok(disk.flight().await) });
        let around = nanos(AROUND);
        let Some(frozen) = call.await.map_err(generic)? else {
            return Ok(DiskFlight {
                switch: 0,
                time: None,
                around,
                cut: false,
                total: 0,
                requests: Vec::new(),
            });
        };
        let first = usize::try_from(arguments.first.unwrap_or(0)).unwrap_or(usize::MAX);
        Ok(DiskFlight {
            switch: frozen.number,
            time: Some(nanos(frozen.at)),
            around,
            cut: frozen.cut,
            total: frozen.len() as u64,
            requests: frozen.requests().skip(first).take(MOST_REQUESTS).map(request).collect(),
        })
    }

    async fn query_chardev(&self, _: QueryChardev) -> Result<Vec<ChardevInfo>> {
        Ok(self.chardevs.borrow().clone())
    }
}
