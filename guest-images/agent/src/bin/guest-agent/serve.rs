//! The serving side of the line protocol: one thread reads requests, and each request runs on a thread
//! of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use guest_agent::wire::{Fields, Request, VERSION};
use rustix::system::RebootCommand;
use sha2::{Digest, Sha256};

use crate::device::Device;
use crate::disc;
use crate::entropy;
use crate::files::FileSystem;
use crate::input;
use crate::jobs::{Jobs, lock};
use crate::load::{self, Settings};
use crate::net;
use crate::rate;
use crate::regions::{self, MAX_SEQ, Region};
use crate::screen;
use crate::system;

/// Longer lines are noise.
const MAX_LINE: u64 = 4096;

/// The agent's state. It outlives a connection.
#[derive(Clone, Default)]
pub struct Agent(Arc<State>);

#[derive(Default)]
struct State {
    jobs: Jobs,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
    input: input::Events,
    file_systems: Mutex<BTreeMap<String, Arc<Mutex<Arc<FileSystem>>>>>,
}

/// The result of a request.
#[derive(Default)]
struct Answer {
    progress: Vec<String>,
    fields: Fields,
    /// The action to take once the answer has been sent.
    then: Option<fn() -> Result<()>>,
}

impl From<Fields> for Answer {
    fn from(fields: Fields) -> Self {
        Answer { fields, ..Self::default() }
    }
}

type Result<T> = std::result::Result<T, String>;

impl Agent {
    pub fn new() -> Self {
        Self::default()
    }

    /// Flushes everything and powers the machine off.
    pub fn power_off(&self) {
        self.ending(|| Ok(()));
        system::halt(RebootCommand::PowerOff);
    }

