//! Parameters of the agent's requests, and its reports.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{AgentError, Answer, Result, device_field, number};
use crate::wire::Fields;

/// A range of a device that belongs to one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The guest's device, such as `/dev/vda`.
    pub device: String,
    /// The start, in bytes; a multiple of 4096.
    pub offset: u64,
    /// The length, in bytes; a multiple of 4096.
    pub length: u64,
    /// Distinguishes this workload's blocks from those of others.
    pub seed: u64,
}

impl Region {
    /// A region; `offset` and `length` in bytes.
    pub fn new(device: &str, offset: u64, length: u64, seed: u64) -> Self {
        Region { device: device.to_owned(), offset, length, seed }
    }

    pub(super) fn fields(&self) -> Fields {
        device_field(&self.device)
            .with("offset", self.offset)
            .with("length", self.length)
            .with("seed", self.seed)
    }
}

/// Random 4 KiB writes and reads over a filled device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The guest's device.
    pub device: String,
    /// The number of requests in flight at a time, 1 to 64.
    pub depth: u32,
    /// Each of the `depth` threads flushes the device after this many of its writes; 0: never.
    pub fsync_every: u64,
    /// The percentage of reads; each read is verified at once.
    pub read_percent: u32,
    /// The number of requests after which the load ends by itself; 0: it runs until it is stopped.
    pub operations: u64,
    /// The seed that determines the order of the offsets.
    pub random: u64,
}

impl Load {
    /// A load of writes only, one at a time, without flushes, until stopped.
    pub fn new(device: &str) -> Self {
        Load {
            device: device.to_owned(),
            depth: 1,
            fsync_every: 0,
            read_percent: 0,
            operations: 0,
            random: 1,
        }
    }

    pub(super) fn fields(&self) -> Fields {
        device_field(&self.device)
            .with("depth", self.depth)
            .with("fsync-every", self.fsync_every)
            .with("read-percent", self.read_percent)
            .with("operations", self.operations)
            .with("random", self.random)
    }
}

/// Requests of one kind, as many as the device completes in a given time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// The guest's device.
    pub device: String,
    /// The start of the range to read or write, in bytes.
    pub offset: u64,
    /// The length of the range, in bytes.
    pub length: u64,
    /// The length of one request, in bytes: a multiple of 4096, at most 8 MiB.
    pub block: u64,
    /// The number of requests in flight at a time, 1 to 64.
    pub depth: u32,
    /// True for writes, false for reads.
    pub write: bool,
    /// True for sequential order, false for random order.
    pub sequential: bool,
    /// The time that the requests run.
    pub time: Duration,
}

impl Rate {
    pub(super) fn fields(&self) -> Fields {
        device_field(&self.device)
            .with("offset", self.offset)
            .with("length", self.length)
            .with("block", self.block)
            .with("depth", self.depth)
            .with("write", u8::from(self.write))
            .with("sequential", u8::from(self.sequential))
            .with("ms", self.time.as_millis())
    }
}

/// A background workload in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job(pub(super) u64);

impl Job {
    pub(super) fn fields(self) -> Fields {
        Fields::new().with("job", self.0)
    }
}

/// The figures of a job since its start, and the latency of its requests since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// True if it still runs.
    pub running: bool,
    /// The time since the job's start.
    pub elapsed: Duration,
    /// Completed reads.
    pub reads: u64,
    /// Completed writes; for a file system, files.
    pub writes: u64,
    /// Completed flushes.
    pub flushes: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Requests that failed, and reads that found wrong data.
    pub errors: u64,
    /// The latency of the requests since the last report.
    pub latency: Latency,
    /// The latency of all requests.
    pub total: Latency,
}

/// Percentiles of request latency, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// The number of requests.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// The slowest request.
    pub max_us: u64,
}

/// The result of reading back a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks read.
    pub blocks: u64,
    /// The lowest sequence number; 0 for a block that was never written.
    pub oldest: u64,
    /// The highest sequence number.
    pub newest: u64,
    /// A digest of all sequence numbers in order; see [`super::Agent::digest`].
    pub digest: u64,
    /// The number of blocks with each fault, by [`crate::pattern::Fault::kind`].
    pub faults: BTreeMap<String, u64>,
    /// Descriptions of the first few faults.
    pub examples: Vec<String>,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} blocks", self.blocks)?;
        for (kind, count) in &self.faults {
            write!(f, ", {count} {kind}")?;
        }
        self.examples.iter().try_for_each(|example| write!(f, "; {example}"))
    }
}

/// Parses the reply to `verify` or `verify-full`; damage is an error.
pub(super) fn verified(verb: &str, answer: &Answer) -> Result<VerifyReport> {
    let field = |key| number(verb, &answer.fields, key);
    let mut report = VerifyReport {
        blocks: field("blocks")?,
        oldest: field("oldest")?,
        newest: field("newest")?,
        digest: field("digest")?,
        faults: BTreeMap::new(),
        examples: answer.progress.clone(),
    };
    for kind in ["lost", "stale", "ahead", "torn", "misplaced", "foreign", "corrupt"] {
        let count = field(kind)?;
        if count > 0 {
            report.faults.insert(kind.to_owned(), count);
        }
    }
    if report.faults.is_empty() { Ok(report) } else { Err(AgentError::Damaged(Box::new(report))) }
}

/// Parses a job's report.
pub(super) fn stat(verb: &str, fields: &Fields) -> Result<Stat> {
    let field = |key: &str| number::<u64>(verb, fields, key);
    let latency = |prefix: &str| {
        Ok(Latency {
            count: field(&format!("{prefix}count"))?,
            p50_us: field(&format!("{prefix}p50"))?,
            p99_us: field(&format!("{prefix}p99"))?,
            p999_us: field(&format!("{prefix}p999"))?,
            max_us: field(&format!("{prefix}max"))?,
        })
    };
    Ok(Stat {
        running: field("running")? != 0,
        elapsed: Duration::from_millis(field("elapsed")?),
        reads: field("reads")?,
        writes: field("writes")?,
        flushes: field("flushes")?,
        bytes: field("bytes")?,
        errors: field("errors")?,
        latency: latency("")?,
        total: latency("total-")?,
    })
}
