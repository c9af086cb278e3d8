//! One run of the emulated host: starts QEMU, sends the command, passes its output on, and returns its
//! status.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::Tied;
use crate::root::{self, HostFiles};
use crate::{CONSOLE_VARIABLE, Invocation, qemu};
use guest_agent::frames::{self, Kind, NETWORK_ADDRESS};
use guest_images::initramfs;
use guest_images::kernel::Kernel;

use crate::{Error, Result};

const CONSOLE_TAIL: usize = 4096;
/// SVM without the features that QEMU 7.2 was seen to emulate wrongly with it: nested paging, 5-level
/// page tables, virtual GIF and virtual VMSAVE. These are left out too:
/// - Some page-table features that no guest here needs.
/// - Fast string operations: QEMU runs them byte by byte; without them Linux clears and copies memory in
///   steps of eight bytes.
/// - XSAVE: QEMU lets a guest's XSETBV through to KVM, which then reports wrong sizes to the guest.
/// - Features that a processor without XSAVE cannot have but that QEMU offers all the same: AVX and
///   everything that uses its registers, and MPX.
const CPU: &str = "max,+svm,-npt,-la57,-vgif,-v-vmsave-vmload,-pks,-pku,-umip,-erms,-fsrm,\
                   -xsave,-avx,-avx2,-fma,-f16c,-vaes,-vpclmulqdq,-mpx";

pub(super) fn run(
    command: &Invocation,
    kernel: &Kernel,
    shared: HostFiles,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<i32> {
    let deadline = Instant::now() + command.timeout;
    let scratch = root::disk(command.scratch_mib << 20, &[])?;
    let (console, console_end) = socket_pair()?;
    let (mut control, control_end) = socket_pair()?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    let mut machine = qemu::find()?.command();
    machine.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc"]);
    machine.args(["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", CPU, "-smp", "2"]);
    machine.arg("-m").arg(command.memory_mib.to_string());
    machine.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(initramfs::emulated_host(kernel)?);
    // The machine runs trusted programs only, and mitigations are most expensive under emulation.
    machine.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"]);
    machine.arg("-chardev").arg(format!("socket,id=console,fd={}", console_end.as_raw_fd()));
    machine.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
    machine.arg("-chardev").arg(format!("socket,id=control,fd={}", control_end.as_raw_fd()));
    machine.args(["-device", "virtserialport,chardev=control,name=control"]);
    machine.args(drive("scratch", &scratch, "off"));
    machine.args(network(&command.ports));
    descriptors.extend([OwnedFd::from(scratch), console_end.into(), control_end.into()]);
    let _server = match shared {
        HostFiles::Shared { server, connection } => {
            // virtiofsd reads guest memory from another process, so the memory must be shared.
            let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", command.memory_mib);
            machine.arg("-object").arg(memory).args(["-numa", "node,memdev=memory"]);
            machine.arg("-chardev").arg(format!("socket,id=root,fd={}", connection.as_raw_fd()));
            machine.args(["-device", "vhost-user-fs-pci,chardev=root,tag=root"]);
            descriptors.push(connection.into());
            Some(server)
        }
        HostFiles::Image(image) => {
            machine.args(drive("root", &image, "on"));
            descriptors.push(image.into());
            None
        }
    };
    machine.stdin(Stdio::null()).stdout(Stdio::null());
    let machine = Tied::start(machine, descriptors)?;
    let console = Console::follow(console)?;
    let status = talk(&mut control, command, deadline, stdout, stderr);
    // The console ends with the machine; only then is its tail complete.
    drop(machine);
    let console = console.tail();
    status.map_err(|text| Error::Lost { text, console })
}

/// Sends the command and passes its output on until it ends. Returns the exit status, or why there is
/// none.
fn talk(
    control: &mut UnixStream,
    command: &Invocation,
    deadline: Instant,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> std::result::Result<i32, String> {
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("did not end within {} s", command.timeout.as_secs())
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "stopped before its command ended".to_owned()
        }
        _ => format!("lost its control channel ({error})"),
    };
    let arm = |control: &UnixStream| {
        // Zero would mean no time-out.
        let remaining = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        control.set_read_timeout(Some(remaining))?;
        control.set_write_timeout(Some(remaining))
    };
    arm(control).map_err(lost)?;
    frames::send(control, Kind::Command, &command.to_frame().to_bytes()).map_err(lost)?;
    loop {
        arm(control).map_err(lost)?;
        let (kind, payload) = frames::receive(control).map_err(lost)?;
        let written = match kind {
            Kind::Stdout => pass_on(stdout, &payload),
            Kind::Stderr => pass_on(stderr, &payload),
            Kind::Exit => {
                let status = payload.try_into().map_err(|_| "sent a bad exit status".to_owned())?;
                return Ok(i32::from_le_bytes(status));
            }
            Kind::Failed => return Err(String::from_utf8_lossy(&payload).into_owned()),
            Kind::Command => return Err("sent a command".to_owned()),
        };
        written.map_err(|error| format!("was ended because its output cannot be written: {error}"))?;
    }
}

fn pass_on(output: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes)?;
    output.flush()
}

/// A network card that carries connections to these ports of this host's loopback network, and nothing else.
/// Without ports there is no card.
fn network(ports: &[u16]) -> Vec<String> {
    if ports.is_empty() {
        return Vec::new();
    }
    let mut network = "user,id=network,restrict=on".to_owned();
    for port in ports {
        network += &format!(",hostfwd=tcp:{}:{port}-{NETWORK_ADDRESS}:{port}", Ipv4Addr::LOCALHOST);
    }
    // Without a ROM, since nobody boots from it, and not every package of QEMU has one.
    ["-netdev", &network, "-device", "virtio-net-pci,netdev=network,romfile="].map(str::to_owned).into()
}

/// A virtio disk; the machine's init finds it by its serial `name`.
fn drive(name: &str, file: &std::fs::File, readonly: &str) -> [OsString; 4] {
    let mut drive =
        OsString::from(format!("if=none,id={name},format=raw,cache=unsafe,readonly={readonly},file="));
    drive.push(root::path_of(file));
    let device = format!("virtio-blk-pci,drive={name},serial={name}");
    [OsStr::new("-drive").into(), drive, OsStr::new("-device").into(), device.into()]
}

fn socket_pair() -> Result<(UnixStream, UnixStream)> {
    Ok(UnixStream::pair().map_err(guest_images::Error::system("make a socket pair"))?)
}

/// The machine's console. It is read as it appears, and its tail is kept.
struct Console {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Console {
    fn follow(mut stream: UnixStream) -> Result<Self> {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&text);
        let show = std::env::var_os(CONSOLE_VARIABLE).is_some_and(|value| !value.is_empty());
        let thread = std::thread::Builder::new().name("emulated-console".to_owned());
        let reader = thread.spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                if show {
                    // Writes to the descriptor itself, because `io::stderr` is locked by the command's
                    // output.
                    let _ = rustix::io::write(rustix::stdio::stderr(), &chunk[..count]);
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&chunk[..count]);
                let excess = kept.len().saturating_sub(CONSOLE_TAIL);
                kept.drain(..excess);
            }
        });
        Ok(Console { text, reader: reader.map_err(guest_images::Error::system("start a thread"))? })
    }

    /// The tail of the machine's console. Waits until the console ends.
    fn tail(self) -> String {
        // If the reader panicked, the text that it read is still there.
        let _ = self.reader.join();
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        if text.is_empty() { "(it was empty)".to_owned() } else { text }
    }
}
