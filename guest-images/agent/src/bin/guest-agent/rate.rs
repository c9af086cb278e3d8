//! Requests as fast as the device completes them, for benchmarks. Their content does not matter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest_agent::pattern::mix;
use guest_agent::wire::Fields;

use crate::device::{Buffer, Device};
use crate::jobs::{Job, Kind};

const MAX_DEPTH: usize = 64;
const MAX_LENGTH: u64 = 8 << 20;

/// The parameters of the requests.
pub struct Settings {
    offset: u64,
    length: u64,
    /// The length of one request, in bytes.
    block: u64,
    depth: usize,
    write: bool,
    sequential: bool,
    time: Duration,
}

impl Settings {
    pub fn parse(fields: &Fields, device: &Device) -> Result<Self, String> {
        let settings = Settings {
            offset: fields.number("offset")?,
            length: fields.number("length")?,
            block: fields.number("block")?,
            depth: fields.number_or("depth", 1)?,
            write: fields.number_or("write", 0)? != 0,
            sequential: fields.number_or("sequential", 0)? != 0,
            time: Duration::from_millis(fields.number("ms")?),
        };
        device.check_range(settings.offset, settings.length)?;
        device.check_range(settings.offset, settings.block)?;
        if !(1..=MAX_DEPTH).contains(&settings.depth) || settings.block > settings.length.min(MAX_LENGTH) {
            return Err(format!("depth must be 1 to {MAX_DEPTH} and a request at most {MAX_LENGTH} bytes"));
        }
        Ok(settings)
    }
}

/// Sends requests for the given time, one thread for each in flight. Ends at the first failure.
pub fn run(job: &Job, device: &Device, settings: &Settings) -> Result<(), String> {
    let deadline = Instant::now() + settings.time;
    let (next, blocks) = (AtomicU64::new(0), settings.length / settings.block);
    let work = |number: usize| -> Result<(), String> {
        let mut buffer = Buffer::new(usize::try_from(settings.block).map_err(|error| error.to_string())?);
        buffer.fill(0x5a);
        let mut random = mix(number as u64 + 1);
        while !job.should_stop() && Instant::now() < deadline {
            random = mix(random);
            let index = if settings.sequential { next.fetch_add(1, Ordering::Relaxed) } else { random >> 8 };
            let offset = settings.offset + index % blocks * settings.block;
            let started = Instant::now();
            let kind = if settings.write {
                device.write(offset, &buffer)?;
                Kind::Write
            } else {
                device.read(offset, &mut buffer)?;
                Kind::Read
            };
            job.record(kind, settings.block, started);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let spawn = |number| {
            let work = &work;
            let worker = move || {
                if let Err(text) = work(number) {
                    job.fail(text);
                    job.stop();
                }
            };
            thread::Builder::new().spawn_scoped(scope, worker).map_err(|error| format!("no thread: {error}"))
        };
        let spawned = (0..settings.depth).try_for_each(|number| spawn(number).map(drop));
        if spawned.is_err() {
            job.stop();
        }
        spawned
    })
}
