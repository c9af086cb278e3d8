//! The whole machine around a guest of 96 bytes, on whatever KVM there is: its instructions are few and
//! plain enough for the slowest. Without `/dev/kvm` these tests say so and pass.

use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use executor::{AsyncFd, Executor, spawn, timeout};
use tempfile::TempDir;
use vmm::serial::Backend;
use vmm::{Config, Error, Event, Machine, State, check_host};

/// Prints `>`, then echoes what it reads from ttyS0 and obeys it: `p` powers off, `r` resets by the ACPI
/// register, `k` by the keyboard controller, `v` tells pvpanic, `t` makes a triple fault.
#[rustfmt::skip]
const GUEST: [u8; 96] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, 0x3e, 0xee,       // mov dx, 0x3f8; mov al, '>'; out dx, al
    0x66, 0xba, 0xfd, 0x03, 0xec,                   // wait: mov dx, 0x3fd; in al, dx
    0xa8, 0x01, 0x74, 0xf7,                         // test al, 1; jz wait
    0x66, 0xba, 0xf8, 0x03, 0xec, 0xee,             // mov dx, 0x3f8; in al, dx; out dx, al
    0x3c, 0x70, 0x74, 0x12, 0x3c, 0x72, 0x74, 0x17, // cmp al, 'p'; je power; cmp al, 'r'; je reset
    0x3c, 0x6b, 0x74, 0x1c, 0x3c, 0x76, 0x74, 0x1e, // cmp al, 'k'; je keyboard; cmp al, 'v'; je panic
    0x3c, 0x74, 0x74, 0x23, 0xeb, 0xdb,             // cmp al, 't'; je triple; jmp wait
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xd2, // power: out 0x600, S5 with SLP_EN; jmp wait
    0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xeb, 0xc9, // reset: out 0x602, 1; jmp wait
    0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xc3,             // keyboard: out 0x64, 0xfe; jmp wait
    0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xba, // panic: out 0x505, 1; jmp wait
    0x0f, 0x01, 0x1d, 0x02, 0x00, 0x00, 0x00,       // triple: lidt [null]
    0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,       // ud2; null:
];

/// Prints [`LINE`] with one instruction, takes as many bytes with one when there is input, prints those in the same
/// way, and powers off.
#[rustfmt::skip]
const STRINGS: [u8; 96] = [
    0x66, 0xba, 0xf8, 0x03,                                     // mov dx, 0x3f8
    0xbe, 0x50, 0x00, 0x20, 0x00, 0xb9, 0x10, 0x00, 0x00, 0x00, // mov esi, line; mov ecx, 16
    0xf3, 0x6e,                                                 // rep outsb
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb,       // wait: mov dx, 0x3fd; in al, dx; test al, 1; jz
    0x66, 0xba, 0xf8, 0x03,                                     // mov dx, 0x3f8
    0xbf, 0x00, 0x10, 0x20, 0x00, 0xb9, 0x10, 0x00, 0x00, 0x00, // mov edi, 0x201000; mov ecx, 16
    0xf3, 0x6c,                                                 // rep insb
    0xbe, 0x00, 0x10, 0x20, 0x00, 0xb9, 0x10, 0x00, 0x00, 0x00, // mov esi, 0x201000; mov ecx, 16
    0xf3, 0x6e,                                                 // rep outsb
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe,       // out 0x600, S5 with SLP_EN; jmp $
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    b'a', b' ', b'w', b'h', b'o', b'l', b'e', b' ', b's', b't', b'r', b'i', b'n', b'g', b'!', b'\n', // line:
];

/// What [`STRINGS`] prints.
const LINE: &[u8] = STRINGS.last_chunk::<16>().unwrap();

