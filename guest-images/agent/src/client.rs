//! The host's side of the guest agent: a blocking client. Every wait has a deadline.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use guest_agent::client::{self, Agent, Load, Region};
//! # fn main() -> Result<(), client::AgentError> {
//! let console = client::console_file("console.log");
//! let mut guest = Agent::connect_unix("serial1.sock", Duration::from_secs(60), console)?;
//! let region = Region::new("/dev/vda", 0, 64 << 20, 1);
//! guest.fill(&region, 1)?;
//! let job = guest.random_write(&Load { depth: 8, ..Load::new("/dev/vda") })?;
//! println!("{}", guest.stat(job)?.latency.max_us);
//! guest.stop(job)?;
//! guest.verify("/dev/vda")?;
//! guest.poweroff()
//! # }
//! ```

mod link;
mod report;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::wire::{Fields, Reply};

use link::Lines;
pub use link::Link;
pub use report::{Job, Latency, Load, Rate, Region, Stat, VerifyReport};

/// The time-out of a request unless [`Agent::set_patience`] sets another. Guests may run under
/// emulation.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The interval at which a guest that is still starting is asked for a reply.
const KNOCK: Duration = Duration::from_millis(250);
const CONSOLE_TAIL: u64 = 4096;

/// A function that returns the tail of the guest's console, for errors.
pub type Console = Box<dyn Fn() -> String + Send>;

/// A [`Console`] that reads the end of a file that `--serial file:PATH` writes.
pub fn console_file(path: impl Into<PathBuf>) -> Console {
    let path = path.into();
    Box::new(move || match tail(&path) {
        Ok(text) => text,
        Err(error) => format!("({}: {error})", path.display()),
    })
}

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent refused the request, or failed to do it.
    #[error("guest agent: {verb}: {text}")]
    Refused {
        /// The request.
        verb: String,
        /// The agent's message.
        text: String,
    },
    /// Blocks do not have the content that was written.
    #[error("the guest's data is damaged: {0}")]
    Damaged(Box<VerifyReport>),
    /// No reply within the time-out.
    #[error("guest agent: {verb}: no answer within {seconds} s; the guest's console ended:\n{console}")]
    Timeout {
        /// The request.
        verb: String,
        /// The time-out, in seconds.
        seconds: u64,
        /// The tail of the console.
        console: String,
    },
    /// The serial line broke.
    #[error("guest agent: {verb}: {source}; the guest's console ended:\n{console}")]
    Line {
        /// The request.
        verb: String,
        /// The error of the line.
        source: io::Error,
        /// The tail of the console.
        console: String,
    },
    /// A reply without a required field: the agent has another version.
    #[error("guest agent: {verb}: unexpected answer: {text}")]
    Protocol {
        /// The request.
        verb: String,
        /// The missing or invalid field.
        text: String,
    },
}

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, AgentError>;

/// The reply to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The texts of the `progress` lines, in order.
    pub progress: Vec<String>,
    /// The fields of the `ok` line.
    pub fields: Fields,
}

/// A connection to the agent in a running guest.
pub struct Agent<L: Link> {
    lines: Lines<L>,
    console: Console,
    patience: Duration,
    last_id: u64,
    /// The boot whose agent replied last; empty before the first reply.
    boot: String,
}

impl Agent<std::os::unix::net::UnixStream> {
    /// Connects to the guest's second serial port at the Unix socket `path`, which may not exist yet,
    /// and waits until the agent replies.
    pub fn connect_unix(path: impl AsRef<Path>, timeout: Duration, console: Console) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let link = loop {
            match std::os::unix::net::UnixStream::connect(&path) {
                Ok(link) => break link,
                // The program that makes the socket is still starting; there is no notification when the
                // socket exists.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(source) => {
                    return Err(AgentError::Line { verb: "connect".to_owned(), source, console: console() });
                }
            }
        };
        Self::connect(link, deadline.saturating_duration_since(Instant::now()), console)
    }
}

impl<L: Link> Agent<L> {
    /// Waits until the agent at the other end of `link` replies.
    ///
    /// It does not rely on the `ready` line, which is lost if the guest is ready first: it asks until it
    /// gets a reply.
    pub fn connect(link: L, timeout: Duration, console: Console) -> Result<Self> {
        let mut agent =
            Agent { lines: Lines::new(link), console, patience: PATIENCE, last_id: 0, boot: String::new() };
        agent.wait_reboot(timeout)?;
        Ok(agent)
    }

