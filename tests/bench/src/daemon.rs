//! `millrace run --machine none` and `qemu-storage-daemon`, started on the same images and sent the same
//! commands.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qmp::{Address, Client};
use serde_json::{Value, json};
use wait4::{ResUse, Wait4};

use harness::Failure;

/// The time-out of a measured step.
const LONGEST: Duration = Duration::from_secs(1800);

/// The measured program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmm {
    /// `millrace`
    Ours,
    /// `qemu-storage-daemon`
    Qemu,
}

/// A disk as both programs open it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image that is written.
    pub leaf: (PathBuf, String),
    /// Its backing file: path and format.
    pub backing: Option<(PathBuf, String)>,
    /// O_DIRECT instead of the page cache, on both images.
    pub direct: bool,
    /// QEMU's `aio`; ours always uses io_uring.
    pub qemu_aio: String,
}

/// The resources that a process has used in its life.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident memory, in bytes; 0 if it was not measured.
    pub peak: u64,
}

impl Usage {
    /// The CPU time, in seconds.
    pub fn cpu(&self) -> f64 {
        (self.user + self.system).as_secs_f64()
    }

    /// The resources that two processes have used together; the peak is the larger one.
    #[must_use]
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            user: self.user + other.user,
            system: self.system + other.system,
            peak: self.peak.max(other.peak),
        }
    }
}

/// Runs a program to its end. Fails if it does not succeed.
pub fn run_measured(command: &mut Command) -> Result<Usage, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).spawn().map_err(|e| format!("{name}: {e}"))?;
    usage(&name, child.wait4()?, 0)
}

fn usage(name: &str, end: ResUse, peak: u64) -> Result<Usage, Failure> {
    if !end.status.success() {
        return Err(format!("{name}: {}", end.status).into());
    }
    Ok(Usage { user: end.rusage.utime, system: end.rusage.stime, peak })
}

/// A running program with one disk, `disk`. It is killed when this value is dropped.
pub struct Daemon {
    /// Its monitor.
    pub qmp: Client,
    /// The program.
    pub vmm: Vmm,
    /// `None` once its end was observed.
    child: Option<Child>,
    folder: PathBuf,
}

impl Daemon {
    /// Starts `vmm` with its sockets and log in `folder`. `millrace` is the path of our program.
    pub fn start(vmm: Vmm, millrace: &Path, folder: &Path, disk: &Disk) -> Result<Self, Failure> {
        let socket = folder.join("monitor");
        let mut command = match vmm {
            Vmm::Ours => ours(millrace, &socket, disk),
            Vmm::Qemu => qemu(&socket, disk),
        };
        // A socket of an earlier run would be mistaken for this one's.
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let log = File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
        let deadline = Instant::now() + harness::STEP;
        let connected = loop {
            match Client::connect(&Address::Unix(socket.clone()), Duration::from_secs(1)) {
                Ok(client) => break Ok(client),
                Err(e) if Instant::now() > deadline => break Err(e.to_string()),
                Err(_) if child.try_wait()?.is_some() => break Err("it ended at once".to_owned()),
                Err(_) => {}
            }
        };
        match connected {
            Ok(mut qmp) => {
                qmp.set_timeout(harness::STEP);
                Ok(Daemon { qmp, vmm, child: Some(child), folder: folder.to_owned() })
            }
            Err(e) => {
                child.kill()?;
                child.wait()?;
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                Err(format!("{vmm:?}: {e}: {log}").into())
            }
        }
    }

    /// Streams the backing file into the leaf and waits for the event of its end.
    pub fn stream(&mut self) -> Result<(), Failure> {
        self.start_stream()?;
        self.stream_ended()
    }

    /// Starts a stream.
    pub fn start_stream(&mut self) -> Result<(), Failure> {
        match self.vmm {
            Vmm::Ours => self.qmp.execute_json("block_stream", json!({"device": "disk", "all": true}))?,
            Vmm::Qemu => {
                self.qmp.execute_json("block-stream", json!({"job-id": "stream", "device": "disk"}))?
            }
        };
        Ok(())
    }

    /// Limits the running stream, in bytes per second.
    pub fn set_speed(&mut self, speed: u64) -> Result<(), Failure> {
        let device = match self.vmm {
            Vmm::Ours => "disk",
            Vmm::Qemu => "stream",
        };
        self.qmp.execute_json("block-job-set-speed", json!({"device": device, "speed": speed}))?;
        Ok(())
    }

