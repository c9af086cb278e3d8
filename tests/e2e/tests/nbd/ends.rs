//! Ends of the program with disks that are slow, silent, full or gone.

use std::process::Command;
use std::time::{Duration, Instant};

use harness::nbd::{self, Nbd};
use harness::servers::Server;
use harness::terminal::Terminal;
use harness::{Failure, STEP, Vm, check, qemu_img, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{MIB, Rig, millrace, qemu_io, run};

/// Longer than the time after which the program says what it waits for.
const LONG: Duration = Duration::from_secs(90);

/// Starts a server with an image `slow.qcow2`. It delays flushes while the file `hold` exists, and fails
/// them while `full` exists.
fn slow(rig: &Rig) -> Result<Server, Failure> {
    let image = rig.text("slow.qcow2");
    run(&millrace()?.display().to_string(), &["image", "create", "-f", "qcow2", &image, "64M"])?;
    // An export cannot grow.
    std::fs::File::options().write(true).open(&image)?.set_len(80 * MIB)?;
    let arguments = [
        "eval".to_owned(),
        "thread_model=echo parallel".to_owned(),
        format!("get_size=stat -c %s {image}"),
        format!("pread=dd if={image} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none"),
        format!("pwrite=dd of={image} oflag=seek_bytes seek=$4 conv=notrunc status=none"),
        format!(
            "flush=while test -e {0}; do sleep 0.05; done; if test -e {1}; then echo ENOSPC >&2; exit 1; fi",
            rig.text("hold"),
            rig.text("full")
        ),
        "can_write=exit 0".to_owned(),
        "can_flush=exit 0".to_owned(),
    ];
    Server::nbdkit(&rig.path("server"), &arguments.each_ref().map(String::as_str))
}

/// Starts the program with the disks `slow` and `quick`. On each, a MiB is written and not flushed.
fn written(rig: &Rig, uri: &str) -> Result<Vm, Failure> {
    run(
        &millrace()?.display().to_string(),
        &["image", "create", "-f", "qcow2", &rig.text("quick.qcow2"), "64M"],
    )?;
    let drives = [
        format!("id=slow,file={uri},format=qcow2"),
        format!("id=quick,file={},format=qcow2", rig.text("quick.qcow2")),
    ];
    let more = ["--pidfile".to_owned(), rig.text("pid")];
    let mut vm = rig.start_with(&drives, &more)?;
    rig.start_server(&mut vm, json!({}))?;
    for disk in ["slow", "quick"] {
        rig.export(&mut vm, disk, true)?;
        let mut client = Nbd::connect(&rig.path("nbd"), disk, STEP)?;
        client.send(nbd::Command::Write(1 << 20), 4 * MIB, &vec![0xa5; 1 << 20])?;
        check(client.receive(&mut Vec::new())?.error == 0, "the write is answered")?;
    }
    Ok(vm)
}

fn is_there(rig: &Rig, image: &str) -> Result<(), Failure> {
    qemu_io("qcow2", &rig.text(image), &[format!("read -P 0xa5 {} 1M", 4 * MIB)])
}

/// Waits until the disk `quick` has ended. It does not wait for the other disk.
fn quick_has_ended(rig: &Rig) -> Result<(), Failure> {
    wait_for("the quick disk's end", STEP, || Ok(is_there(rig, "quick.qcow2").is_ok()))
}

fn leaves_nothing(rig: &Rig) -> Result<(), Failure> {
    for name in ["qmp", "nbd", "pid"] {
        check(!rig.path(name).exists(), format!("'{name}' is removed"))?;
    }
    Ok(())
}

#[test]
fn an_end_takes_as_long_as_the_disks_and_says_so() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let server = slow(&rig)?;
    let vm = written(&rig, &server.uri(""))?;
    std::fs::write(rig.path("hold"), "")?;
    vm.signal(Signal::HUP)?;
    quick_has_ended(&rig)?;
    // The program waits for a disk without any time-out.
    wait_for("a line that says what it waits for", LONG, || Ok(vm.log().contains("disk 'slow'")))?;
    let log = vm.log();
    check(log.contains("second signal") && !log.contains("disk 'quick'"), log)?;
    std::fs::remove_file(rig.path("hold"))?;
    vm.ended()?;
    leaves_nothing(&rig)?;
    drop(server);
    is_there(&rig, "slow.qcow2")?;
    qemu_img::check("qcow2", &rig.path("slow.qcow2"), false)?;
    qemu_img::check("qcow2", &rig.path("quick.qcow2"), false)
}

