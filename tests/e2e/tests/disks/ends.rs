//! The ends of the program: by each signal, at each stage of its start, with nobody who reads its
//! output; and the files that it leaves behind.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use guest_images::micro;
use harness::images::drive;
use harness::nbd::{self, Nbd};
use harness::programs::Programs;
use harness::terminal::Terminal;
use harness::{Failure, Options, STEP, Vm, check, qemu_img, wait_for};
use rustix::fs::{FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::json;

use crate::process::Program;
use crate::{MIB, Stage, disk, millrace};

const SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::HUP];
/// System calls of x86-64 in which a start can hang, as /proc shows them.
const CONNECT: &str = "42 ";
const OPENAT: &str = "257 ";

/// Sends `signal` to a program that is starting. It must end with status 0 and leave nothing behind.
fn ends_well(stage: &Stage, mut program: Program, signal: Signal) -> Result<(), Failure> {
    program.signal(signal)?;
    let status = program.end()?;
    let said = std::fs::read_to_string(stage.path("said"))?;
    check(status.code() == Some(0), format!("exit status 0: {status}: {said}"))?;
    leaves_nothing(stage)
}

fn leaves_nothing(stage: &Stage) -> Result<(), Failure> {
    for name in ["qmp", "monitor", "pid"] {
        check(!stage.path(name).exists(), format!("'{name}' is removed"))?;
    }
    Ok(())
}

fn fifo(path: &Path) -> Result<(), Failure> {
    Ok(mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

/// A socket that accepts no more connections. New ones wait for as long as the result lives.
fn full_listener(path: &Path) -> Result<(OwnedFd, Vec<UnixStream>), Failure> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 0)?;
    // A backlog of 0 has room for one.
    Ok((socket, vec![UnixStream::connect(path)?]))
}

/// Writes to its serial port forever: mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp to the out.
const CHATTERBOX: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// Powers itself off: mov dx, 0x600; mov al, 0x34; out dx, al; jmp to itself.
const POWERS_OFF: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
/// Notifies pvpanic: mov dx, 0x505; mov al, 1; out dx, al; jmp to itself.
const PANICS: &[u8] = &[0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xfe];
/// Causes a triple fault: lidt of zeros; ud2; the zeros.
const FAULTS: &[u8] = &[0x0f, 0x01, 0x1d, 2, 0, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A guest of a few instructions, in a file of at least `len` bytes.
fn guest(path: &Path, code: &[u8], len: u64) -> Result<(), Failure> {
    let mut file = micro::kernel(code);
    file.resize(file.len().max(usize::try_from(len)?), 0);
    Ok(std::fs::write(path, file)?)
}

/// Returns true if this host has any KVM, even one that runs only a few instructions.
fn has_kvm() -> bool {
    let has = !matches!(kvm_probe::kvm(), kvm_probe::Kvm::Absent | kvm_probe::Kvm::NoPermission);
    if !has {
        eprintln!("not tested: {}", kvm_probe::kvm());
    }
    has
}

const SOCKETS: [&str; 6] = ["--qmp", "unix:qmp", "--monitor", "unix:monitor", "--pidfile", "pid"];

#[test]
fn a_signal_ends_a_start_at_any_instant() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let leaf = stage.path("leaf.qcow2");
    stage.images.image(&["create", "-f", "qcow2", "leaf.qcow2", "64M"])?;
    let drive = drive("virtio0", &leaf, "qcow2");
    guest(&stage.path("guest"), CHATTERBOX, 0)?;
    let mut rows = vec![&["--machine", "none"][..]];
    if has_kvm() {
        rows.push(&["--kernel", "guest", "--serial", "null"]);
    }
    for (signal, step) in SIGNALS.into_iter().flat_map(|signal| (0..8).map(move |step| (signal, step))) {
        for row in &rows {
            let program = Program::start(&stage, &[&SOCKETS[..], row, &["--drive", &drive]].concat())?;
            program.is_up()?;
            std::thread::sleep(Duration::from_millis(2 * step));
            ends_well(&stage, program, signal).map_err(|e| format!("{signal:?}, {step}, {row:?}: {e}"))?;
        }
    }
    qemu_img::check("qcow2", &leaf, false)
}