    /// Waits until the agent of another boot replies than the one that replied last: after a reset from
    /// outside, or after a crash.
    pub fn wait_reboot(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.call("hello", Fields::new(), KNOCK.min(remaining)) {
                Ok(answer) => {
                    let boot = answer.fields.text("boot").map(str::to_owned);
                    let boot =
                        boot.map_err(|text| AgentError::Protocol { verb: "hello".to_owned(), text })?;
                    // The agent of a kernel that is going down still replies for a while.
                    if std::mem::replace(&mut self.boot, boot.clone()) != boot {
                        return Ok(());
                    }
                    // There is no notification when it has ended, and asking without a pause would slow
                    // its end down.
                    std::thread::sleep(KNOCK.min(remaining));
                }
                // A guest that opens its port at this time loses bytes in the middle of the request.
                Err(AgentError::Timeout { .. } | AgentError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                let (verb, console) = ("hello".to_owned(), (self.console)());
                return Err(AgentError::Timeout { verb, seconds: timeout.as_secs(), console });
            }
        }
    }

    /// Sets the time-out of later requests.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends any request and waits for its end. Late replies to earlier requests are dropped.
    pub fn call(&mut self, verb: &str, fields: Fields, timeout: Duration) -> Result<Answer> {
        let deadline = Instant::now() + timeout;
        self.last_id += 1;
        let id = self.last_id;
        // The leading newline ends any noise in the guest's line buffer.
        let request = format!("\n{id} {verb} {fields}\n");
        self.lines.send(request.as_bytes(), deadline).map_err(|source| self.broken(verb, timeout, source))?;
        let mut progress = Vec::new();
        loop {
            let line = self.lines.next(deadline).map_err(|source| self.broken(verb, timeout, source))?;
            match Reply::parse(&line) {
                Some(Reply::Progress(of, text)) if of == id => progress.push(text),
                Some(Reply::Ok(of, fields)) if of == id => return Ok(Answer { progress, fields }),
                Some(Reply::Err(of, text)) if of == id => {
                    return Err(AgentError::Refused { verb: verb.to_owned(), text });
                }
                _ => {}
            }
        }
    }

    /// Writes every block of `region` with sequence number `seq` (at least 1) and flushes. The agent
    /// expects this content from now on.
    pub fn fill(&mut self, region: &Region, seq: u64) -> Result<()> {
        self.ask("fill", region.fields().with("seq", seq)).map(drop)
    }

    /// Reads back every block of the device's region around the page cache, and compares it with what
    /// the agent wrote. Damage is an error. Fails while a job runs on the device.
    pub fn verify(&mut self, device: &str) -> Result<VerifyReport> {
        let answer = self.ask("verify", device_field(device))?;
        report::verified("verify", &answer)
    }

    /// Like [`Agent::verify`], without the agent's memory of what it wrote, as after a reboot: every
    /// block must be whole, in its place, of the region's seed, and written at least `oldest` times. The
    /// content found is expected from now on.
    pub fn verify_full(&mut self, region: &Region, oldest: u64) -> Result<VerifyReport> {
        let answer = self.ask("verify-full", region.fields().with("min", oldest))?;
        report::verified("verify-full", &answer)
    }

    /// A digest of the sequence numbers that the agent expects on the device. If nothing was lost, it
    /// equals the digest that a later [`Agent::verify_full`] reports.
    pub fn digest(&mut self, device: &str) -> Result<u64> {
        let answer = self.ask("digest", device_field(device))?;
        number("digest", &answer.fields, "digest")
    }

    /// Starts random writes in the background, in a region that was filled.
    pub fn random_write(&mut self, load: &Load) -> Result<Job> {
        let answer = self.ask("random-write", load.fields())?;
        Ok(Job(number("random-write", &answer.fields, "job")?))
    }

    /// Starts requests in the background whose content is not checked, and which end by themselves.
    /// Writes destroy the content of the range.
    pub fn rate(&mut self, rate: &Rate) -> Result<Job> {
        let answer = self.ask("rate", rate.fields())?;
        Ok(Job(number("rate", &answer.fields, "job")?))
    }

    /// Makes an ext4 file system on the device and keeps writing, renaming and deleting checked files in
    /// it, in the background. At most `files` files of at most `size` bytes exist at a time.
    pub fn fs_load(&mut self, device: &str, seed: u64, files: u64, size: u64) -> Result<Job> {
        let fields = device_field(device).with("seed", seed).with("files", files).with("size", size);
        let answer = self.ask("fs-load", fields)?;
        Ok(Job(number("fs-load", &answer.fields, "job")?))
    }

    /// Unmounts the device's file system, checks it with `e2fsck -fn`, mounts it again and checks every
    /// file. Returns the number of files. Fails while the load runs.
    pub fn fs_verify(&mut self, device: &str) -> Result<u64> {
        let answer = self.ask("fs-verify", device_field(device))?;
        number("fs-verify", &answer.fields, "files")
    }

