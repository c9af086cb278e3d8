//! `millrace watch`: the progress of all jobs and what every disk does, as it happens.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use qmp::types::{BlockDeviceStats, BlockJobInfo, LatencyInfo};
use qmp::{Client, ClientError, command};

use crate::program::Failure;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// What one look found.
struct Look {
    at: Instant,
    jobs: Vec<BlockJobInfo>,
    /// Counters by disk.
    disks: BTreeMap<String, BlockDeviceStats>,
}

fn look(client: &mut Client) -> Result<Look, ClientError> {
    let jobs = client.execute(&command::QueryBlockJobs {})?;
    let disks = client.execute(&command::QueryBlockstats { query_nodes: None })?;
    let disks = disks.into_iter().filter_map(|entry| Some((entry.device?, entry.stats))).collect();
    Ok(Look { at: Instant::now(), jobs, disks })
}

/// What a disk did since the last look, in one line.
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

/// `millrace watch SOCKET [--once]`.
pub(in crate::program) fn watch(socket: &str, once: bool) -> Result<ExitCode, Failure> {
    let mut client = super::connect(socket)?;
    let mut screen = Screen::new();
    let mut last: Option<Look> = None;
    loop {
        let now = match look(&mut client) {
            Ok(now) => now,
            // It has ended, and so has what there was to watch.
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

/// Bars on a terminal, lines elsewhere.
struct Screen {
    bars: Option<MultiProgress>,
    jobs: BTreeMap<String, ProgressBar>,
    disks: BTreeMap<String, ProgressBar>,
}

impl Screen {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Screen { bars, jobs: BTreeMap::new(), disks: BTreeMap::new() }
    }

    fn show(&mut self, last: Option<&Look>, now: &Look) {
        let time = last.map_or(INTERVAL, |last| now.at - last.at);
        let disks = now.disks.iter().map(|(name, stats)| {
            let before = last.and_then(|last| last.disks.get(name));
            (name.clone(), disk_line(before, stats, time))
        });
        let Some(bars) = &self.bars else {
            for job in &now.jobs {
                let BlockJobInfo { kind, device, offset, len, status, .. } = job;
                println!("job {device}: {kind}, {status}, {offset} of {len} bytes");
            }
            for (name, line) in disks {
                println!("disk {name}: {line}");
            }
            return;
        };
        for (name, line) in disks {
            let bar = self.disks.entry(name.clone()).or_insert_with(|| {
                bars.add(ProgressBar::no_length().with_style(style("{prefix:12} {msg}")).with_prefix(name))
            });
            bar.set_message(line);
        }
        for job in &now.jobs {
            let bar = self.jobs.entry(job.device.clone()).or_insert_with(|| {
                let shape =
                    "{prefix:12} [{bar:30}] {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {msg}";
                bars.insert(
                    0,
                    ProgressBar::new(job.len).with_style(style(shape)).with_prefix(job.device.clone()),
                )
            });
            bar.set_length(job.len);
            bar.set_position(job.offset);
            bar.set_message(format!("{} {}", job.kind, job.status));
        }
        // What is no job any more keeps its last bar on the screen.
        self.jobs.retain(|name, bar| {
            let goes_on = now.jobs.iter().any(|job| job.device == *name);
            if !goes_on {
                bar.abandon_with_message("ended");
            }
            goes_on
        });
    }
}

fn style(shape: &str) -> ProgressStyle {
    ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar())
}
