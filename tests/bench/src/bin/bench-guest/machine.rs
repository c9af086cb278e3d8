//! One guest on one of the two machines: ours, or the one that it is compared with.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::storage;
use guest_agent::client::{self, Agent};
use harness::programs::Programs;
use harness::{BOOT, CMDLINE, Failure, STEP, images};

use crate::Arguments;

/// Size of the guest's RAM, in MiB.
pub const MEMORY: u64 = 256;
/// The first line that init prints.
const GREETING: &str = "init-has-started";

/// The machine that ours is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// QEMU's microvm.
    Qemu,
    /// Ours without a screen, while ours has one that nobody looks at.
    NoScreen,
    /// The machine of another build of our program.
    Build(PathBuf),
}

/// One of the two machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Ours,
    Peer,
}

/// The files and options that both machines are started with.
pub struct Stage {
    programs: Programs,
    peer: Peer,
    folder: PathBuf,
    /// One image for each machine, because each locks its own.
    images: [PathBuf; 2],
    direct: bool,
    aio: String,
    qemu_machine: String,
    qemu_aio: String,
    qemu_iothread: bool,
}

/// A booted guest. Its machine is killed when this value is dropped.
pub struct Machine {
    pub agent: Agent<UnixStream>,
    /// The time from the machine's start to the start of its init.
    pub boot: Duration,
    child: Child,
}

impl Stage {
    /// Makes raw images full of data.
    pub fn new(folder: &Path, arguments: &Arguments) -> Result<Self, Failure> {
        let size = arguments.size << 20;
        let programs = Programs::ready()?;
        let images = images::Images::new(&programs.millrace, folder);
        let images =
            [images.raw("ours.img", size, &[(0, size)])?, images.raw("theirs.img", size, &[(0, size)])?];
        Ok(Stage {
            programs,
            peer: arguments.peer(),
            folder: folder.to_owned(),
            images,
            direct: arguments.direct,
            aio: arguments.aio.clone(),
            qemu_machine: arguments.qemu_machine.clone(),
            qemu_aio: arguments.qemu_aio.clone(),
            qemu_iothread: arguments.qemu_iothread,
        })
    }

    /// Waits until all writes of earlier rows are on the storage.
    pub fn settle(&self) -> Result<(), Failure> {
        storage::settle(&self.folder)
    }

    /// Boots a guest and waits for its agent.
    pub fn boot(&self, side: Side) -> Result<Machine, Failure> {
        let name = |what: &str| self.folder.join(format!("{what}-{side:?}"));
        let (socket, log) = (name("agent"), name("log"));
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let cmdline = format!("{CMDLINE} MILLRACE_GREETING={GREETING}");
        let mut command = match (side, &self.peer) {
            (Side::Ours, Peer::NoScreen) => {
                let mut command =
                    self.millrace(&self.programs.millrace, side, &socket, &format!("console=tty0 {cmdline}"));
                command.args(["--vnc", &format!("unix:{}", name("vnc").display())]);
                command
            }
            (Side::Peer, Peer::Qemu) => self.qemu(&socket, &cmdline)?,
            (Side::Peer, Peer::Build(program)) => self.millrace(program, side, &socket, &cmdline),
            (Side::Ours, _) | (Side::Peer, Peer::NoScreen) => {
                self.millrace(&self.programs.millrace, side, &socket, &cmdline)
            }
        };
        // Standard input and output are the first serial port, which is the guest's console.
        let (mut console, other) = UnixStream::pair()?;
        command.stdin(Stdio::from(OwnedFd::from(other.try_clone()?))).stdout(OwnedFd::from(other));
        command.stderr(File::create(&log)?);
        storage::fault_in_free()?;
        let started = Instant::now();
        let child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        // Otherwise the console would stay open when the machine ends.
        drop(command);
        let mut machine = Starting(Some(child));
        let told = |e: Failure| -> Failure {
            format!("{side:?}: {e}: {}", std::fs::read_to_string(&log).unwrap_or_default()).into()
        };
        let boot = greeted(&mut console, started).map_err(told)?;
        // Nobody reads the console from here on; a quiet kernel does not fill the buffer.
        let mut agent =
            Agent::connect_unix(&socket, BOOT, client::console_file(&log)).map_err(|e| told(e.into()))?;
        agent.set_patience(STEP);
        let child = machine.0.take().ok_or("the machine is gone")?;
        Ok(Machine { agent, boot, child })
    }

    fn millrace(&self, program: &Path, side: Side, socket: &Path, cmdline: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--kernel")
            .arg(&self.programs.kernel)
            .arg("--initrd")
            .arg(&self.programs.initrd);
        command.args(["--cmdline", cmdline, "--memory", &format!("{MEMORY}M"), "--serial", "stdio"]);
        command.args(["--serial", &format!("unix:{}", socket.display()), "--drive"]);
        let cache = if self.direct { "none" } else { "writeback" };
        command.arg(format!(
            "id=disk,file={},format=raw,cache={cache},aio={}",
            self.images[side as usize].display(),
            self.aio
        ));
        command
    }

    fn qemu(&self, socket: &Path, cmdline: &str) -> Result<Command, Failure> {
        let mut command = emulated_host::qemu()?.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-enable-kvm", "-cpu", "host"]);
        // Without an RTC the kernel would wait seconds for one.
        command.args(["-M", &format!("microvm,rtc=on{}", self.qemu_machine), "-m", &MEMORY.to_string()]);
        command.arg("-kernel").arg(&self.programs.kernel).arg("-initrd").arg(&self.programs.initrd);
        command.args(["-append", cmdline, "-serial", "stdio", "-chardev"]);
        command.arg(format!("socket,id=agent,server=on,wait=off,path={}", socket.display()));
        command.args(["-device", "isa-serial,chardev=agent,index=1,iobase=0x2f8,irq=3", "-drive"]);
        let cache = if self.direct { "none" } else { "writeback" };
        let aio = &self.qemu_aio;
        command.arg(format!(
            "if=none,id=disk,format=raw,file={},cache={cache},aio={aio}",
            self.images[1].display()
        ));
        if self.qemu_iothread {
            command.args([
                "-object",
                "iothread,id=io",
                "-device",
                "virtio-blk-device,drive=disk,iothread=io",
            ]);
        } else {
            command.args(["-device", "virtio-blk-device,drive=disk"]);
        }
        Ok(command)
    }
}

/// A machine that is killed if its guest does not come up.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Both fail only if the process has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads the console until init prints its greeting. Returns the time since `started`.
fn greeted(console: &mut UnixStream, started: Instant) -> Result<Duration, Failure> {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    console.set_read_timeout(Some(BOOT))?;
    loop {
        let count = console.read(&mut chunk)?;
        let now = started.elapsed();
        text.extend_from_slice(&chunk[..count]);
        if text.windows(GREETING.len()).any(|window| window == GREETING.as_bytes()) {
            return Ok(now);
        }
        if count == 0 || now > BOOT {
            return Err(format!("no init; the console: {}", String::from_utf8_lossy(&text)).into());
        }
    }
}

impl Machine {
    /// The process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes the guest power off, and waits until the machine ends.
    pub fn end(mut self) -> Result<(), Failure> {
        self.agent.poweroff()?;
        let mut status = None;
        harness::wait_for("the machine to end", STEP, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        harness::check(
            status.is_some_and(|status| status.success()),
            format!("the machine ends well: {status:?}"),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