#[test]
fn a_signal_ends_a_start_that_hangs() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let leaf = stage.path("leaf.qcow2");
    stage.images.image(&["create", "-f", "qcow2", "leaf.qcow2", "64M"])?;
    let first = drive("virtio0", &leaf, "qcow2");
    // A server that accepts connections and sends nothing.
    let server = UnixListener::bind(stage.path("silent"))?;
    let silent = format!("id=virtio1,file=nbd+unix:///?socket={},format=raw", stage.path("silent").display());
    std::fs::create_dir(stage.path("tls"))?;
    fifo(&stage.path("tls/ca-cert.pem"))?;
    for signal in SIGNALS {
        let hangs = ["--machine", "none", "--drive", &first, "--drive", &silent];
        let program = Program::start(&stage, &[&SOCKETS[..], &hangs].concat())?;
        let (_silent, _) = server.accept()?;
        ends_well(&stage, program, signal).map_err(|e| format!("{signal:?}, a silent server: {e}"))?;

        let hangs = ["--machine", "none", "--tls-creds", "id=tls0,dir=tls"];
        let program = Program::start(&stage, &[&SOCKETS[..], &hangs].concat())?;
        program.hangs_in(OPENAT)?;
        ends_well(&stage, program, signal).map_err(|e| format!("{signal:?}, TLS credentials: {e}"))?;
    }
    qemu_img::check("qcow2", &leaf, false)
}

#[test]
fn a_signal_ends_a_machine_whose_start_hangs() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let stage = Stage::new()?;
    guest(&stage.path("guest"), CHATTERBOX, 0)?;
    fifo(&stage.path("fifo"))?;
    let _full = full_listener(&stage.path("full"))?;
    for signal in SIGNALS {
        for (hangs, call) in [
            (&["--kernel", "fifo"][..], OPENAT),
            (&["--kernel", "guest", "--net", "passt=full"], CONNECT),
            (&["--kernel", "guest", "--serial", "file:fifo"], OPENAT),
        ] {
            let program = Program::start(&stage, &[&SOCKETS[..], hangs].concat())?;
            program.hangs_in(call)?;
            ends_well(&stage, program, signal).map_err(|e| format!("{signal:?}, {hangs:?}: {e}"))?;
        }
    }
    Ok(())
}

/// Writes to a disk as an NBD client that does not flush, and ends the program by `end`. The data must
/// be in the image.
fn saves(end: impl FnOnce(&mut Vm) -> Result<(), Failure>) -> Result<(), Failure> {
    let stage = Stage::new()?;
    let leaf = stage.path("leaf.qcow2");
    stage.images.image(&["create", "-f", "qcow2", "leaf.qcow2", "64M"])?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    let mut client = export(&stage, &mut vm)?;
    let data = vec![0xa5; 1 << 20];
    client.send(nbd::Command::Write(1 << 20), 4 * MIB, &data)?;
    check(client.receive(&mut Vec::new())?.error == 0, "the write is answered")?;
    end(&mut vm)?;
    vm.ended()?;
    leaves_nothing(&stage)?;
    qemu_img::check("qcow2", &leaf, false)?;
    let read = format!("read -P 0xa5 {} 1M", 4 * MIB);
    let said = Command::new("qemu-io").args(["-f", "qcow2", "-c", &read]).arg(&leaf).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    check(said.contains("read 1048576") && !said.contains("failed"), said)
}

/// Exports the first disk and connects to it.
fn export(stage: &Stage, vm: &mut Vm) -> Result<Nbd, Failure> {
    let socket = stage.path("nbd");
    vm.qmp.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))?;
    vm.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    Nbd::connect(&socket, "virtio0", STEP)
}

