//! `vncdotool`, a client of other people, shows what the guest has drawn.

use harness::picture::Picture;
use harness::{Failure, check, vncdo};
use serde_json::{Value, json};

use crate::{Machine, Pattern, has_kvm};

/// A machine that shows its screen on a TCP port, and that port.
fn machine(options: &str) -> Result<(Machine, u16), Failure> {
    let port = emulated_host::free_port()?;
    let display = port.checked_sub(5900).ok_or("a port below those of VNC")?;
    Ok((Machine::start(&["--vnc", &format!("127.0.0.1:{display}{options}")])?, port))
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
