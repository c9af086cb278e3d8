//! The runs of an experiment, shared between threads, and between machines as shards.
//!
//! Each run follows from its point, strategy and seed alone, so it does not matter which thread or machine
//! runs it, or when.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// A run of an experiment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Job {
    /// The number of the point of the sweep.
    pub point: usize,
    /// The number of the strategy.
    pub strategy: usize,
    /// The seed.
    pub seed: u64,
}

/// A part of an experiment's runs: every `of`-th of them, beginning with the `number`-th.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shard {
    /// Its number, from 1.
    pub number: usize,
    /// The number of all shards.
    pub of: usize,
}

impl Shard {
    /// All runs.
    pub const ALL: Shard = Shard { number: 1, of: 1 };
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) && of <= 1_000_000 => Ok(Shard { number, of }),
            _ => Err("give K/N with K from 1 to N, as in 3/8".to_owned()),
        }
    }
}

/// Returns the runs of a shard, in the order of the results: by point, strategy and seed.
pub fn jobs(points: usize, strategies: usize, seeds: &[u64], shard: Shard) -> Vec<Job> {
    let all = (0..points).flat_map(|point| {
        (0..strategies).flat_map(move |strategy| seeds.iter().map(move |&seed| Job { point, strategy, seed }))
    });
    all.skip(shard.number - 1).step_by(shard.of).collect()
}

/// Runs all jobs on this many threads, and gives each result to `done` on the calling thread, in the order in
/// which they end. Stops early if `done` fails, and returns its error.
///
/// # Errors
/// The first error of `done`.
///
/// # Panics
/// Panics if a run panics, after the results of all runs that ended were given to `done`.
pub fn run_all<T: Send, E>(
    jobs: &[Job],
    threads: usize,
    run: impl Fn(&Job) -> T + Sync,
    mut done: impl FnMut(Job, T) -> Result<(), E>,
) -> Result<(), E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Bounded, so that results do not pile up if the disk is slower than the runs.
    let (sender, receiver) = mpsc::sync_channel(4 * threads.max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let sender = sender.clone();
            let (next, stop, run) = (&next, &stop, &run);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    if sender.send((*job, run(job))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (job, result) in &receiver {
            if let Err(error) = done(job, result) {
                stop.store(true, Ordering::Relaxed);
                // A thread that waits for room in the channel goes on.
                drop(receiver);
                return Err(error);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
