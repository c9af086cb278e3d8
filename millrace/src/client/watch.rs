//! `millrace watch`: shows the progress of all jobs and the activity of every disk, as it happens.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use qmp::types::{BlockDeviceStats, BlockJobInfo, JobStatus, LatencyInfo};
use qmp::{Client, ClientError, EventMessage, command};

use crate::Failure;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// The results of one look.
struct Look {
    at: Instant,
    jobs: Vec<BlockJobInfo>,
    /// Counters by disk.
    disks: BTreeMap<String, BlockDeviceStats>,
    /// The backing file of each disk that has one.
    backing: BTreeMap<String, String>,
    /// The jobs that have ended since the last look.
    ended: Vec<Ended>,
}

fn look(client: &mut Client) -> Result<Look, ClientError> {
    let jobs = client.execute(&command::QueryBlockJobs {})?;
    let disks = client.execute(&command::QueryBlockstats { query_nodes: None })?;
    let disks = disks.into_iter().filter_map(|entry| Some((entry.device?, entry.stats))).collect();
    let blocks = client.execute(&command::QueryBlock {})?;
    let backing = blocks.into_iter().filter_map(|block| Some((block.device, block.inserted?.backing_file?)));
    let backing = backing.collect();
    let ended = client.events().iter().filter_map(Ended::of).collect();
    Ok(Look { at: Instant::now(), jobs, disks, backing, ended })
}

/// A job's end, as reported by its event.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ended {
    job: String,
    outcome: Outcome,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Done { len: u64 },
    Failed(String),
    Cancelled,
}

impl Ended {
    fn of(event: &EventMessage) -> Option<Self> {
        let member = |name: &str| event.data.get(name);
        let outcome = match (event.event.as_str(), member("error").and_then(|error| error.as_str())) {
            ("BLOCK_JOB_COMPLETED" | "BLOCK_STREAM_COMPLETED", Some(error)) => {
                Outcome::Failed(error.to_owned())
            }
            ("BLOCK_JOB_COMPLETED" | "BLOCK_STREAM_COMPLETED", None) => {
                Outcome::Done { len: member("len")?.as_u64()? }
            }
            ("BLOCK_JOB_CANCELLED", _) => Outcome::Cancelled,
            _ => return None,
        };
        Some(Ended { job: member("device")?.as_str()?.to_owned(), outcome })
    }

    /// Describes the end. `first` is the time of the first look at the job, with its offset at that time;
    /// `released` are images that are no longer a disk's backing file.
    fn text(&self, first: Option<(Instant, u64)>, now: Instant, released: &[&str]) -> String {
        match &self.outcome {
            Outcome::Failed(error) => format!("failed: {error}"),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Done { len } => {
                let mut text = "done".to_owned();
                if let Some((since, offset)) = first {
                    let time = (now - since).as_secs_f64().max(1e-3);
                    let bytes = len.saturating_sub(offset);
                    let rate = HumanBytes((bytes as f64 / time) as u64);
                    text += &format!(": {} in {time:.1} s, {rate}/s on average", HumanBytes(bytes));
                }
                for image in released {
                    text += &format!("; {image} is not needed any more");
                }
                text
            }
        }
    }
}

/// Describes a disk's activity since the last look, in one line.
fn disk_line(before: Option<&BlockDeviceStats>, now: &BlockDeviceStats, time: Duration) -> String {
    let rate = |count: fn(&BlockDeviceStats) -> u64| {
        let new = before.map_or(0, |before| count(now).saturating_sub(count(before)));
        (new as f64 / time.as_secs_f64().max(1e-3)) as u64
    };
    let latency = |latency: &Option<LatencyInfo>| match latency {
        Some(latency) if latency.max > 0 => {
            let micros = |ns: u64| ns / 1000;
            format!("p50 {} p99 {} max {} us", micros(latency.p50), micros(latency.p99), micros(latency.max))
        }
        _ => "-".to_owned(),
    };
    format!(
        "read {}/s {} op/s ({}), write {}/s {} op/s ({}), flush {}/s ({})",
        HumanBytes(rate(|s| s.rd_bytes)),
        rate(|s| s.rd_operations),
        latency(&now.rd_latency),
        HumanBytes(rate(|s| s.wr_bytes)),
        rate(|s| s.wr_operations),
        latency(&now.wr_latency),
        rate(|s| s.flush_operations),
        latency(&now.flush_latency),
    )
}

/// Runs `millrace watch SOCKET [--once]`.
pub(crate) fn watch(socket: &str, once: bool) -> Result<ExitCode, Failure> {
    let mut client = super::connect(socket)?;
    let mut screen = Screen::new();
    let mut last: Option<Look> = None;
    loop {
        let now = match look(&mut client) {
            Ok(now) => now,
            // The server has ended, so there is nothing left to watch.
            Err(ClientError::Closed) if last.is_some() => return Ok(ExitCode::SUCCESS),
            Err(e) => return Err(super::failure(e)),
        };
        screen.show(last.as_ref(), &now);
        if once {
            return Ok(ExitCode::SUCCESS);
        }
        last = Some(now);
        std::thread::sleep(INTERVAL);
    }
}

/// Shows bars on a terminal, lines elsewhere.
struct Screen {
    bars: Option<MultiProgress>,
    jobs: BTreeMap<String, Watched>,
    disks: BTreeMap<String, ProgressBar>,
    /// The images that stopped being a backing file before the last look: the event of the job's end may
    /// come one look later.
    released: Vec<String>,
}

