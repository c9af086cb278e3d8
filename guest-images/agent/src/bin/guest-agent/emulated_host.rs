//! Init of the emulated host: mounts the host's files as root, with changes kept in memory, runs one
//! command, and sends its output and status back over the virtio-serial port named `control`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest_agent::frames::{self, Kind};
use guest_agent::interface;
use kvm_ioctls::Kvm;
use rustix::mount::MountFlags;
use rustix::process::Signal;
use rustix::system::RebootCommand;

use crate::init::{kernel_file_systems, mount};
use crate::{ports, system};

const ROOT: &str = "/mnt/root";
/// The mount point of the scratch disk, relative to the root; the host's side expects it there.
const SCRATCH: &str = "run/millrace-scratch";
const PORT_PATIENCE: Duration = Duration::from_secs(20);

/// Runs the command and powers off.
pub fn run() -> ! {
    match open_port("control") {
        Ok(port) => {
            let port = Mutex::new(port);
            let (kind, payload) = match command(&port) {
                Ok(status) => (Kind::Exit, exit_code(status).to_le_bytes().to_vec()),
                Err(text) => (Kind::Failed, text.into_bytes()),
            };
            if let Err(error) = send(&port, kind, &payload) {
                eprintln!("guest-agent: control port: {error}");
            }
        }
        Err(error) => eprintln!("guest-agent: {error}"),
    }
    rustix::fs::sync();
    system::halt(RebootCommand::PowerOff)
}

fn command(port: &Mutex<File>) -> Result<ExitStatus, String> {
    let mut reader =
        lock(port).try_clone().map_err(|error| format!("cannot read its control port: {error}"))?;
    let frame = frames::receive(&mut reader).map_err(|error| format!("got no command: {error}"))?;
    let command = match frame {
        (Kind::Command, payload) => frames::Command::from_bytes(&payload),
        _ => None,
    };
    let command = command.ok_or("got a malformed command")?;
    keep_kvm_in_use().map_err(|error| format!("cannot make a virtual machine: {error}"))?;
    enter_root()?;
    ports::relay(&command.ports)?;
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err("got an empty command".to_owned());
    };
    let program = OsString::from_vec(program.clone());
    let environment = command.env.iter().filter_map(|assignment| {
        let equals = assignment.iter().position(|&byte| byte == b'=')?;
        let text = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
        Some((text(&assignment[..equals]), text(&assignment[equals + 1..])))
    });
    let mut process = Command::new(&program);
    process.args(arguments.iter().cloned().map(OsString::from_vec)).env_clear().envs(environment);
    process.current_dir(OsString::from_vec(command.cwd));
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = process.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    pump(child, port).map_err(|error| format!("lost its command: {error}"))
}

/// Makes a virtual machine with a vCPU that never runs, and keeps it for as long as this process lives.
///
/// Linux patches its own code when KVM's first machine is made and when its last one goes: in the
/// scheduler, for preemption notifiers, and in the local APIC. On another processor QEMU 7.2 was seen to
/// execute forever a breakpoint that such a patch had already removed.
fn keep_kvm_in_use() -> Result<(), kvm_ioctls::Error> {
    let machine = Kvm::new()?.create_vm()?;
    machine.create_irq_chip()?;
    let vcpu = machine.create_vcpu(0)?;
    mem::forget((machine, vcpu));
    Ok(())
}

/// Passes on all output, and waits until the command and everything it started have ended.
fn pump(mut child: Child, port: &Mutex<File>) -> io::Result<ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || stdout.map(|stream| copy(stream, Kind::Stdout, port)));
        scope.spawn(move || stderr.map(|stream| copy(stream, Kind::Stderr, port)));
        let status = child.wait();
        // Processes that the command left running may hold its output open forever. Killing group 1
        // kills every process but this one (`kill(2)`, pid -1); it fails if there is no other.
        let _ = rustix::process::kill_process_group(rustix::process::Pid::INIT, Signal::KILL);
        status
    })
}

fn copy(mut stream: impl Read, kind: Kind, port: &Mutex<File>) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if send(port, kind, &chunk[..count]).is_err() {
            return;
        }
    }
}

fn send(port: &Mutex<File>, kind: Kind, payload: &[u8]) -> io::Result<()> {
    frames::send(&mut *lock(port), kind, payload)
}

fn lock(port: &Mutex<File>) -> std::sync::MutexGuard<'_, File> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Makes the host's files the root of this process, with changes kept in memory.
fn enter_root() -> Result<(), String> {
    let read_only = MountFlags::RDONLY;
    let lower = Path::new("/mnt/lower");
    match disk("root") {
        Some(device) => mount(&device.to_string_lossy(), lower, "ext4", read_only, c"")?,
        None => mount("root", lower, "virtiofs", read_only, c"")?,
    }
    let none = MountFlags::empty();
    mount("changes", Path::new("/mnt/changes"), "tmpfs", none, c"size=75%")?;
    for directory in ["/mnt/changes/upper", "/mnt/changes/work"] {
        fs::create_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    let root = Path::new(ROOT);
    let layers = c"lowerdir=/mnt/lower,upperdir=/mnt/changes/upper,workdir=/mnt/changes/work";
    mount("root", root, "overlay", none, layers)?;
    kernel_file_systems(root)?;
    mount("run", &root.join("run"), "tmpfs", none, c"")?;
    mount("devpts", &root.join("dev/pts"), "devpts", none, c"ptmxmode=0666")?;
    mount("shm", &root.join("dev/shm"), "tmpfs", none, c"")?;
    fs::create_dir_all(root.join("tmp")).map_err(|error| format!("/tmp: {error}"))?;
    if let Some(device) = disk("scratch") {
        mount(&device.to_string_lossy(), &root.join(SCRATCH), "ext4", none, c"")?;
    }
    // This also gives it the address 127.0.0.1.
    interface::up("lo").map_err(|error| format!("loopback: {error}"))?;
    // If there is only devtmpfs, nobody has made these links.
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, root.join("dev").join(link));
    }
    // Moved onto the old root, because the kernel creates no user namespace for a process whose root
    // directory is not the root of its mount namespace.
    std::env::set_current_dir(root)
        .and_then(|()| Ok(rustix::mount::mount_move(".", "/")?))
        .and_then(|()| std::os::unix::fs::chroot("."))
        .and_then(|()| std::env::set_current_dir("/"))
        .map_err(|error| format!("{ROOT}: {error}"))
}

/// The device file of the virtio disk with this serial.
fn disk(serial: &str) -> Option<PathBuf> {
    let name = named("/sys/block", "serial", serial).ok()??;
    Some(Path::new("/dev").join(name))
}

/// Opens the virtio-serial port with this name; the driver announces it some time after the module is
/// inserted.
fn open_port(name: &str) -> Result<File, String> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        if let Ok(Some(port)) = named("/sys/class/virtio-ports", "name", name) {
            let path = Path::new("/dev").join(port);
            return File::options()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| format!("{}: {error}", path.display()));
        }
        if Instant::now() > deadline {
            return Err(format!("there is no virtio-serial port named {name}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The entry of `class` whose `attribute` has this value.
fn named(class: &str, attribute: &str, value: &str) -> io::Result<Option<OsString>> {
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join(attribute)).is_ok_and(|found| found.trim() == value) {
            return Ok(Some(entry.file_name()));
        }
    }
    Ok(None)
}
