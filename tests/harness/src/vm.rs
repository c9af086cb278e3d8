//! One `millrace` process: its guest, its monitor and its output.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use guest_agent::client::{self, Agent};
use qmp::Client;
use qmp::command::{self, BlockStream, Change};
use qmp::event::BlockStreamCompleted;
use qmp::types::{BlockStreamInfo, BlockStreamReply};
use rustix::process::{Pid, Signal};

use crate::Failure;
use crate::programs::Programs;

/// A guest boots in a few seconds; under emulation on a busy host it takes several times that.
pub const BOOT: Duration = Duration::from_secs(90);
/// The longest time that any one step of a session may take.
pub const STEP: Duration = Duration::from_secs(60);

/// The parameters of a machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `--drive` options, in order.
    pub drives: Vec<String>,
    /// The number of vCPUs.
    pub cpus: u32,
    /// True to boot a guest. Otherwise only the disks and the monitor run.
    pub guest: bool,
    /// The guest kernel's command line.
    pub cmdline: String,
    /// Further arguments of `millrace run`.
    pub more: Vec<String>,
}

/// The command line of a quiet kernel, which prints errors only.
pub const CMDLINE: &str = "console=ttyS0 reboot=acpi panic=-1 pci=off noreplace-smp cryptomgr.notests quiet";

impl Options {
    /// A guest with one vCPU and these drives.
    pub fn new(drives: &[String]) -> Self {
        let cmdline = CMDLINE.to_owned();
        Options { drives: drives.to_vec(), cpus: 1, guest: true, cmdline, more: Vec::new() }
    }
}

/// A running `millrace`. It is killed when this value is dropped.
pub struct Vm {
    /// The monitor.
    pub qmp: Client,
    agent: Option<Agent<UnixStream>>,
    child: Child,
    folder: PathBuf,
}

