//! The monitor's interfaces other than the QMP socket, our own clients, and clients that behave badly.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::{Failure, STEP, check, wait_for};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, inserted, text};

fn millrace(stage: &Stage, arguments: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new(&stage.millrace);
    Ok(command.args(arguments).current_dir(stage.folder.path()).stdin(Stdio::null()).output()?)
}

#[test]
fn hmp_on_a_socket() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.run(
        &[stage.disk("virtio0", MIB)?],
        &["--monitor", &format!("unix:{}", stage.path("hmp").display())],
    )?;
    let mut socket = UnixStream::connect(stage.path("hmp"))?;
    socket.set_read_timeout(Some(STEP))?;
    // Another client that never writes or reads anything has no effect.
    let _silent = UnixStream::connect(stage.path("hmp"))?;
    let mut said = String::new();
    for (line, says) in [
        ("info block", "virtio0 (#block"),
        ("info block-stream\r", "No active stream"),
        ("block_stream virtio0", ""),
        ("block_stream nothing", "Error: Device 'nothing' not found"),
        ("fly", "unknown command: 'fly'"),
        ("help eject", "eject [-f] device --"),
        ("stop", ""),
        ("info status", "VM status: paused"),
        ("cont", ""),
    ] {
        writeln!(socket, "{line}")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"(qemu) ") || answer == b"(qemu) " && said.is_empty() {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            answer.extend(byte);
            if said.is_empty() && answer == b"(qemu) " {
                // The prompt before the first line.
                said = String::from("(qemu) ");
                answer.clear();
            }
        }
        let answer = String::from_utf8(answer)?;
        check(answer.contains(says), format!("'{line}' says '{says}': {answer}"))?;
    }
    writeln!(socket, "quit")?;
    vm.ended()
}

#[test]
fn lines_of_a_text_client_that_hangs_up_are_all_done() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(
        &[stage.disk("virtio0", MIB)?, stage.disk("virtio1", MIB)?],
        &["--monitor", &format!("unix:{}", stage.path("hmp").display())],
    )?;
    for round in 0..20 {
        let leaf = |disk: &str| format!("{disk}-{round}.qcow2");
        let mut lines = String::new();
        for disk in ["virtio0", "virtio1"] {
            let backing = inserted(&mut vm, disk);
            let (file, format) = (backing["file"].as_str().ok_or("no file")?, &backing["drv"]);
            let file = Path::new(file).file_name().and_then(|name| name.to_str()).ok_or("no name")?;
            let path = stage.images.leaf(&leaf(disk), (file, format.as_str().ok_or("no format")?))?;
            // The replies are far more than a socket holds, and none of them is read.
            lines += &"info block\n".repeat(if round % 2 == 0 { 2000 } else { 1 });
            lines += &format!("change {disk} {} qcow2\n", path.display());
        }
        lines += "stop\nnot a whole line";
        let mut socket = UnixStream::connect(stage.path("hmp"))?;
        socket.write_all(lines.as_bytes())?;
        drop(socket);
        wait_for("the last line to be done", STEP, || {
            Ok(ask(&mut vm, "query-status", Value::Null)["status"] == "paused")
        })?;
        for disk in ["virtio0", "virtio1"] {
            assert_eq!(inserted(&mut vm, disk)["file"], text(&stage.path(&leaf(disk))));
        }
        ask(&mut vm, "cont", Value::Null);
    }
    vm.quit()
}

#[test]
fn hmp_on_standard_input() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut child = Command::new(&stage.millrace)
        .args(["run", "--machine", "none", "--monitor", "stdio", "--drive", &stage.disk("virtio0", MIB)?])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(b"info block\nquit\n")?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    check(output.status.success() && said.contains("virtio0 (#block"), said)
}

#[test]
fn one_command_for_scripts() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let answer = |arguments: &[&str]| -> Result<Value, Failure> {
        let output = millrace(&stage, &[&["qmp", "qmp"], arguments].concat())?;
        check(output.status.success(), format!("{arguments:?}: {output:?}"))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    assert_eq!(answer(&["query-status"])?["status"], "running");
    assert_eq!(answer(&["block_resize", "device=virtio0", "size=2M"])?, json!({}));
    assert_eq!(answer(&["query-block"])?[0]["inserted"]["image"]["virtual-size"], 2 * MIB);
    let nbd = format!("addr.data.path={}", text(&stage.path("nbd")));
    assert_eq!(answer(&["nbd-server-start", "addr.type=unix", &nbd])?, json!({}));
    for (arguments, says) in [
        (&["qmp", "qmp", "block_resize", "device=none", "size=512"][..], "Cannot find device='none'"),
        (&["qmp", "qmp", "block_stream", "device=virtio0", "all=perhaps"], "all=perhaps: give true or false"),
        (&["qmp", "qmp", "fly"], "CommandNotFound: The command fly has not been found"),
        (&["qmp", "nowhere", "query-status"], "nowhere"),
        (&["watch", "nowhere"], "nowhere"),
    ] {
        let output = millrace(&stage, arguments)?;
        let error = String::from_utf8(output.stderr)?;
        check(output.status.code() == Some(1), format!("{arguments:?} fails"))?;
        check(
            error.lines().count() == 1 && error.contains(says),
            format!("{arguments:?} says '{says}': {error}"),
        )?;
    }
    vm.quit()
}

