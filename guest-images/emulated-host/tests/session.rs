//! A whole session with a real guest: a stock kernel with our initramfs, on QEMU, on real KVM.
//!
//! If the host has no usable KVM, this program runs itself again in the emulated host. QEMU takes the
//! place of our VMM, so a failure here is a fault of the guest or of the emulated host.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use guest_agent::client::{self, Agent, AgentError, Load, Region};
use guest_images::{initramfs, kernel};
use libtest_mimic::{Arguments, Failed, Trial};

/// A guest boots in a few seconds; under emulation on a busy host it takes several times that.
const BOOT: Duration = Duration::from_secs(120);
const DISK: u64 = 64 << 20;
const PART: u64 = 16 << 20;
/// The number of clients that a server inside has at once, and the bytes that each of them sends.
const CLIENTS: usize = 8;
const SENT: usize = 1 << 20;
/// Names the port of the trial of a port inside the emulated host.
const PORT_VARIABLE: &str = "MILLRACE_TEST_PORT";
/// The same on a host that runs guests itself.
static PORT: OnceLock<u16> = OnceLock::new();

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials()).exit_code();
    }
    if let Err(error) = enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}

/// Goes where guests run. The host's side of the trial of a port stays outside.
fn enter() -> emulated_host::Result<()> {
    if !emulated_host::is_inside() {
        let port = emulated_host::free_port()?;
        PORT.set(port).expect("nobody else sets it");
        std::thread::spawn(move || {
            if let Err(error) = converse(port) {
                // The trial, which waits for this, fails too.
                eprintln!("the clients of port {port}: {error}");
            }
        });
    }
    emulated_host::enter_if_needed_with(|command| {
        command.ports = PORT.get().copied().into_iter().collect();
        command.env.push((PORT_VARIABLE.into(), command.ports[0].to_string().into()));
    })
}

fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn() -> Result<(), Box<dyn Error>>| {
        Trial::test(name, move || test().map_err(|error| Failed::from(error.to_string())))
    };
    vec![
        trial("kvm_is_usable_here", kvm_is_usable_here),
        trial("a_client_outside_reaches_a_server_here", a_client_outside_reaches_a_server_here),
        trial("a_session_over_virtio_mmio", || session("microvm,rtc=on", "device")),
        trial("a_panic_is_seen_on_the_console", a_panic_is_seen_on_the_console),
    ]
}

/// The clients outside: each sends more than any buffer on the way has room for, and sees that the same comes
/// back and then an end. The first ones come before the server.
fn converse(port: u16) -> Result<(), Box<dyn Error>> {
    let once = move |number: usize, length: usize, patience: Duration| -> std::io::Result<()> {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.set_read_timeout(Some(patience))?;
        let sent: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
        let (mut sender, bytes) = (client.try_clone()?, sent.clone());
        let sender = std::thread::spawn(move || {
            sender.write_all(&bytes).and_then(|()| sender.shutdown(Shutdown::Write))
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received)?;
        sender.join().expect("no panic")?;
        if received == sent { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
    };
    wait_for(|| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(once(0, 1, Duration::from_secs(1)).is_ok())
    })?;
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| std::thread::spawn(move || once(number, SENT, BOOT))).collect();
    for client in clients {
        client.join().expect("no panic")?;
    }
    Ok(())
}

/// A server on the loopback network that sends back what it gets, until it has served all clients at once.
fn a_client_outside_reaches_a_server_here() -> Result<(), Box<dyn Error>> {
    let outside = std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse().ok());
    let port = outside.or(PORT.get().copied()).ok_or("no port")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let (sender, served) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let copied = std::io::copy(&mut &client, &mut &client);
                let _ = client.shutdown(Shutdown::Write);
                sender.send(copied.unwrap_or_default())
            });
        }
    });
    let deadline = Instant::now() + BOOT;
    let mut whole = 0;
    while whole < CLIENTS {
        let length = served.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let length = length.map_err(|e| format!("{whole} of {CLIENTS} clients came: {e}"))?;
        // Clients that came while nobody served them have gone.
        whole += usize::from(length == SENT as u64);
    }
    Ok(())
}

fn kvm_is_usable_here() -> Result<(), Box<dyn Error>> {
    check(kvm_probe::kvm().is_usable(), kvm_probe::kvm())
}