#[test]
fn every_end_saves_what_was_answered() -> Result<(), Failure> {
    for signal in SIGNALS {
        saves(|vm| vm.signal(signal)).map_err(|e| format!("{signal:?}: {e}"))?;
        // timeout(1) and a closing terminal do this.
        let twice = |vm: &mut Vm| vm.signal(signal).and_then(|()| vm.signal(Signal::TERM));
        saves(twice).map_err(|e| format!("{signal:?} and SIGTERM at once: {e}"))?;
    }
    saves(|vm| Ok(vm.qmp.execute_json("quit", json!({})).map(drop)?)).map_err(|e| format!("quit: {e}"))?;
    let typed = json!({"command-line": "quit"});
    saves(|vm| Ok(vm.qmp.execute_json("human-monitor-command", typed).map(drop)?))
        .map_err(|e| format!("quit of the text monitor: {e}").into())
}

/// Each end of a guest, and of a start that fails: checks the exit status, the terminal, and that
/// nothing is left behind.
#[test]
fn every_end_leaves_the_terminal_as_it_was_and_no_files() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let leaf = stage.path("leaf.qcow2");
    stage.images.image(&["create", "-f", "qcow2", "leaf.qcow2", "64M"])?;
    let drive = drive("virtio0", &leaf, "qcow2");
    let missing = "id=virtio1,file=missing.img,format=raw";
    let fails = ["--machine", "none", "--drive", missing];
    let fails_with_guest = ["--kernel", "guest", "--drive", missing];
    let mut rows: Vec<(&str, &[u8], &[&str], i32)> = vec![("a start that fails", &[], &fails, 1)];
    if has_kvm() {
        let kernel = &["--kernel", "guest", "--serial", "stdio"];
        rows.extend([
            ("power-off", POWERS_OFF, &kernel[..], 0),
            ("a panic", PANICS, kernel, 1),
            ("a triple fault", FAULTS, kernel, 1),
            ("Ctrl-A x", CHATTERBOX, kernel, 0),
            (
                "a machine that cannot be",
                POWERS_OFF,
                &["--kernel", "guest", "--serial", "file:/missing/file"],
                1,
            ),
            ("two drives", POWERS_OFF, &fails_with_guest, 1),
        ]);
        rows.extend(["SIGTERM", "SIGINT", "SIGHUP"].map(|signal| (signal, CHATTERBOX, &kernel[..], 0)));
    }
    for (end, code, arguments, status) in rows {
        guest(&stage.path("guest"), code, 0)?;
        let mut command = Command::new(millrace()?);
        command.args(["run", "--sandbox", "strict", "--drive", &drive]).args(SOCKETS).args(arguments);
        let mut terminal = Terminal::run(command.current_dir(stage.folder.path()))?;
        if code == CHATTERBOX {
            terminal.shows("xxx")?;
            check(!terminal.is_as_before()?, format!("{end}: the terminal is raw meanwhile"))?;
        }
        match end {
            "Ctrl-A x" => terminal.press(&["\x01x"])?,
            "SIGTERM" => terminal.signal(Signal::TERM)?,
            "SIGINT" => terminal.signal(Signal::INT)?,
            "SIGHUP" => terminal.signal(Signal::HUP)?,
            _ => {}
        }
        let mut ended = None;
        wait_for(end, STEP, || {
            ended = terminal.end()?;
            Ok(ended.is_some())
        })?;
        check(
            ended.and_then(|ended| ended.code()) == Some(status),
            format!("{end}: status {status}: {ended:?}"),
        )?;
        check(terminal.is_as_before()?, format!("{end}: the terminal is as it was"))?;
        leaves_nothing(&stage).map_err(|e| format!("{end}: {e}"))?;
        qemu_img::check("qcow2", &leaf, false)?;
    }
    Ok(())
}

/// A program that is started with SIGHUP ignored, as nohup does, keeps running.
#[test]
fn nohup_keeps_the_program_running() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut command = Command::new("sh");
    let run = "trap '' HUP; exec \"$0\" run --machine none --qmp unix:qmp";
    command.args(["-c", run]).arg(millrace()?).current_dir(stage.folder.path());
    let mut program = Program { child: command.stdin(Stdio::null()).spawn()? };
    wait_for("its socket", STEP, || Ok(stage.path("qmp").exists()))?;
    program.signal(Signal::HUP)?;
    let address = qmp::Address::Unix(stage.path("qmp"));
    let mut client = qmp::Client::connect(&address, STEP)?;
    client.execute_json("query-status", json!({}))?;
    program.signal(Signal::INT)?;
    check(program.end()?.code() == Some(0), "SIGINT ends it")?;
    leaves_nothing(&stage)
}