#[test]
fn the_shell_takes_lines_and_shows_events() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let mut shell = Command::new(&stage.millrace)
        .args(["qmp", &text(&stage.path("qmp"))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = shell.stdin.take().ok_or("no input")?;
    let mut lines = BufReader::new(shell.stdout.take().ok_or("no output")?).lines();
    let mut until = |part: &str| -> Result<(), Failure> {
        loop {
            if lines.next().ok_or_else(|| format!("the shell ended without '{part}'"))??.contains(part) {
                return Ok(());
            }
        }
    };
    writeln!(input, "help change")?;
    until("device=str")?;
    input.write_all(b"{\"execute\": \"query-status\"}\n")?;
    until("\"running\"")?;
    writeln!(input, "block_stream device=none")?;
    until("DeviceNotFound")?;
    writeln!(input, "stop")?;
    until(" STOP")?;
    drop(input);
    check(shell.wait()?.success(), "the shell ends with its input")?;
    vm.quit()
}

#[test]
fn watch_shows_jobs_and_disks() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 64 * MIB)?], &[])?;
    let target = text(&stage.path("copy.qcow2"));
    // So slow that the job is still running when it is queried.
    let arguments = json!({"device": "virtio0", "target": target, "format": "qcow2", "speed": 65536});
    ask(&mut vm, "x-live-copy", arguments);
    let output = millrace(&stage, &["watch", "--once", "qmp"])?;
    let said = String::from_utf8(output.stdout)?;
    check(output.status.success(), &said)?;
    check(said.contains("job virtio0: stream") && said.contains("of 67108864 bytes"), &said)?;
    check(said.contains("disk virtio0: read "), &said)?;
    vm.quit()
}

#[test]
fn qmp_on_tcp() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("tcp:127.0.0.1:{port}");
    let vm = stage.run(&[], &["--qmp", &address])?;
    let output = millrace(&stage, &["qmp", &address, "query-status"])?;
    check(output.status.success(), format!("{output:?}"))?;
    // A web page can make a browser send this to any port of its host.
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost:4444\r\nContent-Type: text/plain\r\n\r\n",
        "GET /{'x':1} HTTP/1.1\r\n\r\n",
        "\r\nUSER x\r\n",
        "[] ",
        "\0\u{1}\0\u{8}!",
    ] {
        let mut page = TcpStream::connect(("127.0.0.1", port))?;
        page.set_read_timeout(Some(STEP))?;
        page.write_all(format!("{request}{{'execute':'qmp_capabilities'}}{{'execute':'quit'}}").as_bytes())?;
        let mut said = Vec::new();
        // The connection is closed, whether or not its input was read.
        if let Err(e) = page.read_to_end(&mut said) {
            check(e.kind() == ErrorKind::ConnectionReset, format!("{request}: {e}"))?;
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        check(!said.contains("return"), format!("{request} is not obeyed: {said}"))?;
    }
    let output = millrace(&stage, &["qmp", &address, "query-status"])?;
    check(output.status.success(), format!("{output:?}"))?;
    for (option, says) in [("tcp::4444", "names no host"), ("tcp:4444", "neither unix:PATH nor")] {
        let output = millrace(&stage, &["run", "--machine", "none", "--qmp", option])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        check(output.status.code() == Some(1) && said.contains(says), format!("{option}: {said}"))?;
    }
    // Half a message, then the client hangs up.
    TcpStream::connect(("127.0.0.1", port))?.write_all(b"{\"execute\": \"qu")?;
    vm.quit()
}

#[test]
fn bad_clients_hold_up_nobody() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 8 * MIB)?], &[])?;
    // One client floods and never reads, one sends half a message, and one sends nothing.
    let mut flood = UnixStream::connect(stage.path("qmp"))?;
    flood.write_all(b"{'execute': 'qmp_capabilities'}")?;
    flood.set_nonblocking(true)?;
    while flood.write(&b"{'execute': 'query-qmp-schema'}".repeat(100)).is_ok() {}
    let mut half = UnixStream::connect(stage.path("qmp"))?;
    half.write_all(b"{'execute': 'qmp_capabilities'} {'execute': 'quit', 'arguments': {")?;
    let _silent = UnixStream::connect(stage.path("qmp"))?;
    // One dies while its command runs.
    let mut dying = UnixStream::connect(stage.path("qmp"))?;
    dying.write_all(
        b"{'execute': 'qmp_capabilities'} {'execute': 'block_stream', 'arguments': {'device': 'virtio0'}}",
    )?;
    drop(dying);
    for n in 0..4 {
        let target = text(&stage.path(&format!("copy{n}.qcow2")));
        let arguments = json!({"device": "virtio0", "target": target, "format": "qcow2"});
        // The dying client's command may keep the disk busy for a moment.
        wait_for("the dying client's command to end", STEP, || {
            Ok(vm.qmp.execute_json("x-live-copy", arguments.clone()).is_ok())
        })?;
        vm.stream_completed(STEP)?;
    }
    vm.quit()
}