/// Fills, loads, verifies, reboots, verifies again, and loads a file system: everything the agent can do
/// to a disk.
fn session(machine: &str, transport: &str) -> Result<(), Box<dyn Error>> {
    let mut guest = Guest::boot(machine, transport, &[])?;
    let disk = guest.directory.path().join("disk0");
    let agent = &mut guest.agent;
    let region = Region::new("/dev/vda", PART, PART, 42);
    check(agent.size("/dev/vda")? == DISK, "the disk's size")?;

    agent.fill(&region, 1)?;
    let load = Load { depth: 8, read_percent: 25, fsync_every: 100, ..Load::new("/dev/vda") };
    let job = agent.random_write(&load)?;
    let files = agent.fs_load("/dev/vdb", 7, 20, 100_000)?;
    wait_for(|| Ok(agent.stat(job)?.total.count >= 300 && agent.stat(files)?.writes >= 30))?;
    let stat = agent.stop(job)?;
    check(stat.errors == 0 && stat.total.count > 0, format!("{stat:?}"))?;
    agent.stop(files)?;
    check(agent.fs_verify("/dev/vdb")? == 20, "the number of files")?;
    let report = agent.verify("/dev/vda")?;
    check(report.blocks == PART / 4096, format!("{report:?}"))?;
    let hash = agent.read_hash("/dev/vda", PART, PART)?;

    agent.reboot(BOOT)?;
    check(agent.uptime()? < BOOT, "a new kernel's uptime")?;
    let again = agent.verify_full(&region, 1)?;
    check(again.digest == report.digest, "the digest after a reboot")?;
    check(agent.read_hash("/dev/vda", PART, PART)? == hash, "the hash after a reboot")?;
    check(agent.fs_verify("/dev/vdb")? == 20, "the number of files after a reboot")?;

    // Overwrites a block behind the guest's back, like a VMM with a bug.
    std::os::unix::fs::FileExt::write_all_at(&File::options().write(true).open(disk)?, &[0; 4096], PART)?;
    let damage = agent.verify("/dev/vda");
    check(
        matches!(&damage, Err(AgentError::Damaged(report)) if report.faults["lost"] == 1),
        format!("{damage:?}"),
    )?;

    check(agent.errors()?.is_empty(), "no kernel errors")?;
    check(!agent.dmesg(5)?.is_empty() && agent.capacity_changes()? == 0, "kernel messages")?;
    agent.poweroff()?;
    check(guest.child.wait()?.success(), "QEMU's exit status")
}

fn a_panic_is_seen_on_the_console() -> Result<(), Box<dyn Error>> {
    let mut guest = Guest::boot("microvm,rtc=on", "device", &["-no-reboot"])?;
    guest.agent.panic()?;
    guest.child.wait()?;
    let console = std::fs::read_to_string(guest.directory.path().join("console"))?;
    check(console.contains("Kernel panic"), console)
}

/// QEMU with two disks, the kernel's console in a file, and the agent's port on a socket.
struct Guest {
    agent: Agent<std::os::unix::net::UnixStream>,
    child: Child,
    directory: tempfile::TempDir,
}

impl Guest {
    fn boot(machine: &str, transport: &str, more: &[&str]) -> Result<Self, Box<dyn Error>> {
        let scratch =
            std::env::var_os(emulated_host::SCRATCH_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = tempfile::tempdir_in(scratch)?;
        let path = |name: &str| directory.path().join(name);
        let kernel = kernel::find()?;
        let started = Instant::now();
        let mut command: Command = emulated_host::qemu()?.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-enable-kvm", "-cpu", "host"]);
        command.args(["-smp", "2", "-m", "256", "-M", machine]).args(more);
        command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(initramfs::guest(&kernel)?);
        // `reboot=t` resets by a triple fault, because the machine has no reset register.
        command.args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"]);
        command.arg("-serial").arg(format!("file:{}", path("console").display()));
        command
            .arg("-chardev")
            .arg(format!("socket,id=agent,server=on,wait=off,path={}", path("agent").display()));
        command.args(["-device", "isa-serial,chardev=agent,index=1,iobase=0x2f8,irq=3"]);
        for index in 0..2 {
            let disk = path(&format!("disk{index}"));
            File::create(&disk)?.set_len(DISK)?;
            command.arg("-drive").arg(format!("if=none,id=d{index},format=raw,file={}", disk.display()));
            command.arg("-device").arg(format!("virtio-blk-{transport},drive=d{index}"));
        }
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let console = client::console_file(path("console"));
        match Agent::connect_unix(path("agent"), BOOT, console) {
            Ok(agent) => {
                eprintln!("{machine}: agent ready {:.1} s after power-on", started.elapsed().as_secs_f64());
                Ok(Guest { agent, child, directory })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only if QEMU has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(mut condition: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    while !condition()? {
        check(started.elapsed() < BOOT, "the guest makes no progress")?;
    }
    Ok(())
}

fn check(condition: bool, what: impl ToString) -> Result<(), Box<dyn Error>> {
    if condition { Ok(()) } else { Err(what.to_string().into()) }
}