#[test]
fn an_end_does_not_wait_for_who_does_not_read() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let drive = drive("virtio0", &base, "raw");
    let (reader, writer) = rustix::pipe::pipe()?;
    rustix::pipe::fcntl_setpipe_size(&writer, 4096)?;
    let arguments = ["--machine", "none", "--drive", &drive, "--qmp", "unix:qmp", "--pidfile", "pid"];
    let mut program = Program::start_with(&stage, &arguments, |command| {
        command.env("MILLRACE_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer)
    })?;
    wait_for("its socket", STEP, || Ok(stage.path("qmp").exists()))?;
    let mut client = qmp::Client::connect(&qmp::Address::Unix(stage.path("qmp")), STEP)?;
    client.set_timeout(STEP);
    let socket = stage.path("nbd");
    client.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))?;
    // Each causes a log line: many times more than the pipe holds.
    for _ in 0..500 {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(&[0xff; 64])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        // Waits until the program hangs up; it has logged the line by then.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    client.execute_json("stop", json!({}))?;
    program.signal(Signal::TERM)?;
    check(program.end()?.code() == Some(0), "exit status 0")?;
    leaves_nothing(&stage)?;
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said)?;
    check(said.contains("NBD handshake"), format!("the log was in the pipe: {said}"))
}

#[test]
fn an_end_does_not_wait_for_a_reader_of_the_monitor_or_the_console() -> Result<(), Failure> {
    let stage = Stage::new()?;
    guest(&stage.path("guest"), CHATTERBOX, 0)?;
    let mut rows = vec![&["--machine", "none", "--monitor", "stdio"][..]];
    if has_kvm() {
        rows.push(&["--kernel", "guest", "--serial", "stdio"]);
    }
    for arguments in rows {
        for signal in SIGNALS {
            let (_reader, writer) = rustix::pipe::pipe()?;
            rustix::pipe::fcntl_setpipe_size(&writer, 4096)?;
            let (output, errors) = (writer.try_clone()?, writer.try_clone()?);
            let arguments = [arguments, &["--pidfile", "pid"]].concat();
            let mut program = Program::start_with(&stage, &arguments, |command| {
                command.stdin(Stdio::piped()).stdout(output).stderr(errors)
            })?;
            program.is_up()?;
            let mut keys = program.child.stdin.take().ok_or("no stdin")?;
            let typing =
                std::thread::spawn(move || keys.write_all("info status\n".repeat(20_000).as_bytes()));
            wait_for("a full pipe", STEP, || {
                let mut poll = [rustix::event::PollFd::new(&writer, rustix::event::PollFlags::OUT)];
                Ok(rustix::event::poll(&mut poll, Some(&Default::default()))? == 0)
            })?;
            program.signal(signal)?;
            let status = program.end().map_err(|e| format!("{signal:?}, {arguments:?}: {e}"))?;
            check(status.code() == Some(0), format!("{signal:?}, {arguments:?}: {status}"))?;
            leaves_nothing(&stage)?;
            // Fails if the program has ended.
            let _ = typing.join();
        }
    }
    Ok(())
}

#[test]
fn open_files_are_limited_by_the_hard_limit_only() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let run = "ulimit -S -n 40 && exec \"$0\" run --machine none --qmp unix:qmp";
    let mut command = Command::new("sh");
    command.args(["-c", run]).arg(millrace()?).current_dir(stage.folder.path());
    let mut program = Program { child: command.stdin(Stdio::null()).spawn()? };
    wait_for("its socket", STEP, || Ok(stage.path("qmp").exists()))?;
    let address = qmp::Address::Unix(stage.path("qmp"));
    // More clients than the soft limit allows.
    let clients = (0..60).map(|_| qmp::Client::connect(&address, STEP)).collect::<Result<Vec<_>, _>>()?;
    program.signal(Signal::TERM)?;
    check(program.end()?.code() == Some(0), "exit status 0")?;
    drop(clients);
    Ok(())
}