/// An ELF file that loads and enters `guest` at 2 MiB, in long mode.
fn kernel(guest: &[u8; 96]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([0x20_0000u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([1u32, 5].iter().flat_map(|n| n.to_le_bytes()));
    let len = guest.len() as u64;
    file.extend([120u64, 0x20_0000, 0x20_0000, len, len, 4096].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(guest);
    file
}

struct Rig {
    machine: Rc<Machine>,
    console: AsyncFd<UnixStream>,
    _directory: TempDir,
}

impl Rig {
    fn new(cpus: u32) -> Self {
        Self::of(&GUEST, cpus)
    }

    fn of(guest: &[u8; 96], cpus: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ttyS0");
        let machine = machine(directory.path(), guest, cpus, &[Backend::Unix(socket.clone()), Backend::Null]);
        let console = UnixStream::connect(socket).unwrap();
        console.set_nonblocking(true).unwrap();
        let console = AsyncFd::new(console).unwrap();
        Rig { machine: Rc::new(machine.unwrap()), console, _directory: directory }
    }

    async fn expect(&self, byte: u8) {
        self.expect_all(&[byte]).await;
    }

    async fn expect_all(&self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        let mut count = 0;
        while count < got.len() {
            count += self.console.read_io(|mut console| console.read(&mut got[count..])).await.unwrap();
        }
        assert_eq!(got, bytes);
    }

    /// Types a command and awaits its echo.
    async fn command(&self, byte: u8) {
        self.console.get().write_all(&[byte]).unwrap();
        self.expect(byte).await;
    }
}

fn machine(directory: &Path, guest: &[u8; 96], cpus: u32, serial: &[Backend]) -> Result<Machine, Error> {
    let path = directory.join("kernel");
    std::fs::write(&path, kernel(guest)).unwrap();
    let config = Config {
        kernel: path,
        initrd: None,
        cmdline: String::new(),
        cpus,
        memory: 64 << 20,
        sandbox: sandbox::Mode::Strict,
    };
    Machine::new(Machine::prepare(&config)?, Vec::new(), serial)
}

fn with_kvm<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + 'static) {
    if let Err(e) = check_host() {
        eprintln!("skipped: {e}");
        return;
    }
    let done = Executor::new().unwrap().block_on(async { timeout(Duration::from_secs(60), test()).await });
    assert!(done.is_some(), "hangs");
}

#[test]
fn a_guest_resets_panics_and_powers_off() {
    with_kvm(async || {
        let rig = Rig::new(2);
        let machine = &rig.machine;
        assert_eq!(machine.state(), State::Created);
        assert!(machine.resume().await.is_err());
        machine.start().await.unwrap();
        assert!(machine.start().await.is_err());
        rig.expect(b'>').await;
        rig.command(b'v').await;
        assert_eq!(machine.event().await, Event::Panicked);
        assert_eq!(machine.state(), State::Running);
        for (command, event) in [(b'r', Event::Reset), (b'k', Event::Reset), (b't', Event::TripleFault)] {
            rig.command(command).await;
            assert_eq!(machine.event().await, event);
            assert_eq!(machine.state(), State::Ended);
            assert!(machine.resume().await.is_err());
            machine.reset().await.unwrap();
            assert_eq!(machine.state(), State::Running);
            rig.expect(b'>').await;
        }
        rig.command(b'p').await;
        assert_eq!(machine.event().await, Event::PowerOff);
        machine.shutdown().await;
        assert_eq!(machine.state(), State::Gone);
        assert!(machine.reset().await.is_err());
    });
}

#[test]
fn string_instructions_reach_a_port_byte_by_byte() {
    with_kvm(async || {
        let rig = Rig::of(&STRINGS, 1);
        rig.machine.start().await.unwrap();
        rig.expect_all(LINE).await;
        // All at one time, so that the guest takes them with one instruction.
        rig.console.get().write_all(b"0123456789abcdef").unwrap();
        rig.expect_all(b"0123456789abcdef").await;
        assert_eq!(rig.machine.event().await, Event::PowerOff);
        rig.machine.shutdown().await;
    });
}

#[test]
fn a_stopped_guest_does_nothing_until_it_goes_on() {
    with_kvm(async || {
        let rig = Rig::new(4);
        let machine = &rig.machine;
        machine.start().await.unwrap();
        rig.expect(b'>').await;
        for round in 0..50u8 {
            machine.stop().await;
            assert_eq!(machine.state(), State::Paused);
            machine.stop().await;
            rig.console.get().write_all(&[b'A' + round % 26]).unwrap();
            let echo = timeout(Duration::from_millis(1), rig.console.readable());
            rig.console.clear_readable();
            assert!(echo.await.is_none());
            machine.resume().await.unwrap();
            rig.expect(b'A' + round % 26).await;
        }
        // A reset of a stopped machine leaves it stopped.
        machine.stop().await;
        machine.reset().await.unwrap();
        assert_eq!(machine.state(), State::Paused);
        machine.resume().await.unwrap();
        rig.expect(b'>').await;
        machine.power_button().unwrap();
        machine.shutdown().await;
    });
}

#[test]
fn changes_asked_for_at_once_wait_for_each_other() {
    with_kvm(async || {
        let rig = Rig::new(1);
        rig.machine.start().await.unwrap();
        let tasks: Vec<_> = (0..12)
            .map(|n| {
                let machine = rig.machine.clone();
                spawn(async move {
                    match n % 3 {
                        0 => drop(machine.stop().await),
                        1 => machine.reset().await.unwrap(),
                        _ => machine.resume().await.unwrap(),
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(rig.machine.state(), State::Running);
        rig.machine.shutdown().await;
    });
}

#[test]
fn a_dropped_machine_leaves_no_thread() {
    with_kvm(async || {
        // The only test with a vCPU of this number: others run beside it in this process.
        let rig = Rig::new(16);
        rig.machine.start().await.unwrap();
        rig.expect(b'>').await;
        let threads = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            tasks
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
                .filter(|name| name.trim() == "vcpu15")
                .count()
        };
        // It takes its name when it first runs.
        while threads() == 0 {
            executor::yield_now().await;
        }
        drop(rig);
        assert_eq!(threads(), 0);
    });
}

#[test]
fn machines_that_cannot_be_are_refused_in_a_line() {
    with_kvm(async || {
        let directory = tempfile::tempdir().unwrap();
        let refused = |cpus, serial: &[Backend]| {
            let e = machine(directory.path(), &GUEST, cpus, serial).err().unwrap().to_string();
            assert!(!e.contains('\n'));
            e
        };
        assert_eq!(refused(0, &[]), "0 CPUs: a machine has 1 to 16");
        assert_eq!(refused(17, &[]), "17 CPUs: a machine has 1 to 16");
        assert!(refused(1, &[Backend::Stdio, Backend::Stdio]).contains("stdio is taken"));
        assert!(refused(1, &[Backend::File("/nowhere/at/all".into())]).contains("/nowhere/at/all: No such"));
    });
}
