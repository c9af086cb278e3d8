//! `vncdotool`, a client of other people, shows what the guest has drawn.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use harness::picture::Picture;
use harness::terminal::Terminal;
use harness::{Failure, STEP, check, programs, vncdo};
use serde_json::{Value, json};

use crate::{Machine, Pattern, command, has_kvm};

/// A machine that shows its screen on a TCP port, and that port.
fn machine(options: &str) -> Result<(Machine, u16), Failure> {
    let port = emulated_host::free_port()?;
    let display = port.checked_sub(5900).ok_or("a port below those of VNC")?;
    Ok((Machine::start(&["--vnc", &format!("127.0.0.1:{display}{options}")])?, port))
}

#[test]
fn the_text_monitor_asks_for_a_password_that_is_not_given() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    // Over a socket: the client's own terminal decides what is shown.
    let port = emulated_host::free_port()?;
    let vnc = format!("127.0.0.1:{},password=on", port.checked_sub(5900).ok_or("a port below those of VNC")?);
    let machine = Machine::start(&["--vnc", &vnc, "--monitor", "unix:hmp"])?;
    let mut monitor = UnixStream::connect(machine.path("hmp"))?;
    monitor.set_read_timeout(Some(STEP))?;
    let mut converse = |line: &str, answer: &str| -> Result<(), Failure> {
        monitor.write_all(line.as_bytes())?;
        let mut came = vec![0; answer.len()];
        monitor.read_exact(&mut came)?;
        check(came == answer.as_bytes(), format!("{line:?}: {:?}", String::from_utf8_lossy(&came)))
    };
    converse("change vnc passwd\nsecret 1\r\n", "(qemu) Password: (qemu) ")?;
    check(capture(&machine, port, &["-p", "secret 1"])?.is_some(), "the password that was asked for")?;
    converse("change vnc password\n\n", "Password: Error: the password is empty\r\n(qemu) ")?;
    // A line after it is a command again.
    converse("info status\n", "VM status: running\r\n(qemu) ")?;
    machine.end()?;

    // On a terminal: neither shown nor remembered.
    let folder = programs::scratch()?;
    let mut command = command(folder.path())?;
    command.args(["--vnc", "unix:vnc,password=on", "--serial", "null", "--monitor", "stdio"]);
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows("(qemu) ")?;
    terminal.press(&["change vnc password\r"])?;
    terminal.shows("Password: ")?;
    terminal.press(&["foobar"])?;
    terminal.draws("Password: ******")?;
    terminal.press(&["\r"])?;
    terminal.shows("(qemu) ")?;
    // Given up, then the line before this one.
    terminal.press(&["change vnc password\r"])?;
    terminal.shows("Password: ")?;
    terminal.press(&["\x03"])?;
    terminal.shows("(qemu) ")?;
    terminal.press(&["\x1b[A", "\x1b[A", "\r"])?;
    terminal.shows("Password: ")?;
    terminal.press(&["\r"])?;
    terminal.shows("Error: the password is empty")?;
    check(!terminal.drawn().contains("foobar"), "the password is not shown")?;
    terminal.press(&["quit\r"])?;
    terminal.ended()
}

/// Takes a picture with vncdotool. Returns `None` if the server does not let it in.
fn capture(machine: &Machine, port: u16, more: &[&str]) -> Result<Option<Picture>, Failure> {
    let path = machine.path("vncdo.png");
    let _ = std::fs::remove_file(&path);
    let file = path.display().to_string();
    let output = vncdo::run_at(port, &[more, &["capture", &file]].concat())?;
    if output.status.success() { Picture::read(&path).map(Some) } else { Ok(None) }
}

#[test]
fn vncdotool_shows_every_pixel_through_changes_stops_and_resets() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let (mut machine, port) = machine("")?;
    let shown = |machine: &Machine| capture(machine, port, &[])?.ok_or_else(|| Failure::from("refused"));
    shown(&machine)?.shows_the_pattern(&[])?;
    let text = port.to_string();
    for event in ["VNC_CONNECTED", "VNC_INITIALIZED", "VNC_DISCONNECTED"] {
        let data = machine.event(event)?;
        check(data["server"]["service"] == json!(text) && data["client"]["family"] == "ipv4", &data)?;
    }
    machine.whiten(9)?;
    machine.whiten(200)?;
    shown(&machine)?.shows_the_pattern(&[9, 200])?;
    machine.ask("stop", Value::Null)?;
    shown(&machine)?.shows_the_pattern(&[9, 200])?;
    machine.ask("system_reset", Value::Null)?;
    check(shown(&machine)?.is_black(), "a reset clears the screen")?;
    machine.ask("cont", Value::Null)?;
    machine.prompt()?;
    shown(&machine)?.shows_the_pattern(&[])?;
    // Keys and pointer of a client, for which this guest has no driver.
    let output = vncdo::run_at(port, &["move", "10", "10", "click", "1", "type", "hello", "key", "ctrl-c"])?;
    check(output.status.success(), String::from_utf8_lossy(&output.stderr))?;
    check(machine.ask("query-status", Value::Null)?["running"] == true, "the machine runs on")?;
    machine.end()
}

#[test]
fn a_password_counts_for_the_next_client() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let (mut machine, port) = machine(",password=on")?;
    check(
        capture(&machine, port, &["-p", "foobar1"])?.is_none(),
        "nobody gets in before there is a password",
    )?;
    machine.ask("change", json!({"device": "vnc", "target": "password", "arg": "foobar1"}))?;
    let shown = capture(&machine, port, &["-p", "foobar1"])?.ok_or("refused with the right password")?;
    shown.shows_the_pattern(&[])?;
    check(capture(&machine, port, &["-p", "foobar2"])?.is_none(), "a wrong password")?;
    machine.ask("set_password", json!({"protocol": "vnc", "password": "foobar2"}))?;
    check(capture(&machine, port, &["-p", "foobar2"])?.is_some(), "the new password counts at once")?;
    machine.ask("expire_password", json!({"protocol": "vnc", "time": "now"}))?;
    check(capture(&machine, port, &["-p", "foobar2"])?.is_none(), "an expired password")?;
    machine.end()
}
