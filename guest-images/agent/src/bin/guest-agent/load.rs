//! Random 4 KiB reads and writes over a region, each read verified at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use guest_agent::pattern::{self, BLOCK, Stamp, mix};
use guest_agent::wire::Fields;

use crate::device::{Buffer, Device};
use crate::jobs::{Job, Kind};
use crate::regions::{MAX_SEQ, Region};

const MAX_DEPTH: usize = 64;
/// Without a limit, a device that fails every request would be used forever.
const MAX_ERRORS: u64 = 1000;

/// The parameters of a load.
pub struct Settings {
    depth: usize,
    fsync_every: u64,
    read_percent: u64,
    /// The number of requests; 0: until stopped.
    operations: u64,
    random: u64,
}

impl Settings {
    pub fn parse(fields: &Fields, region: &Region) -> Result<Self, String> {
        let settings = Settings {
            depth: fields.number_or("depth", 1)?,
            fsync_every: fields.number_or("fsync-every", 0)?,
            read_percent: fields.number_or("read-percent", 0)?,
            operations: fields.number_or("operations", 0)?,
            random: fields.number_or("random", 1)?,
        };
        if !(1..=MAX_DEPTH).contains(&settings.depth) || settings.read_percent > 100 {
            return Err(format!("depth must be 1 to {MAX_DEPTH} and read-percent 0 to 100"));
        }
        // With fewer blocks, threads would mostly search for a block that no other thread uses.
        if region.blocks() < 2 * settings.depth as u64 {
            return Err(format!("the region must have at least {} blocks", 2 * settings.depth));
        }
        Ok(settings)
    }
}

/// Runs the load to its end, with one thread per request in flight.
pub fn run(job: &Job, device: &Device, region: &Arc<Region>, settings: &Settings) -> Result<(), String> {
    let started = AtomicU64::new(0);
    let worker = |number: usize| {
        let mut worker = Worker {
            job,
            device,
            region,
            buffer: Buffer::new(BLOCK),
            state: mix(settings.random ^ mix(number as u64)),
            since_flush: 0,
        };
        while !job.should_stop() {
            if settings.operations > 0 && started.fetch_add(1, Ordering::Relaxed) >= settings.operations {
                return;
            }
            if let Err(text) = worker.step(settings)
                && job.fail(text) >= MAX_ERRORS
            {
                job.stop();
            }
        }
    };
    thread::scope(|scope| {
        let spawn = |number| {
            let worker = &worker;
            thread::Builder::new()
                .spawn_scoped(scope, move || worker(number))
                .map_err(|error| format!("no thread: {error}"))
        };
        let spawned = (0..settings.depth).try_for_each(|number| spawn(number).map(drop));
        if spawned.is_err() {
            job.stop();
        }
        spawned
    })
}

struct Worker<'a> {
    job: &'a Job,
    device: &'a Device,
    region: &'a Region,
    buffer: Buffer,
    state: u64,
    since_flush: u64,
}

impl Worker<'_> {
    fn random(&mut self, below: u64) -> u64 {
        self.state = mix(self.state);
        self.state % below
    }

    fn step(&mut self, settings: &Settings) -> Result<(), String> {
        let region = self.region;
        let claim = loop {
            let index = self.random(region.blocks());
            if let Some(claim) = usize::try_from(index).ok().and_then(|index| region.claim(index)) {
                break claim;
            }
        };
        let (offset, acknowledged, asked) = (claim.offset, claim.acknowledged, claim.asked);
        let started = Instant::now();
        if self.random(100) < settings.read_percent {
            let read = self.device.read(offset, &mut self.buffer);
            claim.release(acknowledged, asked);
            read?;
            self.job.record(Kind::Read, BLOCK as u64, started);
            let found = pattern::read(&self.buffer, offset, region.seed);
            let judged = pattern::judge(found, acknowledged, asked);
            return judged
                .map(drop)
                .map_err(|fault| format!("read at {offset}: {fault}, expected sequence {acknowledged}"));
        }
        let seq = asked + 1;
        if seq > MAX_SEQ {
            claim.release(acknowledged, asked);
            return Err(format!("the block at {offset} was written {MAX_SEQ} times"));
        }
        pattern::write(&mut self.buffer, Stamp { offset, seq, seed: region.seed });
        let started = Instant::now();
        let written = self.device.write(offset, &self.buffer);
        claim.release(if written.is_ok() { seq } else { acknowledged }, seq);
        written?;
        self.job.record(Kind::Write, BLOCK as u64, started);
        self.since_flush += 1;
        if self.since_flush == settings.fsync_every {
            self.since_flush = 0;
            let started = Instant::now();
            self.device.sync()?;
            self.job.record(Kind::Flush, 0, started);
        }
        Ok(())
    }
}