/// A job that has been seen running.
struct Watched {
    bar: ProgressBar,
    /// The time of the first look at it, and its offset at that time.
    first: (Instant, u64),
}

/// Templates of the bar of a running job, and of its line at the end.
const AT_WORK: &str = "{prefix:12} [{bar:30}] {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {msg}";
const AT_END: &str = "{prefix:12} {msg}";

impl Screen {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Screen { bars, jobs: BTreeMap::new(), disks: BTreeMap::new(), released: Vec::new() }
    }

    fn show(&mut self, last: Option<&Look>, now: &Look) {
        let time = last.map_or(INTERVAL, |last| now.at - last.at);
        for (name, stats) in &now.disks {
            let before = last.and_then(|last| last.disks.get(name));
            self.show_disk(name, disk_line(before, stats, time));
        }
        // A job that has ended and waits to be dismissed has already got its last line.
        for job in now.jobs.iter().filter(|job| job.status != JobStatus::Concluded) {
            self.show_job(job, now.at);
        }
        let before = last.iter().flat_map(|last| last.backing.values());
        let released: Vec<_> =
            before.filter(|image| !now.backing.values().any(|other| other == *image)).cloned().collect();
        let mut named = std::mem::replace(&mut self.released, released.clone());
        named.extend(released);
        for ended in &now.ended {
            let images: Vec<_> = named.iter().map(String::as_str).collect();
            self.show_end(ended, now.at, &images);
            if matches!(ended.outcome, Outcome::Done { .. }) {
                // Each image is named only once.
                named.clear();
                self.released.clear();
            }
        }
        // Jobs that ended without an event that was received.
        let gone = |name: &String| !now.jobs.iter().any(|job| job.device == *name);
        for (name, watched) in self.jobs.extract_if(.., |name, _| gone(name)) {
            if self.bars.is_none() {
                println!("job {name}: ended");
            }
            watched.bar.abandon_with_message("ended");
        }
    }

    fn show_disk(&mut self, name: &str, line: String) {
        let Some(bars) = &self.bars else { return println!("disk {name}: {line}") };
        let bar = self.disks.entry(name.to_owned()).or_insert_with(|| {
            bars.add(ProgressBar::no_length().with_style(style(AT_END)).with_prefix(name.to_owned()))
        });
        bar.set_message(line);
    }

    fn show_job(&mut self, job: &BlockJobInfo, now: Instant) {
        let BlockJobInfo { kind, device, offset, len, status, .. } = job;
        let watched = self.jobs.entry(device.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(*len).with_style(style(AT_WORK)).with_prefix(device.clone());
            let bar = match &self.bars {
                Some(bars) => bars.insert(0, bar),
                None => bar,
            };
            Watched { bar, first: (now, *offset) }
        });
        if self.bars.is_none() {
            println!("job {device}: {kind}, {status}, {offset} of {len} bytes");
            return;
        }
        watched.bar.set_length(*len);
        watched.bar.set_position(*offset);
        watched.bar.set_message(format!("{kind} {status}"));
    }

    fn show_end(&mut self, ended: &Ended, now: Instant, released: &[&str]) {
        let watched = self.jobs.remove(&ended.job);
        let text = ended.text(watched.as_ref().map(|watched| watched.first), now, released);
        let Some(bars) = &self.bars else { return println!("job {}: {text}", ended.job) };
        // A job that began and ended between two looks has no bar yet.
        let bar = watched.map_or_else(
            || bars.insert(0, ProgressBar::no_length().with_prefix(ended.job.clone())),
            |watched| watched.bar,
        );
        bar.set_style(style(AT_END));
        bar.abandon_with_message(text);
    }
}

fn style(shape: &str) -> ProgressStyle {
    ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use qmp::Timestamp;
    use serde_json::json;

    use super::*;

    fn ended(event: &str, data: serde_json::Value) -> Option<Ended> {
        Ended::of(&EventMessage {
            event: event.into(),
            data,
            timestamp: Timestamp { seconds: 1, microseconds: 0 },
        })
    }

    #[test]
    fn an_end_is_told_with_its_time_its_rate_and_what_it_frees() {
        let data =
            json!({"device": "virtio0", "len": 96 << 20, "offset": 96 << 20, "speed": 0, "type": "stream"});
        let done = ended("BLOCK_JOB_COMPLETED", data).unwrap();
        let now = Instant::now() + Duration::from_secs(60);
        let first = Some((now - Duration::from_secs(8), 16 << 20));
        let text = done.text(first, now, &["base.img"]);
        assert_eq!(text, "done: 80.00 MiB in 8.0 s, 10.00 MiB/s on average; base.img is not needed any more");
        assert_eq!(done.text(None, now, &[]), "done");
        let data = json!({"device": "d", "len": 9, "offset": 3, "error": "Input/output error"});
        for event in ["BLOCK_JOB_COMPLETED", "BLOCK_STREAM_COMPLETED"] {
            let failed = ended(event, data.clone()).unwrap();
            assert_eq!(failed.text(first, now, &["base.img"]), "failed: Input/output error");
        }
        let cancelled = ended("BLOCK_JOB_CANCELLED", json!({"device": "d", "len": 9, "offset": 3})).unwrap();
        assert_eq!((cancelled.job.as_str(), cancelled.text(first, now, &[]).as_str()), ("d", "cancelled"));
        assert_eq!(ended("JOB_STATUS_CHANGE", json!({"id": "d", "status": "null"})), None);
    }
}
