//! The whole machine around a guest of 96 bytes, whose few plain instructions run on any KVM. Without
//! `/dev/kvm` these tests say that they are skipped and pass.

use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use executor::{AsyncFd, Executor, Reply, spawn, timeout};
use guest_images::micro;
use tempfile::TempDir;
use virtio::{Activation, Device};
use vmm::screen::{Screen, Size};
use vmm::serial::Backend;
use vmm::{Config, Error, Event, Machine, State, check_host};

struct Rig {
    machine: Rc<Machine>,
    console: AsyncFd<UnixStream>,
    _directory: TempDir,
}

impl Rig {
    fn new(cpus: u32) -> Self {
        Self::of(&micro::ECHO, cpus)
    }

    fn of(guest: &[u8], cpus: u32) -> Self {
        Self::with(guest, cpus, None)
    }

    fn with(guest: &[u8], cpus: u32, screen: Option<Size>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ttyS0");
        let serial = [Backend::Unix(socket.clone()), Backend::Null];
        let machine = machine_with(directory.path(), guest, cpus, screen, Vec::new(), &serial);
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

    /// Types a command and waits for its echo.
    async fn command(&self, byte: u8) {
        self.console.get().write_all(&[byte]).unwrap();
        self.expect(byte).await;
    }
}

fn machine(directory: &Path, cpus: u32, serial: &[Backend]) -> Result<Machine, Error> {
    machine_of(directory, &micro::ECHO, cpus, Vec::new(), serial)
}

fn machine_of(
    directory: &Path,
    guest: &[u8],
    cpus: u32,
    devices: Vec<Box<dyn Device>>,
    serial: &[Backend],
) -> Result<Machine, Error> {
    machine_with(directory, guest, cpus, None, devices, serial)
}

fn machine_with(
    directory: &Path,
    guest: &[u8],
    cpus: u32,
    screen: Option<Size>,
    devices: Vec<Box<dyn Device>>,
    serial: &[Backend],
) -> Result<Machine, Error> {
    let path = directory.join("kernel");
    std::fs::write(&path, micro::kernel(guest)).unwrap();
    let config = Config {
        kernel: path,
        initrd: None,
        cmdline: String::new(),
        cpus,
        memory: 64 << 20,
        screen,
        sandbox: sandbox::Mode::Strict,
    };
    Machine::new(Machine::prepare(&config)?, devices, serial)
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
        let rig = Rig::of(&micro::STRINGS, 1);
        rig.machine.start().await.unwrap();
        rig.expect_all(micro::LINE).await;
        // Sent at once, so that the guest reads all of it with one instruction.
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

/// Returns the time of the guest's clock, in nanoseconds.
async fn clock(rig: &Rig) -> u64 {
    rig.console.get().write_all(b"?").unwrap();
    let mut page = [0; 40];
    let mut got = 0;
    while got < page.len() {
        got += rig.console.read_io(|mut console| console.read(&mut page[got..])).await.unwrap();
    }
    let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let (then, time, now) = (word(8), word(16), word(32));
    let scale = u128::from(u32::from_le_bytes(page[24..28].try_into().unwrap()));
    assert_ne!(scale, 0, "KVM has filled the page");
    let ticks = u128::from(now - then);
    let shifted = match page[28].cast_signed() {
        shift @ 0.. => ticks << shift,
        shift => ticks >> -shift,
    };
    time + ((shifted * scale) >> 32) as u64
}

#[test]
fn the_guests_clock_stands_still_while_it_is_stopped() {
    with_kvm(async || {
        let rig = Rig::of(&micro::CLOCK, 1);
        let machine = &rig.machine;
        machine.start().await.unwrap();
        rig.expect(b'>').await;
        const STOPPED: Duration = Duration::from_secs(3);
        for _ in 0..2 {
            // In this order: the guest looks at its clock a while before its reply is here.
            let (began, before) = (Instant::now(), clock(&rig).await);
            machine.stop().await;
            executor::sleep(STOPPED).await;
            machine.resume().await.unwrap();
            let after = clock(&rig).await;
            // The time that has passed on the host, except for the stop: an upper bound however slow this
            // host is.
            let most = began.elapsed() - STOPPED;
            let passed = Duration::from_nanos(after - before);
            assert!(
                passed <= most,
                "{passed:?} have passed for the guest, of {most:?} in which it may have run"
            );
        }
        let before = clock(&rig).await;
        executor::sleep(Duration::from_millis(20)).await;
        assert!(clock(&rig).await - before >= 20_000_000, "it goes on");
        machine.shutdown().await;
    });
}

/// A device that only remembers whether it is paused.
#[derive(Default)]
struct Pausable {
    paused: Arc<AtomicBool>,
    /// True if it has a request that never ends.
    hangs: bool,
}

impl Device for Pausable {
    fn id(&self) -> u32 {
        4
    }
    fn features(&self) -> u64 {
        1 << 32
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![2]
    }
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn write_config(&mut self, _: u64, _: &[u8]) {}
    fn activate(&mut self, _: Activation) -> std::io::Result<()> {
        Ok(())
    }
    fn reset(&mut self) {}
    fn pause(&mut self) -> Reply<()> {
        self.paused.store(true, Ordering::Relaxed);
        let hangs = self.hangs;
        executor::remote().call(async move || {
            if hangs {
                std::future::pending().await
            }
        })
    }
    fn resume(&mut self) {
        self.paused.store(false, Ordering::Relaxed);
    }
}

/// Ending a machine does not wait for a stop that waits for a device, since other disks must be saved.
#[test]
fn an_end_overtakes_a_stop_that_waits_for_a_device() {
    with_kvm(async || {
        let directory = tempfile::tempdir().unwrap();
        let devices: Vec<Box<dyn Device>> = vec![Box::new(Pausable { hangs: true, ..Pausable::default() })];
        let machine = machine_of(directory.path(), &micro::ECHO, 1, devices, &[Backend::Null]).unwrap();
        let machine = std::rc::Rc::new(machine);
        machine.start().await.unwrap();
        let stopping = executor::spawn({
            let machine = machine.clone();
            async move { machine.stop().await }
        });
        for _ in 0..100 {
            executor::yield_now().await;
        }
        assert!(!stopping.is_finished());
        machine.halt().await;
        assert_eq!(stopping.await, Some(false), "nobody is told that it stopped");
        assert_eq!(machine.state(), State::Gone);
        machine.shutdown().await;
    });
}

#[test]
fn a_stopped_machine_stays_stopped_through_a_reset_that_fails() {
    with_kvm(async || {
        let directory = tempfile::tempdir().unwrap();
        let paused = Arc::new(AtomicBool::new(false));
        let device = Box::new(Pausable { paused: paused.clone(), hangs: false });
        let machine = machine_of(directory.path(), &micro::ECHO, 1, vec![device], &[Backend::Null]).unwrap();
        let (path, kernel) = (directory.path().join("kernel"), micro::kernel(&micro::ECHO));
        let is_paused = || paused.load(Ordering::Relaxed);
        machine.start().await.unwrap();
        for stopped in [false, true] {
            if stopped {
                assert!(machine.stop().await && !machine.stop().await);
            }
            std::fs::write(&path, "").unwrap();
            assert!(machine.reset().await.is_err());
            assert_eq!((machine.state(), is_paused()), (State::Ended, stopped));
            assert!(machine.resume().await.is_err());
            std::fs::write(&path, &kernel).unwrap();
            machine.reset().await.unwrap();
            let state = if stopped { State::Paused } else { State::Running };
            assert_eq!((machine.state(), is_paused()), (state, stopped));
        }
        assert!(machine.resume().await.unwrap() && !machine.resume().await.unwrap());
        assert_eq!((machine.state(), is_paused()), (State::Running, false));
        // A stop while there is no guest: the next guest does not run until it is resumed.
        std::fs::write(&path, "").unwrap();
        assert!(machine.reset().await.is_err());
        assert!(machine.stop().await);
        std::fs::write(&path, &kernel).unwrap();
        machine.reset().await.unwrap();
        assert_eq!((machine.state(), is_paused()), (State::Paused, true));
        machine.shutdown().await;
    });
}

#[test]
fn a_stop_before_the_start_and_one_beside_a_guests_reset_are_not_lost() {
    with_kvm(async || {
        let rig = Rig::new(1);
        let machine = &rig.machine;
        assert!(machine.stop().await);
        machine.start().await.unwrap();
        assert_eq!(machine.state(), State::Paused);
        assert!(machine.resume().await.unwrap());
        rig.expect(b'>').await;
        // The guest has asked for a reset, and the program has not handled that event yet.
        rig.command(b'r').await;
        assert_eq!(machine.event().await, Event::Reset);
        assert!(machine.stop().await);
        machine.reset().await.unwrap();
        assert_eq!(machine.state(), State::Paused);
        assert!(machine.resume().await.unwrap());
        rig.expect(b'>').await;
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
                        0 => _ = machine.stop().await,
                        1 => machine.reset().await.unwrap(),
                        _ => _ = machine.resume().await.unwrap(),
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
        // Only this test has a vCPU of this number: other tests run beside it in this process.
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
        // The thread gets its name when it first runs.
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
            let e = machine(directory.path(), cpus, serial).err().unwrap().to_string();
            assert!(!e.contains('\n'));
            e
        };
        assert_eq!(refused(0, &[]), "0 CPUs: a machine has 1 to 16");
        assert_eq!(refused(17, &[]), "17 CPUs: a machine has 1 to 16");
        assert!(refused(1, &[Backend::Stdio, Backend::Stdio]).contains("stdio is taken"));
        assert!(refused(1, &[Backend::File("/nowhere/at/all".into())]).contains("/nowhere/at/all: No such"));
    });
}

/// Returns the numbers of the lines that have changed.
fn changes(screen: &Screen) -> Vec<usize> {
    let mut lines = vec![false; screen.size().height()];
    screen.take_changes(&mut lines).unwrap();
    (0..lines.len()).filter(|line| lines[*line]).collect()
}

/// Returns the colours of a line, without the bits that have no meaning.
fn colours(screen: &Screen, line: usize) -> Vec<u32> {
    let mut pixels = vec![0; screen.size().width()];
    screen.read_line(line, &mut pixels);
    pixels.iter().map(|pixel| pixel & 0xff_ffff).collect()
}

/// Returns the colours of a line as the guest draws them.
fn drawn(screen: &Screen, line: usize) -> Vec<u32> {
    (0..screen.size().width()).map(|x| micro::pixel(x as u32, line as u32) & 0xff_ffff).collect()
}

#[test]
fn what_a_guest_draws_is_on_the_screen_and_its_lines_have_changed() {
    with_kvm(async || {
        // The second one has lines of two pages.
        for width in [640, 1025] {
            let rig = Rig::with(&micro::DRAW, 1, Some(Size::new(width, 480).unwrap()));
            let screen = rig.machine.screen().unwrap().clone();
            rig.machine.start().await.unwrap();
            rig.expect(b'>').await;
            assert_eq!(changes(&screen).len(), 480);
            for y in 0..480 {
                assert_eq!(colours(&screen, y), drawn(&screen, y), "line {y}");
            }
            assert!(changes(&screen).is_empty(), "nothing was drawn since");
            rig.command(3).await;
            rig.command(200).await;
            assert_eq!(changes(&screen), [3, 200]);
            assert!(colours(&screen, 200).iter().all(|pixel| *pixel == 0xff_ffff));
            assert_eq!(colours(&screen, 201), drawn(&screen, 201));
            rig.machine.shutdown().await;
        }
    });
}

#[test]
fn a_stopped_guests_screen_stays_and_a_reset_clears_it() {
    with_kvm(async || {
        let rig = Rig::with(&micro::DRAW, 1, Some(Size::new(640, 480).unwrap()));
        let machine = &rig.machine;
        let screen = machine.screen().unwrap().clone();
        machine.start().await.unwrap();
        rig.expect(b'>').await;
        assert_eq!(changes(&screen).len(), 480);
        machine.stop().await;
        assert!(changes(&screen).is_empty());
        assert_eq!(colours(&screen, 201), drawn(&screen, 201));
        machine.resume().await.unwrap();
        rig.command(7).await;
        assert_eq!(changes(&screen), [7]);
        rig.command(b'r').await;
        assert_eq!(machine.event().await, Event::Reset);
        machine.stop().await;
        machine.reset().await.unwrap();
        assert_eq!(changes(&screen).len(), 480);
        assert!(changes(&screen).is_empty());
        assert!((0..480).all(|y| colours(&screen, y).iter().all(|pixel| *pixel == 0)));
        machine.shutdown().await;
        // There is no VM that has a log any more.
        assert_eq!(changes(&screen).len(), 480);
    });
}

#[test]
fn a_machine_without_a_screen_has_none() {
    with_kvm(async || {
        let rig = Rig::new(1);
        assert!(rig.machine.screen().is_none());
        rig.machine.shutdown().await;
    });
}
