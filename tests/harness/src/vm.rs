//! One `millrace` process: its guest, its monitor, and what it said.

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

/// A guest boots in a few seconds, several times that on a busy host under emulation.
pub const BOOT: Duration = Duration::from_secs(90);
/// The longest that any one step of a session may take.
pub const STEP: Duration = Duration::from_secs(60);

/// How a machine is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--drive` options in order.
    pub drives: Vec<String>,
    /// vCPUs.
    pub cpus: u32,
    /// Without one, only the disks and the monitor run.
    pub guest: bool,
    /// The guest kernel's command line.
    pub cmdline: String,
    /// Further arguments of `millrace run`.
    pub more: Vec<String>,
}

/// A quiet kernel, which says only what is wrong.
pub const CMDLINE: &str = "console=ttyS0 reboot=acpi panic=-1 pci=off noreplace-smp cryptomgr.notests quiet";

impl Options {
    /// A guest with one vCPU and these drives.
    pub fn new(drives: &[String]) -> Self {
        let cmdline = CMDLINE.to_owned();
        Options { drives: drives.to_vec(), cpus: 1, guest: true, cmdline, more: Vec::new() }
    }
}

/// A running `millrace`, killed when dropped.
pub struct Vm {
    /// The monitor.
    pub qmp: Client,
    agent: Option<Agent<UnixStream>>,
    child: Child,
    folder: PathBuf,
}

impl Vm {
    /// Starts one whose sockets and logs lie in `folder`, and waits for its guest's agent.
    pub fn start(programs: &Programs, folder: &Path, options: &Options) -> Result<Self, Failure> {
        let path = |name: &str| folder.join(name);
        let mut command = Command::new(&programs.millrace);
        // A call that the sandbox forgot ends the program, and the test.
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
        // One log for all programs of a folder: the story of a restart is told in one place.
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

    /// Another client of the monitor.
    pub fn connect(&self) -> Result<Client, Failure> {
        let mut client = Client::connect(&qmp::Address::Unix(self.folder.join("qmp")), STEP)?;
        client.set_timeout(STEP);
        Ok(client)
    }

    /// The guest's agent.
    ///
    /// # Errors
    /// For a machine without a guest.
    pub fn agent(&mut self) -> Result<&mut Agent<UnixStream>, Failure> {
        self.agent.as_mut().ok_or_else(|| "there is no guest".into())
    }

    /// What the program wrote to its standard output and error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// `change`: switches a disk.
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
            other => Err(format!("block_stream of one cluster answered {other:?}").into()),
        }
    }

    /// `block_stream` with `all`.
    pub fn stream(&mut self, device: &str) -> Result<(), Failure> {
        self.block_stream(device, Some(true), None).map(drop)
    }

    /// Limits the background stream of `device`, in bytes a second; 0 takes the limit away.
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
                None => Err(format!("{device}: the stream ended before anybody could look").into()),
            }
        })
    }

    /// Waits for the end of the next background stream, which must be a good one.
    pub fn stream_completed(&mut self, time: Duration) -> Result<(), Failure> {
        let event: BlockStreamCompleted = self.qmp.wait(Instant::now() + time)?;
        match event.error {
            None if event.offset == event.len => Ok(()),
            _ => Err(format!("the stream ended wrong: {event:?}").into()),
        }
    }

    /// Ends the program by `quit` and waits for its end.
    pub fn quit(mut self) -> Result<(), Failure> {
        self.qmp.execute(&command::Quit {})?;
        self.ended()
    }

    /// Waits for the program's end, which must be a good one.
    pub fn ended(mut self) -> Result<(), Failure> {
        let status = self.wait(STEP)?;
        if status.success() { Ok(()) } else { Err(format!("{status}: {}", self.log()).into()) }
    }

    /// What the guest's kernel has written to its console.
    pub fn console(&self) -> String {
        let console = std::fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// Waits for the program's end.
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

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(rustix::process::kill_process(pid.ok_or("no process")?, signal)?)
    }

    /// Kills the program as a power cut of the host's process would: no chance to write anything.
    ///
    /// Returns when its images are free for others: the kernel lets go of them a little after its end.
    pub fn kill(&mut self) -> Result<(), Failure> {
        kill(&mut self.child)
    }
}

/// Kills a program and waits until the kernel has let go of its files.
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

/// Connects to the monitor of a program that is starting, and gives up where that has ended.
fn connect(address: &qmp::Address, child: &mut Child) -> Result<Client, Failure> {
    let deadline = Instant::now() + STEP;
    loop {
        match Client::connect(address, Duration::from_secs(1)) {
            Ok(client) => return Ok(client),
            Err(e) if Instant::now() > deadline => return Err(e.into()),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("millrace ended before it could be asked anything: {status}").into());
        }
    }
}

/// What a process has open, as `/proc/locks` writes a file: by the end of its device's number and its inode.
fn open_files(process: u32) -> Result<Vec<String>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // One that was closed meanwhile is not open.
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
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
