//! Devices other than disks, as a guest uses them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use guest_agent::interface;
use harness::programs::{Programs, scratch};
use harness::{Failure, Options, STEP, Vm, check, wait_for};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::stage::{self, shared};

/// The guest's kernel gets random numbers from the host, and different ones each time.
pub fn random_numbers() -> Result<(), Failure> {
    shared(|guest| {
        let (first, source) = guest.agent()?.random(64)?;
        check(source.starts_with("virtio_rng"), format!("the generator is {source}"))?;
        let (second, _) = guest.agent()?.random(64)?;
        check(first != second, format!("no 64 bytes are repeated: {first}"))?;
        for bytes in [&first, &second] {
            let zeros = bytes.as_bytes().chunks(2).filter(|byte| *byte == b"00").count();
            // By chance this fails once in 10^23 runs.
            check(zeros < 16, format!("64 random bytes with {zeros} zeros: {bytes}"))?;
        }
        Ok(())
    })
}

/// The tap interface at the host's end of the guest's cable.
const TAP: &str = "millrace-test";
/// The addresses of both ends, and the length of their network prefix.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PREFIX: u8 = 24;

/// Some megabytes are sent both ways over a tap interface, before and after a reset; then the cable is
/// cut.
pub fn network() -> Result<(), Failure> {
    with_device(|_| ["--net".to_owned(), format!("tap={TAP},mac=52:54:00:0a:0b:0c")], |vm, _| converse(vm))
}

fn converse(vm: &mut Vm) -> Result<(), Failure> {
    interface::add_address(TAP, HOST, PREFIX)?;
    interface::up(TAP)?;
    // Long packets take many of the guest's buffers each.
    for mtu in [1500, 65_000] {
        interface::set_mtu(TAP, mtu)?;
        vm.agent()?.net_up("eth0", GUEST, PREFIX, mtu)?;
        wait_for("the guest's cable", STEP, || Ok(vm.agent()?.net_carrier("eth0")?))?;
        echoes(vm, 4 << 20)?;
        vm.qmp.execute_json("system_reset", Value::Null)?;
        vm.agent()?.wait_reboot(2 * STEP)?;
    }
    vm.agent()?.net_up("eth0", GUEST, PREFIX, 1500)?;
    interface::delete(TAP)?;
    wait_for("the guest to see that its cable was cut", STEP, || Ok(!vm.agent()?.net_carrier("eth0")?))?;
    let log = vm.log();
    check(log.matches(TAP).count() == 1 && log.contains("link is down"), format!("it said: {log}"))?;
    let errors = vm.agent()?.errors()?;
    check(errors.is_empty(), format!("the guest's kernel sees no error: {errors:?}"))
}

/// Sends random bytes to the guest, which sends them back.
fn echoes(vm: &mut Vm, length: usize) -> Result<(), Failure> {
    let bytes = random(length)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let listener = TcpListener::bind((HOST, 0))?;
    let address = SocketAddr::from((HOST, listener.local_addr()?.port()));
    // If the guest does not connect, this thread ends with the program.
    let server = thread::spawn(move || -> std::io::Result<(Vec<u8>, Vec<u8>, SocketAddr)> {
        let (mut stream, from) = listener.accept()?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        stream.write_all(&bytes)?;
        // Both directions stay open until everything has arrived, because not every network supports
        // half-closed connections.
        let mut echo = vec![0; bytes.len()];
        stream.read_exact(&mut echo)?;
        Ok((bytes, echo, from))
    });
    let received = vm.agent()?.net_echo(address, length)?;
    check(received == (length, hash), "the guest received what was sent")?;
    let (sent, echo, from) = server.join().map_err(|_| "the server panicked")??;
    check(from.ip() == GUEST, format!("the client is the guest: {from}"))?;
    check(echo == sent, format!("{} of {length} bytes came back, as they were", echo.len()))
}

/// Bytes over a virtio console come back unchanged, before and after a reset, to one client and to the
/// next.
pub fn console() -> Result<(), Failure> {
    let option = |folder: &Path| ["--console".to_owned(), format!("unix:{}", folder.join("hvc0").display())];
    with_device(option, |vm, folder| {
        for resets in [true, false] {
            vm.agent()?.echo("/dev/hvc0")?;
            for _ in 0..2 {
                comes_back(&folder.join("hvc0"), 100_000)?;
            }
            if resets {
                vm.qmp.execute_json("system_reset", Value::Null)?;
                vm.agent()?.wait_reboot(2 * STEP)?;
            }
        }
        let errors = vm.agent()?.errors()?;
        check(errors.is_empty(), format!("the guest's kernel sees no error: {errors:?}"))
    })
}

/// Sends random bytes and reads the ones that come back at the same time.
fn comes_back(socket: &Path, length: usize) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let sent = random(length)?;
    let (mut sender, bytes) = (stream.try_clone()?, sent.clone());
    let sender = thread::spawn(move || sender.write_all(&bytes));
    let mut echo = vec![0; length];
    stream.read_exact(&mut echo)?;
    sender.join().map_err(|_| "the sender panicked")??;
    check(echo == sent, "what came back is what was sent")
}

fn random(length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Runs a trial on a guest that has a device by this option. The option may name files in the trial's
/// folder.
fn with_device(
    option: fn(&Path) -> [String; 2],
    trial: fn(&mut Vm, &Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    stage::end();
    let programs = Programs::ready()?;
    let folder = scratch()?;
    let more = option(folder.path()).to_vec();
    let mut vm = Vm::start(&programs, folder.path(), &Options { more, ..Options::new(&[]) })?;
    trial(&mut vm, folder.path()).map_err(|error| told(&error, &vm, folder.path()))
}

/// Adds the last output of the program and of the guest's console to a failure.
fn told(error: &Failure, vm: &Vm, folder: &Path) -> Failure {
    let console = std::fs::read(folder.join("console")).unwrap_or_default();
    let tail = String::from_utf8_lossy(&console[console.len().saturating_sub(2048)..]).into_owned();
    format!("{error}\nmillrace said: {}\nthe console ended: {tail}", vm.log()).into()
}