    /// A job's figures so far, with the latency of its requests since the last call.
    pub fn stat(&mut self, job: Job) -> Result<Stat> {
        let answer = self.ask("job-stat", job.fields())?;
        report::stat("job-stat", &answer.fields)
    }

    /// Stops a job and waits until none of its requests is in flight. Fails if anything went wrong in
    /// the job.
    pub fn stop(&mut self, job: Job) -> Result<Stat> {
        let answer = self.ask("job-stop", job.fields())?;
        report::stat("job-stop", &answer.fields)
    }

    /// Waits for the end of a job that ends by itself.
    pub fn wait(&mut self, job: Job, timeout: Duration) -> Result<Stat> {
        let answer = self.call("job-wait", job.fields(), timeout)?;
        report::stat("job-wait", &answer.fields)
    }

    /// Flushes the device.
    pub fn fsync(&mut self, device: &str) -> Result<()> {
        self.ask("fsync", device_field(device)).map(drop)
    }

    /// The device's size in bytes, as the guest sees it now.
    pub fn size(&mut self, device: &str) -> Result<u64> {
        let answer = self.ask("size", device_field(device))?;
        number("size", &answer.fields, "bytes")
    }

    /// The SHA-256 of a range of the device, read around the page cache, as hexadecimal digits.
    /// `offset` and `length` are in bytes and multiples of 4096.
    pub fn read_hash(&mut self, device: &str, offset: u64, length: u64) -> Result<String> {
        let answer =
            self.ask("read-hash", device_field(device).with("offset", offset).with("length", length))?;
        text("read-hash", &answer.fields, "sha256")
    }

    /// Mounts the ISO 9660 medium of a removable drive, which locks its tray.
    pub fn disc_mount(&mut self, device: &str) -> Result<()> {
        self.ask("disc-mount", device_field(device)).map(drop)
    }

    /// Unmounts the medium, which unlocks the tray.
    pub fn disc_unmount(&mut self, device: &str) -> Result<()> {
        self.ask("disc-unmount", device_field(device)).map(drop)
    }

    /// The SHA-256 of a file on the mounted medium, as hexadecimal digits.
    pub fn disc_hash(&mut self, device: &str, file: &str) -> Result<String> {
        let answer = self.ask("disc-hash", device_field(device).with("file", file))?;
        text("disc-hash", &answer.fields, "sha256")
    }

    /// Makes the guest open the drive's tray.
    pub fn disc_eject(&mut self, device: &str) -> Result<()> {
        self.ask("disc-eject", device_field(device)).map(drop)
    }

    /// Reads `length` bytes of the guest's hardware random number generator. Returns them as hexadecimal
    /// digits, and the generator's name.
    pub fn random(&mut self, length: usize) -> Result<(String, String)> {
        let answer = self.ask("random", Fields::new().with("length", length))?;
        Ok((text("random", &answer.fields, "bytes")?, text("random", &answer.fields, "source")?))
    }

    /// Draws the pattern of `seed` ([`crate::pattern::pixel`]) on the guest's whole screen. Returns its width
    /// and height.
    pub fn draw(&mut self, seed: u32) -> Result<(u32, u32)> {
        let answer = self.ask("screen-draw", Fields::new().with("seed", seed))?;
        let side = |key| number("screen-draw", &answer.fields, key);
        Ok((side("width")?, side("height")?))
    }

    /// Collects the events of the input device `name`, such as `Millrace Keyboard`, until the guest ends.
    pub fn watch_input(&mut self, name: &str) -> Result<()> {
        self.ask("input-watch", Fields::new().with("name", name.replace(' ', "_"))).map(drop)
    }

    /// Returns the events that were collected since the last call, at most the last 4,096: type, code and
    /// value of each (`linux/input-event-codes.h`), without the ends of reports.
    pub fn input(&mut self) -> Result<Vec<(u16, u16, i32)>> {
        let answer = self.ask("input-take", Fields::new())?;
        let event = |line: &String| {
            let mut numbers = line.split(' ');
            let event = (|| {
                let mut next = || numbers.next();
                Some((next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?))
            })();
            event.ok_or_else(|| AgentError::Protocol { verb: "input-take".to_owned(), text: line.clone() })
        };
        answer.progress.iter().map(event).collect()
    }

    /// Sets the address of the guest's interface `name`, with a network prefix of `prefix` bits, sets
    /// its MTU to `mtu` bytes, and brings it up.
    pub fn net_up(&mut self, name: &str, address: Ipv4Addr, prefix: u8, mtu: u32) -> Result<()> {
        let fields = Fields::new().with("name", name).with("address", address).with("prefix", prefix);
        self.ask("net-up", fields.with("mtu", mtu)).map(drop)
    }