impl Vm {
    /// Starts a `millrace` whose sockets and logs are in `folder`, and waits for its guest's agent.
    pub fn start(programs: &Programs, folder: &Path, options: &Options) -> Result<Self, Failure> {
        let path = |name: &str| folder.join(name);
        let mut command = Command::new(&programs.millrace);
        // If the sandbox lacks a call, this ends the program, and the test fails.
        command.args(["run", "--sandbox", "strict", "--qmp", &format!("unix:{}", path("qmp").display())]);
        for drive in &options.drives {
            command.args(["--drive", drive]);
        }
        command.args(&options.more);
        if options.guest {
            command.arg("--kernel").arg(&programs.kernel).arg("--initrd").arg(&programs.initrd);
            command.args(["--cmdline", &options.cmdline]);
            command.args(["--memory", "256M", "--cpus", &options.cpus.to_string()]);
            command.args(["--serial", &format!("file:{}", path("console").display())]);
            command.args(["--serial", &format!("unix:{}", path("agent").display())]);
        } else {
            command.args(["--machine", "none"]);
        }
        // All programs of a folder share one log, so that it shows a restart from both sides.
        let log = File::options().create(true).append(true).open(path("log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let address = qmp::Address::Unix(path("qmp"));
        let joined = connect(&address, &mut child).and_then(|mut qmp| {
            qmp.set_timeout(STEP);
            let console = client::console_file(path("console"));
            let agent = options.guest.then(|| Agent::connect_unix(path("agent"), BOOT, console));
            let mut agent = agent.transpose()?;
            if let Some(agent) = &mut agent {
                agent.set_patience(STEP);
            }
            Ok((qmp, agent))
        });
        match joined {
            Ok((qmp, agent)) => Ok(Vm { qmp, agent, child, folder: folder.to_owned() }),
            Err(e) => {
                child.kill()?;
                child.wait()?;
                let log = std::fs::read_to_string(path("log")).unwrap_or_default();
                Err(format!("{e}\nmillrace said: {log}").into())
            }
        }
    }

    /// Connects another client to the monitor.
    pub fn connect(&self) -> Result<Client, Failure> {
        let mut client = Client::connect(&qmp::Address::Unix(self.folder.join("qmp")), STEP)?;
        client.set_timeout(STEP);
        Ok(client)
    }

    /// The guest's agent.
    ///
    /// # Errors
    /// If the machine has no guest.
    pub fn agent(&mut self) -> Result<&mut Agent<UnixStream>, Failure> {
        self.agent.as_mut().ok_or_else(|| "there is no guest".into())
    }

    /// The program's standard output and error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// `change`: switches a disk to another image.
    pub fn change(
        &mut self,
        device: &str,
        target: &Path,
        format: Option<&str>,
        notify: bool,
    ) -> Result<(), Failure> {
        self.qmp.execute(&Change {
            device: device.into(),
            target: target.display().to_string(),
            arg: None,
            format: format.map(Into::into),
            notify: Some(notify),
        })?;
        Ok(())
    }

    /// `block_stream` of a single cluster.
    pub fn stream_one(&mut self, device: &str) -> Result<BlockStreamInfo, Failure> {
        match self.block_stream(device, None, None)? {
            BlockStreamReply::Cluster(info) => Ok(info),
            other => Err(format!("block_stream of one cluster returned {other:?}").into()),
        }
    }

    /// `block_stream` with `all`: starts a background stream.
    pub fn stream(&mut self, device: &str) -> Result<(), Failure> {
        self.block_stream(device, Some(true), None).map(drop)
    }

    /// Limits the background stream of `device`, in bytes per second; 0 removes the limit.
    pub fn set_speed(&mut self, device: &str, speed: i64) -> Result<(), Failure> {
        self.qmp.execute(&command::BlockJobSetSpeed { device: device.into(), speed })?;
        Ok(())
    }

    /// `block_stream` with `stop`.
    pub fn stop_stream(&mut self, device: &str) -> Result<(), Failure> {
        self.block_stream(device, None, Some(true)).map(drop)
    }

    fn block_stream(
        &mut self,
        device: &str,
        all: Option<bool>,
        stop: Option<bool>,
    ) -> Result<BlockStreamReply, Failure> {
        Ok(self.qmp.execute(&BlockStream { device: device.into(), all, stop, offset: None })?)
    }

    /// `query-block-stream`: the active background streams.
    pub fn streams(&mut self) -> Result<Vec<BlockStreamInfo>, Failure> {
        Ok(self.qmp.execute(&command::QueryBlockStream {})?)
    }

    /// Waits until the background stream of `device` has copied something and still runs.
    pub fn stream_is_midway(&mut self, device: &str) -> Result<(), Failure> {
        crate::wait_for("the stream to copy something", STEP, || {
            let streams = self.streams()?;
            match streams.iter().find(|stream| stream.device == device) {
                Some(stream) => Ok(stream.offset > 0),
                None => Err(format!("{device}: the stream ended before it was observed").into()),
            }
        })
    }

    /// Waits until the next background stream ends; fails if it does not end well.
    pub fn stream_completed(&mut self, time: Duration) -> Result<(), Failure> {
        let event: BlockStreamCompleted = self.qmp.wait(Instant::now() + time)?;
        match event.error {
            None if event.offset == event.len => Ok(()),
            _ => Err(format!("the stream failed: {event:?}").into()),
        }
    }

    /// Ends the program by `quit` and waits for its end.
    pub fn quit(mut self) -> Result<(), Failure> {
        self.qmp.execute(&command::Quit {})?;
        self.ended()
    }

    /// Waits until the program ends; fails if it does not succeed.
    pub fn ended(mut self) -> Result<(), Failure> {
        let status = self.wait(STEP)?;
        if status.success() { Ok(()) } else { Err(format!("{status}: {}", self.log()).into()) }
    }

    /// The guest kernel's console output so far.
    pub fn console(&self) -> String {
        let console = std::fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// Waits until the program ends. Returns its exit status.
    pub fn wait(&mut self, time: Duration) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("millrace did not end within {time:?}; it said: {}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(rustix::process::kill_process(pid.ok_or("no process")?, signal)?)
    }

    /// Kills the program without a chance to write anything, like a power cut.
    ///
    /// Returns when its images are free for other processes: the kernel releases them a little after the
    /// process ends.
    pub fn kill(&mut self) -> Result<(), Failure> {
        kill(&mut self.child)
    }
}

/// Kills a program and waits until the kernel has released its file locks.
pub fn kill(child: &mut Child) -> Result<(), Failure> {
    let files = open_files(child.id())?;
    child.kill()?;
    child.wait()?;
    crate::wait_for("the killed program's locks to go", STEP, || {
        let locks = std::fs::read_to_string("/proc/locks")?;
        let is_held = |file: &String| locks.lines().any(|line| line.contains(file));
        Ok(!files.iter().any(is_held))
    })
}

/// Connects to the monitor of a program that is starting. Fails if the program ends first.
fn connect(address: &qmp::Address, child: &mut Child) -> Result<Client, Failure> {
    let deadline = Instant::now() + STEP;
    loop {
        match Client::connect(address, Duration::from_secs(1)) {
            Ok(client) => return Ok(client),
            Err(e) if Instant::now() > deadline => return Err(e.into()),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("millrace ended before its monitor could be reached: {status}").into());
        }
    }
}

/// The open files of a process, as `/proc/locks` writes a file: the end of the device number, and the
/// inode number.
fn open_files(process: u32) -> Result<Vec<String>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // A file that was closed meanwhile is not open.
        if let Ok(metadata) = std::fs::metadata(entry?.path())
            && metadata.is_file()
        {
            files.push(format!(":{} ", metadata.ino()));
        }
    }
    Ok(files)
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