    /// Waits for the event of the stream's end.
    pub fn stream_ended(&mut self) -> Result<(), Failure> {
        let name = match self.vmm {
            Vmm::Ours => "BLOCK_STREAM_COMPLETED",
            Vmm::Qemu => "BLOCK_JOB_COMPLETED",
        };
        let event = self.qmp.wait_event(name, Instant::now() + LONGEST)?;
        if event.data["offset"] != event.data["len"] || event.data.get("error").is_some() {
            return Err(format!("the stream failed: {}", event.data).into());
        }
        Ok(())
    }

    /// Returns true if the stream still runs.
    pub fn is_streaming(&mut self) -> Result<bool, Failure> {
        let jobs = self.qmp.execute_json("query-block-jobs", Value::Null)?;
        Ok(jobs.as_array().is_some_and(|jobs| !jobs.is_empty()))
    }

    /// Exports the disk, writable, under the name `disk`. Returns the path of the socket.
    pub fn export(&mut self) -> Result<PathBuf, Failure> {
        let path = self.folder.join("nbd");
        let address = json!({"addr": {"type": "unix", "data": {"path": path}}});
        self.qmp.execute_json("nbd-server-start", address)?;
        match self.vmm {
            Vmm::Ours => {
                self.qmp.execute_json("nbd-server-add", json!({"device": "disk", "writable": true}))?;
            }
            Vmm::Qemu => {
                let export = json!({"type": "nbd", "id": "export", "node-name": "disk", "writable": true});
                self.qmp.execute_json("block-export-add", export)?;
            }
        }
        Ok(path)
    }

    /// The largest resident memory so far, in bytes.
    pub fn peak(&self) -> Result<u64, Failure> {
        let id = self.child.as_ref().ok_or("the program has ended")?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?.parse()?;
        Ok(kib << 10)
    }

    /// Ends the program by `quit`. Returns the resources it used from its start to its end.
    pub fn quit(mut self) -> Result<Usage, Failure> {
        let peak = self.peak()?;
        self.qmp.execute_json("quit", Value::Null)?;
        let end = self.child.take().ok_or("the program has ended")?.wait4()?;
        usage(&format!("{:?}", self.vmm), end, peak)
    }

    /// Kills the program without a chance to write anything. Returns when its images are free for other
    /// processes.
    pub fn kill(mut self) -> Result<(), Failure> {
        harness::vm::kill(&mut self.child.take().ok_or("the program has ended")?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only if the process has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ours(millrace: &Path, socket: &Path, disk: &Disk) -> Command {
    let mut command = Command::new(millrace);
    command.args(["run", "--machine", "none", "--qmp", &format!("unix:{}", socket.display())]);
    let (leaf, format) = &disk.leaf;
    let cache = if disk.direct { "none" } else { "writeback" };
    command.args(["--drive", &format!("id=disk,file={},format={format},cache={cache}", leaf.display())]);
    command
}

fn qemu(socket: &Path, disk: &Disk) -> Command {
    let mut command = Command::new("qemu-storage-daemon");
    let direct = if disk.direct { "on" } else { "off" };
    // Linux's native AIO works with O_DIRECT only.
    let aio = if disk.qemu_aio == "native" && !disk.direct { "threads" } else { &disk.qemu_aio };
    let mut node = |name: &str, (path, format): &(PathBuf, String), more: &str| {
        let file = path.display();
        let common = format!("cache.direct={direct}{more}");
        let protocol = format!("driver=file,node-name={name}-file,filename={file},aio={aio},{common}");
        // The backing file is given here, so that the one in the header is not needed.
        let above = if name == "disk" && disk.backing.is_some() { ",backing=base" } else { "" };
        let format = format!("driver={format},node-name={name},file={name}-file,{common}{above}");
        command.args(["--blockdev", &protocol, "--blockdev", &format]);
    };
    if let Some(backing) = &disk.backing {
        node("base", backing, ",read-only=on");
    }
    node("disk", &disk.leaf, ",discard=unmap");
    let chardev = format!("socket,id=monitor,path={},server=on,wait=off", socket.display());
    command.args(["--chardev", &chardev, "--monitor", "chardev=monitor"]);
    command
}