#[test]
fn a_kvm_that_runs_no_stock_kernel_is_told_at_once() -> Result<(), Failure> {
    let stage = Stage::new()?;
    // As large as a kernel, so that it is taken for one.
    guest(&stage.path("kernel"), CHATTERBOX, 2 * MIB)?;
    let mut program =
        Program::start(&stage, &["--kernel", "kernel", "--serial", "null", "--qmp", "unix:qmp"])?;
    if kvm_probe::kvm().is_usable() {
        wait_for("its socket", STEP, || Ok(stage.path("qmp").exists()))?;
        program.signal(Signal::TERM)?;
        return check(program.end()?.code() == Some(0), "a host that runs it runs it");
    }
    let status = program.end()?;
    let said = std::fs::read_to_string(stage.path("said"))?;
    check(status.code() == Some(1), format!("exit status 1: {status}: {said}"))?;
    check(said.lines().count() == 1 && said.contains("/dev/kvm"), format!("one line: {said}"))?;
    check(said.contains("--machine none"), format!("what to do: {said}"))?;
    leaves_nothing(&stage)
}

/// A guest of a few instructions is not a stock kernel, so it may run on any KVM.
#[test]
fn a_guest_of_a_few_instructions_runs_on_any_kvm() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let stage = Stage::new()?;
    guest(&stage.path("guest"), CHATTERBOX, 0)?;
    let mut program = Program::start(&stage, &["--kernel", "guest", "--serial", "file:out"])?;
    wait_for("what it writes", STEP, || {
        Ok(std::fs::metadata(stage.path("out")).is_ok_and(|out| out.len() > 0))
    })?;
    program.signal(Signal::HUP)?;
    check(program.end()?.code() == Some(0), "exit status 0")
}

#[test]
fn a_pidfile_is_one_programs_and_no_other_file_is_touched() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let options = Options {
        guest: false,
        more: vec!["--pidfile".into(), stage.path("pid").display().to_string()],
        ..Options::new(&disk(&base, "raw"))
    };
    // Left over from a program that was killed; its process ID may belong to any process by now.
    std::fs::write(stage.path("pid"), format!("{}\n", std::process::id()))?;
    let vm = Vm::start(&Programs::without_guest(millrace()?), stage.folder.path(), &options)?;
    let number = format!("{}\n", vm.id());
    assert_eq!(std::fs::read_to_string(stage.path("pid"))?, number);

    let refused = |name: &str, says: &str| -> Result<(), Failure> {
        let mut other =
            Program::start(&stage, &["--machine", "none", "--qmp", "unix:other", "--pidfile", name])?;
        let status = other.end()?;
        let said = std::fs::read_to_string(stage.path("said"))?;
        check(status.code() == Some(1) && said.contains(says), format!("{name}: {status}: {said}"))?;
        check(said.lines().count() == 1 && !stage.path("other").exists(), said)
    };
    refused("pid", number.trim())?;
    assert_eq!(std::fs::read_to_string(stage.path("pid"))?, number);
    for text in ["precious", "12 34\n", "-1\n", "1\n2\n", &"1".repeat(100)] {
        std::fs::write(stage.path("precious"), text)?;
        refused("precious", "not overwritten")?;
        assert_eq!(std::fs::read_to_string(stage.path("precious"))?, text);
    }
    fifo(&stage.path("fifo"))?;
    refused("fifo", "not a regular file")?;
    refused(".", "directory")?;
    // QEMU's daemon has a pidfile of the same kind, with the same lock.
    let mut qemu = Command::new("qemu-storage-daemon");
    qemu.args(["--pidfile", "pid"]).current_dir(stage.folder.path());
    let said = qemu.stdin(Stdio::null()).output()?;
    check(!said.status.success(), format!("QEMU does not take it either: {said:?}"))?;
    assert_eq!(std::fs::read_to_string(stage.path("pid"))?, number);
    vm.quit()?;
    leaves_nothing(&stage)
}
