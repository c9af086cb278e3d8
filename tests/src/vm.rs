//! One `millrace` process: its guest, its monitor, and what it said.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use guest_images::agent::{self, Agent};
use qmp::Client;
use qmp::command::{self, Change};
use qmp::event::BlockStreamCompleted;

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
}

impl Options {
    /// A guest with one vCPU and these drives.
    pub fn new(drives: &[String]) -> Self {
        Options { drives: drives.to_vec(), cpus: 1, guest: true }
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
        command.args(["run", "--qmp", &format!("unix:{}", path("qmp").display())]);
        for drive in &options.drives {
            command.args(["--drive", drive]);
        }
        if options.guest {
            command.arg("--kernel").arg(&programs.kernel).arg("--initrd").arg(&programs.initrd);
            command.args(["--cmdline", "console=ttyS0 reboot=acpi panic=-1 pci=off quiet"]);
            command.args(["--memory", "256M", "--cpus", &options.cpus.to_string()]);
            command.args(["--serial", &format!("file:{}", path("console").display())]);
            command.args(["--serial", &format!("unix:{}", path("agent").display())]);
        } else {
            command.args(["--machine", "none"]);
        }
        let log = File::create(path("log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let address = qmp::Address::Unix(path("qmp"));
        let joined = Client::connect(&address, STEP).map_err(Failure::from).and_then(|mut qmp| {
            qmp.set_timeout(STEP);
            let console = agent::console_file(path("console"));
            let agent = options.guest.then(|| Agent::connect_unix(path("agent"), BOOT, console));
            Ok((qmp, agent.transpose()?))
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

    /// `block_stream` with `all`.
    pub fn stream(&mut self, device: &str) -> Result<(), Failure> {
        self.qmp.execute(&command::BlockStream { device: device.into(), all: Some(true), stop: None })?;
        Ok(())
    }

    /// `block_stream` with `stop`.
    pub fn stop_stream(&mut self, device: &str) -> Result<(), Failure> {
        self.qmp.execute(&command::BlockStream { device: device.into(), all: None, stop: Some(true) })?;
        Ok(())
    }

    /// Waits for the end of a background stream, which must be a good one.
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

    /// Kills the program as a power cut of the host's process would: no chance to write anything.
    pub fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
