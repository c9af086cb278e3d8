//! Workloads that run while other requests are served.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_agent::wire::Fields;
use hdrhistogram::Histogram;

/// The longest latency that is recorded as it is, in microseconds: an hour. Longer ones count as this.
const LONGEST_US: u64 = 3_600_000_000;

/// The kind of a completed request.
#[derive(Clone, Copy)]
pub enum Kind {
    Read,
    Write,
    Flush,
}

/// A running or ended workload.
pub struct Job {
    started: Instant,
    stop: AtomicBool,
    stats: Mutex<Stats>,
    end: Mutex<Option<End>>,
    ended: Condvar,
}

struct End {
    elapsed: Duration,
    result: Result<(), String>,
}

struct Stats {
    reads: u64,
    writes: u64,
    flushes: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
    /// Latencies in microseconds, of the requests since the last report.
    recent: Histogram<u64>,
    /// Latencies in microseconds, of all requests.
    total: Histogram<u64>,
}

impl Job {
    fn new() -> Result<Self, String> {
        // Two significant digits are enough for latency, and keep the histogram small.
        let histogram = || Histogram::new_with_bounds(1, LONGEST_US, 2).map_err(|error| error.to_string());
        let stats = Stats {
            reads: 0,
            writes: 0,
            flushes: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            recent: histogram()?,
            total: histogram()?,
        };
        Ok(Job {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            stats: Mutex::new(stats),
            end: Mutex::new(None),
            ended: Condvar::new(),
        })
    }

    /// Returns true if the workload is asked to end.
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Counts one completed request that started at `since`.
    pub fn record(&self, kind: Kind, bytes: u64, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut stats = lock(&self.stats);
        match kind {
            Kind::Read => stats.reads += 1,
            Kind::Write => stats.writes += 1,
            Kind::Flush => stats.flushes += 1,
        }
        stats.bytes += bytes;
        stats.recent.saturating_record(micros);
        stats.total.saturating_record(micros);
    }

    /// Counts one failed request. Returns the number of failed requests so far.
    pub fn fail(&self, text: String) -> u64 {
        let mut stats = lock(&self.stats);
        stats.errors += 1;
        stats.first_error.get_or_insert(text);
        stats.errors
    }

    /// The workload's figures so far. Starts a new interval for the recent latencies.
    pub fn report(&self) -> Fields {
        let elapsed = lock(&self.end).as_ref().map(|end| end.elapsed);
        let mut stats = lock(&self.stats);
        let fields = Fields::new()
            .with("running", u8::from(elapsed.is_none()))
            .with("elapsed", elapsed.unwrap_or_else(|| self.started.elapsed()).as_millis())
            .with("reads", stats.reads)
            .with("writes", stats.writes)
            .with("flushes", stats.flushes)
            .with("bytes", stats.bytes)
            .with("errors", stats.errors);
        let fields = latency(fields, "", &stats.recent);
        let fields = latency(fields, "total-", &stats.total);
        stats.recent.reset();
        fields
    }

    /// Asks the workload to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the workload's end. Returns an error if anything went wrong in it.
    pub fn wait(&self) -> Result<Fields, String> {
        let end = self.ended.wait_while(lock(&self.end), |end| end.is_none());
        let result =
            end.unwrap_or_else(PoisonError::into_inner).as_ref().map_or(Ok(()), |end| end.result.clone());
        result?;
        let stats = lock(&self.stats);
        match &stats.first_error {
            Some(first) => Err(format!("{} requests failed, the first: {first}", stats.errors)),
            None => {
                drop(stats);
                Ok(self.report())
            }
        }
    }
}

fn latency(fields: Fields, prefix: &str, histogram: &Histogram<u64>) -> Fields {
    let quantile = |quantile| histogram.value_at_quantile(quantile);
    fields
        .with(&format!("{prefix}count"), histogram.len())
        .with(&format!("{prefix}p50"), quantile(0.5))
        .with(&format!("{prefix}p99"), quantile(0.99))
        .with(&format!("{prefix}p999"), quantile(0.999))
        .with(&format!("{prefix}max"), histogram.max())
}

/// All jobs since the agent started, by number. Ended ones stay, so that their result can be requested.
#[derive(Default)]
pub struct Jobs(Mutex<BTreeMap<u64, Arc<Job>>>);

impl Jobs {
    /// Starts `work` on a thread of its own. Returns the job's number.
    pub fn start(
        &self,
        work: impl FnOnce(&Job) -> Result<(), String> + Send + 'static,
    ) -> Result<u64, String> {
        let job = Arc::new(Job::new()?);
        let running = Arc::clone(&job);
        let mut jobs = lock(&self.0);
        let run = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&running)));
            let result = result.unwrap_or_else(|_| Err("the workload panicked; see the console".to_owned()));
            *lock(&running.end) = Some(End { elapsed: running.started.elapsed(), result });
            running.ended.notify_all();
        };
        thread::Builder::new().spawn(run).map_err(|error| format!("no thread: {error}"))?;
        let number = jobs.len() as u64 + 1;
        jobs.insert(number, job);
        Ok(number)
    }

    pub fn get(&self, number: u64) -> Result<Arc<Job>, String> {
        lock(&self.0).get(&number).cloned().ok_or_else(|| format!("there is no job {number}"))
    }
}

/// Locks a mutex even if another holder panicked: every holder leaves the content valid at each step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