    /// Makes the guest connect to `address`, receive `length` bytes (at most 64 MiB) and send them back.
    /// Returns their number, and their SHA-256 as hexadecimal digits.
    pub fn net_echo(&mut self, address: SocketAddr, length: usize) -> Result<(usize, String)> {
        let answer = self.ask("net-echo", Fields::new().with("address", address).with("length", length))?;
        Ok((number("net-echo", &answer.fields, "bytes")?, text("net-echo", &answer.fields, "sha256")?))
    }

    /// Returns true if the guest's interface `name`, which must be up, has a cable.
    pub fn net_carrier(&mut self, name: &str) -> Result<bool> {
        let answer = self.ask("net-carrier", Fields::new().with("name", name))?;
        Ok(number::<u8>("net-carrier", &answer.fields, "carrier")? == 1)
    }

    /// Makes the guest send back everything that arrives on a terminal, from now on.
    pub fn echo(&mut self, device: &str) -> Result<()> {
        self.ask("echo", device_field(device)).map(drop)
    }

    /// The guest kernel's messages so far about failed or hanging I/O.
    pub fn errors(&mut self) -> Result<Vec<String>> {
        Ok(self.ask("errors", Fields::new())?.progress)
    }

    /// The last `lines` messages of the guest's kernel.
    pub fn dmesg(&mut self, lines: usize) -> Result<Vec<String>> {
        Ok(self.ask("dmesg", Fields::new().with("lines", lines))?.progress)
    }

    /// The number of capacity changes that the guest's block driver has reported.
    pub fn capacity_changes(&mut self) -> Result<u64> {
        let answer = self.ask("capacity-changes", Fields::new())?;
        number("capacity-changes", &answer.fields, "count")
    }

    /// The time since the guest's kernel started.
    pub fn uptime(&mut self) -> Result<Duration> {
        let answer = self.ask("uptime", Fields::new())?;
        number("uptime", &answer.fields, "ms").map(Duration::from_millis)
    }

    /// The boot loader type that the kernel reports: an identifier of the Linux/x86 boot protocol. A
    /// kernel that was entered through PVH sets it to 0xb0 itself.
    pub fn boot_loader(&mut self) -> Result<u8> {
        let answer = self.ask("boot-loader", Fields::new())?;
        number("boot-loader", &answer.fields, "type")
    }

    /// Makes the guest flush everything and power off; the reply comes before it does.
    pub fn poweroff(&mut self) -> Result<()> {
        self.ask("poweroff", Fields::new()).map(drop)
    }

    /// Makes the guest flush everything and reboot, and waits until the agent of the next boot replies.
    pub fn reboot(&mut self, timeout: Duration) -> Result<()> {
        self.ask("reboot", Fields::new())?;
        self.wait_reboot(timeout)
    }

    /// Makes the guest's kernel restart immediately, without flushing anything; the reply comes before
    /// it does.
    pub fn restart_at_once(&mut self) -> Result<()> {
        self.ask("restart-at-once", Fields::new()).map(drop)
    }

    /// Detaches a disk from its driver, even if it is in use. Returns the name to pass to
    /// [`Agent::bind`].
    pub fn unbind(&mut self, device: &str) -> Result<String> {
        let answer = self.ask("unbind", device_field(device))?;
        let name = answer.fields.text("name").map(str::to_owned);
        name.map_err(|text| AgentError::Protocol { verb: "unbind".to_owned(), text })
    }

    /// Attaches a disk to its driver again. It gets its old name if nobody has it open any more.
    pub fn bind(&mut self, name: &str) -> Result<()> {
        self.ask("bind", Fields::new().with("name", name)).map(drop)
    }

    /// Makes the guest's kernel panic, without flushing anything.
    pub fn panic(&mut self) -> Result<()> {
        self.ask("panic", Fields::new()).map(drop)
    }

    fn ask(&mut self, verb: &str, fields: Fields) -> Result<Answer> {
        self.call(verb, fields, self.patience)
    }

    fn broken(&self, verb: &str, timeout: Duration, source: io::Error) -> AgentError {
        let (verb, console) = (verb.to_owned(), (self.console)());
        match source.kind() {
            io::ErrorKind::TimedOut => AgentError::Timeout { verb, seconds: timeout.as_secs(), console },
            _ => AgentError::Line { verb, source, console },
        }
    }
}

fn device_field(device: &str) -> Fields {
    Fields::new().with("dev", device)
}

fn number<T: std::str::FromStr>(verb: &str, fields: &Fields, key: &str) -> Result<T> {
    fields.number(key).map_err(|text| AgentError::Protocol { verb: verb.to_owned(), text })
}

fn text(verb: &str, fields: &Fields, key: &str) -> Result<String> {
    let text = fields.text(key).map(str::to_owned);
    text.map_err(|text| AgentError::Protocol { verb: verb.to_owned(), text })
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