    /// Serves requests until the line ends or breaks.
    pub fn serve(&self, input: impl Read, output: impl Line) -> io::Result<()> {
        let output = Arc::new(Mutex::new(output));
        lock(&output).write_all(format!("* ready version={VERSION}\n").as_bytes())?;
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let Some(request) = Request::parse(&String::from_utf8_lossy(&line)) else {
                continue;
            };
            let id = request.id;
            let (agent, to) = (self.clone(), Arc::clone(&output));
            let spawned = thread::Builder::new().spawn(move || agent.answer(&request, &*to));
            if let Err(error) = spawned {
                lock(&output).write_all(format!("{id} err no thread: {error}\n").as_bytes())?;
            }
        }
    }

    fn answer(&self, request: &Request, output: &Mutex<impl Line>) {
        let handled = catch_unwind(AssertUnwindSafe(|| self.handle(request)));
        let answer = handled.unwrap_or_else(|_| Err("the agent panicked; see the console".to_owned()));
        let id = request.id;
        let mut text = String::new();
        let then = match answer {
            Ok(answer) => {
                answer
                    .progress
                    .iter()
                    .for_each(|line| text += &format!("{id} progress {}\n", one_line(line)));
                text += &format!("{id} ok {}\n", answer.fields);
                answer.then
            }
            Err(error) => {
                text += &format!("{id} err {}\n", one_line(&error));
                None
            }
        };
        // One write, so that answers of other threads do not mix into these lines.
        let mut line = lock(output);
        let sent = line.write_all(text.as_bytes()).and_then(|()| line.drain());
        drop(line);
        let done = then.map_or(Ok(()), |then| then());
        if let Err(error) = sent.map_err(|error| error.to_string()).and(done) {
            eprintln!("guest-agent: request {id}: {error}");
        }
    }

    fn handle(&self, request: &Request) -> Result<Answer> {
        let fields = &request.fields;
        match request.verb.as_str() {
            "hello" => {
                let boot = text(system::boot_id())?;
                Ok(Fields::new().with("version", VERSION).with("boot", boot).into())
            }
            "fill" => self.fill(fields),
            "verify" => {
                let report = self.region(fields)?.verify(&device(fields)?)?;
                Ok(Answer { fields: report.fields(), progress: report.examples, then: None })
            }
            "verify-full" => self.verify_full(fields),
            "digest" => Ok(Fields::new().with("digest", self.region(fields)?.digest()).into()),
            "random-write" => self.random_write(fields),
            "rate" => {
                let device = device(fields)?;
                let settings = rate::Settings::parse(fields, &device)?;
                let job = self.0.jobs.start(move |job| rate::run(job, &device, &settings))?;
                Ok(Fields::new().with("job", job).into())
            }
            "job-stat" => Ok(self.0.jobs.get(fields.number("job")?)?.report().into()),
            "job-wait" => Ok(self.0.jobs.get(fields.number("job")?)?.wait()?.into()),
            "job-stop" => {
                let job = self.0.jobs.get(fields.number("job")?)?;
                job.stop();
                Ok(job.wait()?.into())
            }
            "fsync" => device(fields)?.sync().map(|()| Answer::default()),
            "size" => Ok(Fields::new().with("bytes", text(device(fields)?.size())?).into()),
            "read-hash" => read_hash(fields),
            "fs-load" => self.fs_load(fields),
            "fs-verify" => self.fs_verify(fields),
            "disc-mount" => disc::mount(fields.text("dev")?).map(|()| Answer::default()),
            "disc-unmount" => disc::unmount(fields.text("dev")?).map(|()| Answer::default()),
            "disc-hash" => {
                let hash = disc::hash(fields.text("dev")?, fields.text("file")?)?;
                Ok(Fields::new().with("sha256", hash).into())
            }
            "disc-eject" => disc::eject(fields.text("dev")?).map(|()| Answer::default()),
            "random" => {
                let (bytes, source) = entropy::read(fields.number("length")?)?;
                Ok(Fields::new().with("bytes", bytes).with("source", source).into())
            }
            "net-up" => {
                let (address, prefix) = (fields.number("address")?, fields.number("prefix")?);
                let mtu = fields.number_or("mtu", 1500)?;
                net::up(fields.text("name")?, address, prefix, mtu).map(|()| Answer::default())
            }
            "net-echo" => {
                let (bytes, hash) = net::echo(fields.number("address")?, fields.number("length")?)?;
                Ok(Fields::new().with("bytes", bytes).with("sha256", hash).into())
            }
            "net-carrier" => {
                let carrier = u8::from(net::has_carrier(fields.text("name")?)?);
                Ok(Fields::new().with("carrier", carrier).into())
            }
            "echo" => crate::echo(fields.text("dev")?).map(|()| Answer::default()),
            "screen-draw" => {
                let (width, height) = screen::draw(fields.number("seed")?)?;
                Ok(Fields::new().with("width", width).with("height", height).into())
            }
            "input-watch" => input::watch(&fields.text("name")?.replace('_', " "), &self.0.input)
                .map(|()| Answer::default()),
            "input-take" => Ok(listing(lock(&self.0.input).drain(..).collect())),
            "errors" => Ok(listing(text(system::trouble())?)),
            "dmesg" => {
                let mut messages = text(system::messages())?;
                let lines = fields.number_or("lines", 50)?;
                Ok(listing(messages.split_off(messages.len().saturating_sub(lines))))
            }
            "capacity-changes" => Ok(Fields::new().with("count", text(system::capacity_changes())?).into()),
            "uptime" => Ok(Fields::new().with("ms", text(system::uptime())?).into()),
            "boot-loader" => Ok(Fields::new().with("type", text(system::boot_loader())?).into()),
            "reboot" => Ok(self.ending(|| system::halt(RebootCommand::Restart))),
            "poweroff" => Ok(self.ending(|| system::halt(RebootCommand::PowerOff))),
            "unbind" => Ok(Fields::new().with("name", text(system::unbind(fields.text("dev")?))?).into()),
            "bind" => text(system::bind(fields.text("name")?)).map(|()| Answer::default()),
            "restart-at-once" => {
                Ok(Answer { then: Some(|| text(system::restart_at_once())), ..Answer::default() })
            }
            "panic" => Ok(Answer { then: Some(|| text(system::panic())), ..Answer::default() }),
            verb => Err(format!("unknown request {verb}")),
        }
    }

    fn fill(&self, fields: &Fields) -> Result<Answer> {
        let seq = fields.number_or("seq", 1)?;
        if !(1..=MAX_SEQ).contains(&seq) {
            return Err(format!("seq must be 1 to {MAX_SEQ}"));
        }
        self.check_idle(fields)?;
        let device = device(fields)?;
        let region = Region::fill(
            &device,
            fields.number("offset")?,
            fields.number("length")?,
            fields.number("seed")?,
            seq,
        )?;
        let blocks = region.blocks();
        lock(&self.0.regions).insert(fields.text("dev")?.to_owned(), Arc::new(region));
        Ok(Fields::new().with("blocks", blocks).into())
    }

    fn verify_full(&self, fields: &Fields) -> Result<Answer> {
        self.check_idle(fields)?;
        let (offset, length) = (fields.number("offset")?, fields.number("length")?);
        let (seed, oldest) = (fields.number("seed")?, fields.number_or("min", 1)?);
        let (region, report) = Region::adopt(&device(fields)?, offset, length, seed, oldest)?;
        lock(&self.0.regions).insert(fields.text("dev")?.to_owned(), Arc::new(region));
        Ok(Answer { fields: report.fields(), progress: report.examples, then: None })
    }

    fn random_write(&self, fields: &Fields) -> Result<Answer> {
        let device = device(fields)?;
        let name = fields.text("dev")?.to_owned();
        let regions = lock(&self.0.regions);
        let region = Arc::clone(regions.get(&name).ok_or_else(|| unknown_region(&name))?);
        let settings = Settings::parse(fields, &region)?;
        region.users.fetch_add(1, Ordering::AcqRel);
        let used = Arc::clone(&region);
        let job = self.0.jobs.start(move |job| {
            let result = load::run(job, &device, &used, &settings);
            used.users.fetch_sub(1, Ordering::AcqRel);
            result
        });
        if job.is_err() {
            region.users.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(Fields::new().with("job", job?).into())
    }

    fn fs_load(&self, fields: &Fields) -> Result<Answer> {
        let (seed, keep, size) = (fields.number("seed")?, fields.number("files")?, fields.number("size")?);
        let slot = self.file_system(fields.text("dev")?);
        {
            let busy = || "a load runs on this file system".to_owned();
            slot.try_lock().map_err(|_| busy())?.make()?;
        }
        let job = self.0.jobs.start(move |job| lock(&slot).load(job, seed, keep, size))?;
        Ok(Fields::new().with("job", job).into())
    }

    fn fs_verify(&self, fields: &Fields) -> Result<Answer> {
        let slot = self.file_system(fields.text("dev")?);
        let files = slot.try_lock().map_err(|_| "stop the load first".to_owned())?.verify()?;
        Ok(Fields::new().with("files", files).into())
    }

    /// The device's file system. Its user holds the lock.
    fn file_system(&self, device: &str) -> Arc<Mutex<Arc<FileSystem>>> {
        let mut all = lock(&self.0.file_systems);
        let new = || Arc::new(Mutex::new(Arc::new(FileSystem::new(device))));
        Arc::clone(all.entry(device.to_owned()).or_insert_with(new))
    }

    fn region(&self, fields: &Fields) -> Result<Arc<Region>> {
        let name = fields.text("dev")?;
        self.check_idle(fields)?;
        lock(&self.0.regions).get(name).cloned().ok_or_else(|| unknown_region(name))
    }

    fn check_idle(&self, fields: &Fields) -> Result<()> {
        let name = fields.text("dev")?;
        match lock(&self.0.regions).get(name) {
            Some(region) if region.users.load(Ordering::Acquire) > 0 => {
                Err(format!("a job runs on {name}: stop it first"))
            }
            _ => Ok(()),
        }
    }

    /// An answer after which the machine ends. File systems that are not in use are unmounted first.
    fn ending(&self, then: fn() -> Result<()>) -> Answer {
        for slot in lock(&self.0.file_systems).values() {
            // One that is in use is only flushed, like everything else.
            let _ = slot.try_lock().map(|file_system| file_system.unmount());
        }
        rustix::fs::sync();
        Answer { then: Some(then), ..Answer::default() }
    }
}

/// A line that can wait until everything written to it has been sent.
pub trait Line: Write + Send + 'static {
    /// Waits until everything written has left the port.
    fn drain(&self) -> io::Result<()>;
}

impl Line for File {
    fn drain(&self) -> io::Result<()> {
        Ok(rustix::termios::tcdrain(self)?)
    }
}

fn device(fields: &Fields) -> Result<Device> {
    Device::open(fields.text("dev")?)
}

fn read_hash(fields: &Fields) -> Result<Answer> {
    let (device, offset, length) = (device(fields)?, fields.number("offset")?, fields.number("length")?);
    device.check_range(offset, length)?;
    let mut hasher = Sha256::new();
    regions::for_each_chunk(offset, length, |at, buffer| {
        device.read(at, buffer)?;
        hasher.update(&**buffer);
        Ok(())
    })?;
    let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Fields::new().with("sha256", hash).into())
}

fn listing(progress: Vec<String>) -> Answer {
    Answer { fields: Fields::new().with("count", progress.len()), progress, then: None }
}

fn unknown_region(device: &str) -> String {
    format!("the content of {device} is unknown: fill it first")
}

fn text<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|error| error.to_string())
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
