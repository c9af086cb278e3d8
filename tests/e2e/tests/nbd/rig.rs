//! A program with exported disks, a model of their content, and the client programs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use harness::images::drive;
use harness::programs::{self, Programs};
use harness::{Failure, Options, STEP, Vm};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// The programs that the tests run, and their Debian packages.
const TOOLS: [(&str, &str); 8] = [
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdsh", "python3-libnbd"),
    ("nbdkit", "nbdkit"),
    ("qemu-nbd", "qemu-utils"),
    ("fio", "fio"),
];

fn missing() -> Vec<&'static str> {
    let runs = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let mut packages: Vec<_> = TOOLS.iter().filter(|(tool, _)| !runs(tool)).map(|(_, of)| *of).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// Makes sure that the client programs are installed: if run as root, installs the missing ones.
fn tools() -> Result<(), String> {
    static TOOLS: OnceLock<Result<(), String>> = OnceLock::new();
    let install = || {
        let packages = missing();
        if !packages.is_empty() && rustix::process::geteuid().is_root() {
            let mut apt = Command::new("apt-get");
            apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(&packages);
            // Checked below.
            let _ = apt.env("DEBIAN_FRONTEND", "noninteractive").output();
        }
        match missing() {
            packages if packages.is_empty() => Ok(()),
            packages => Err(format!("install the packages {}", packages.join(" "))),
        }
    };
    TOOLS.get_or_init(install).clone()
}

/// The program, built once for all tests of this process.
pub fn millrace() -> Result<&'static Path, Failure> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| programs::millrace().map_err(|e| e.to_string()));
    Ok(built.as_ref().map_err(Clone::clone)?)
}

/// Runs a program, which must succeed. Returns its output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = finish(Command::new(program).args(arguments))?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!("{program} {arguments:?}: {}", said(&output)).into()),
    }
}

/// Runs a program, which must fail. Returns its output and errors.
pub fn fails(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = finish(Command::new(program).args(arguments))?;
    match output.status.success() {
        true => Err(format!("{program} {arguments:?} succeeded: {}", said(&output)).into()),
        false => Ok(said(&output)),
    }
}

fn finish(command: &mut Command) -> Result<Output, Failure> {
    Ok(command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A folder for images, in which the program is started.
pub struct Rig {
    folder: TempDir,
}

impl Rig {
    pub fn new() -> Result<Self, Failure> {
        tools()?;
        Ok(Rig { folder: programs::scratch()? })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts the program with these disks (id, file, format) and its NBD server, without exports.
    pub fn start(&self, disks: &[(&str, &str, &str)]) -> Result<Vm, Failure> {
        let drives: Vec<_> =
            disks.iter().map(|(id, file, format)| drive(id, &self.path(file), format)).collect();
        let mut vm = self.start_with(&drives, &[])?;
        self.start_server(&mut vm, json!({}))?;
        Ok(vm)
    }

    /// Starts the program with these `--drive` options and further arguments, without an NBD server.
    pub fn start_with(&self, drives: &[String], more: &[String]) -> Result<Vm, Failure> {
        let options = Options { guest: false, more: more.to_vec(), ..Options::new(drives) };
        Vm::start(&Programs::without_guest(millrace()?), self.folder.path(), &options)
    }

    /// Runs `nbd-server-start` on the rig's socket, with `more` arguments.
    pub fn start_server(&self, vm: &mut Vm, more: Value) -> Result<(), Failure> {
        let mut arguments = json!({"addr": {"type": "unix", "data": {"path": self.path("nbd")}}});
        if let (Some(arguments), Some(more)) = (arguments.as_object_mut(), more.as_object()) {
            arguments.extend(more.clone());
        }
        vm.qmp.execute_json("nbd-server-start", arguments)?;
        Ok(())
    }

    /// Exports a disk under its own name. Returns the export's URI.
    pub fn export(&self, vm: &mut Vm, device: &str, writable: bool) -> Result<String, Failure> {
        let arguments = json!({"device": device, "writable": writable});
        vm.qmp.execute_json("nbd-server-add", arguments)?;
        Ok(self.uri(device))
    }

    /// The URI of an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.path("nbd").display())
    }

    /// A connection in its transmission phase, on which a test sends every byte itself.
    pub fn connect(&self, name: &str) -> Result<UnixStream, Failure> {
        let mut stream = self.connect_only()?;
        greeted(&mut stream)?;
        // The client's flags; then EXPORT_NAME with the name, and its reply.
        stream.write_all(&[0, 0, 0, 3])?;
        stream.write_all(b"IHAVEOPT\0\0\0\x01")?;
        stream.write_all(&u32::try_from(name.len())?.to_be_bytes())?;
        stream.write_all(name.as_bytes())?;
        stream.read_exact(&mut [0; 10])?;
        Ok(stream)
    }

    /// A connection on which nothing has been sent.
    pub fn connect_only(&self) -> Result<UnixStream, Failure> {
        let stream = UnixStream::connect(self.path("nbd"))?;
        stream.set_read_timeout(Some(STEP))?;
        Ok(stream)
    }

    /// Compares a disk with the model.
    pub fn holds(&self, format: &str, disk: &str, model: &Model) -> Result<(), Failure> {
        std::fs::write(self.path("model"), &model.0)?;
        run("qemu-img", &["compare", "-f", "raw", "-F", format, &self.text("model"), disk]).map(drop)
    }
}

/// Waits for the server's greeting.
pub fn greeted(stream: &mut UnixStream) -> Result<(), Failure> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    match greeting.starts_with(b"NBDMAGICIHAVEOPT") {
        true => Ok(()),
        false => Err("not an NBD server".into()),
    }
}

/// The 28 bytes of a request.
pub fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
    bytes.extend(command.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Waits until the server hangs up. Discards everything that it sends before.
pub fn hung_up(stream: &mut UnixStream) -> Result<(), Failure> {
    match std::io::copy(stream, &mut std::io::sink()) {
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => Err(e.into()),
        _ => Ok(()),
    }
}

/// The content of a disk.
#[derive(Clone)]
pub struct Model(pub Vec<u8>);

impl Model {
    pub fn new(size: u64) -> Self {
        Model(vec![0; size as usize])
    }

    /// Fills a range. Returns the `qemu-io` command that does the same to a disk.
    pub fn write(&mut self, offset: u64, len: u64, byte: u8) -> String {
        self.0[offset as usize..(offset + len) as usize].fill(byte);
        format!("write -P {byte} {offset} {len}")
    }

    /// Returns the `qemu-io` command that checks a range whose bytes all have the same value.
    pub fn read(&self, offset: u64, len: u64) -> String {
        let byte = self.0[offset as usize];
        assert!(self.0[offset as usize..(offset + len) as usize].iter().all(|b| *b == byte));
        format!("read -P {byte} {offset} {len}")
    }
}

/// Runs `qemu-io` commands on a disk, each of which must succeed.
pub fn qemu_io(format: &str, disk: &str, commands: &[String]) -> Result<(), Failure> {
    let mut arguments = vec!["-f", format];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    arguments.push(disk);
    let said = run("qemu-io", &arguments)?;
    // If a pattern is not found, it only prints that and succeeds.
    match said.contains("failed") {
        true => Err(said.into()),
        false => Ok(()),
    }
}