#[test]
fn a_second_signal_ends_at_once() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let server = slow(&rig)?;
    let mut vm = written(&rig, &server.uri(""))?;
    std::fs::write(rig.path("hold"), "")?;
    vm.signal(Signal::TERM)?;
    // A disk that hangs does not delay the end of another.
    quick_has_ended(&rig)?;
    let mut end = None;
    wait_for("the program's end", STEP, || {
        // Signals that come right after the first one count as the same.
        vm.signal(Signal::INT)?;
        std::thread::sleep(Duration::from_millis(50));
        end = vm.wait(Duration::ZERO).ok();
        Ok(end.is_some())
    })?;
    check(end.and_then(|end| end.code()) == Some(1), format!("exit status 1: {end:?}"))?;
    let log = vm.log();
    check(log.lines().last().is_some_and(|line| line.contains("second signal")), log)?;
    leaves_nothing(&rig)?;
    std::fs::remove_file(rig.path("hold"))?;
    drop(server);
    // In the same state as after a power cut.
    qemu_img::check("qcow2", &rig.path("slow.qcow2"), true)?;
    qemu_img::check("qcow2", &rig.path("quick.qcow2"), false)
}

/// Ends the program with a disk that cannot save the data written to it. The program must name the disk,
/// save the other disk's data, and exit with status 1.
fn lost(rig: &Rig, uri: &str, break_it: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let mut vm = written(rig, uri)?;
    break_it()?;
    vm.qmp.execute_json("quit", json!({}))?;
    let status = vm.wait(LONG)?;
    let log = vm.log();
    check(status.code() == Some(1), format!("exit status 1: {status}: {log}"))?;
    let last = log.lines().last().unwrap_or_default();
    check(last.contains("disk 'slow'") && last.contains("lost"), format!("it says what was lost: {log}"))?;
    check(!last.contains("quick"), format!("and nothing else: {log}"))?;
    leaves_nothing(rig)?;
    is_there(rig, "quick.qcow2")?;
    qemu_img::check("qcow2", &rig.path("quick.qcow2"), false)
}

#[test]
fn an_end_says_what_a_full_disk_loses() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let server = slow(&rig)?;
    lost(&rig, &server.uri(""), || Ok(std::fs::write(rig.path("full"), "")?))
}

#[test]
fn an_end_says_what_a_silent_server_loses() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let server = slow(&rig)?;
    let uri = format!("{}&timeout=1&reconnect-delay=0", server.uri(""));
    lost(&rig, &uri, || Ok(std::fs::write(rig.path("hold"), "")?))?;
    std::fs::remove_file(rig.path("hold"))?;
    Ok(())
}

#[test]
fn an_end_says_what_a_dead_server_loses() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut server = slow(&rig)?;
    let uri = format!("{}&reconnect-delay=0", server.uri(""));
    lost(&rig, &uri, || server.kill())
}

#[test]
fn an_end_waits_for_no_client() -> Result<(), Failure> {
    let rig = Rig::new()?;
    run("qemu-img", &["create", "-f", "qcow2", &rig.text("leaf.qcow2"), "256M"])?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    rig.export(&mut vm, "virtio0", true)?;
    // Some clients request more than sockets hold and read none of it; others have sent nothing, or half
    // a request.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Nbd::connect(&rig.path("nbd"), "virtio0", STEP)?;
        for n in 0..8 {
            client.send(nbd::Command::Read(16 << 20), n * 16 * MIB, &[])?;
        }
        clients.push(client);
    }
    let silent = [rig.connect_only()?, rig.connect("virtio0")?];
    let half = rig.connect("virtio0")?;
    std::io::Write::write_all(&mut &half, &crate::rig::request(1, 0, 1 << 20)[..20])?;
    let start = Instant::now();
    vm.signal(Signal::TERM)?;
    vm.ended()?;
    check(start.elapsed() < LONG, "it does not wait for clients")?;
    drop((clients, silent, half));
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), false)
}

#[test]
fn a_terminal_is_as_it_was_after_each_end() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let server = slow(&rig)?;
    let command = || -> Result<Command, Failure> {
        let mut command = Command::new(millrace()?);
        let drive = format!("id=slow,file={},format=qcow2", server.uri(""));
        command.args(["run", "--machine", "none", "--monitor", "stdio", "--drive", &drive]);
        Ok(command)
    };
    for signal in [None, Some(Signal::TERM), Some(Signal::INT), Some(Signal::HUP)] {
        let mut terminal = Terminal::run(&mut command()?)?;
        terminal.shows("(")?;
        check(!terminal.is_as_before()?, "lines are edited")?;
        match signal {
            Some(signal) => terminal.signal(signal)?,
            None => terminal.press(&["quit\r"])?,
        }
        terminal.ended()?;
        check(terminal.is_as_before()?, format!("the terminal after {signal:?}"))?;
    }
    let mut terminal = Terminal::run(&mut command()?)?;
    terminal.shows("(")?;
    std::fs::write(rig.path("hold"), "")?;
    let mut end = None;
    wait_for("an end by several signals", STEP, || {
        terminal.signal(Signal::TERM)?;
        std::thread::sleep(Duration::from_millis(50));
        end = terminal.end()?;
        Ok(end.is_some())
    })?;
    std::fs::remove_file(rig.path("hold"))?;
    check(terminal.is_as_before()?, format!("the terminal after {end:?}"))
}
