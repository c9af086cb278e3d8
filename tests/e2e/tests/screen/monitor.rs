//! Passwords, pictures and input by the monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use harness::picture::Picture;
use harness::{Failure, STEP, check};
use serde_json::{Value, json};

use crate::{Machine, Pattern, has_kvm};

#[test]
fn a_screendump_has_every_pixel_that_the_guest_has_drawn() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let mut machine = Machine::start(&["--vnc", "unix:vnc"])?;
    for format in ["png", "ppm"] {
        machine.dump(format)?.shows_the_pattern(&[])?;
    }
    machine.whiten(7)?;
    let (path, said) = (machine.path("hmp.ppm"), machine.path("hmp.ppm").display().to_string());
    check(machine.hmp(&format!("screendump {said}"))?.is_empty(), "HMP takes a picture")?;
    Picture::read(&path)?.shows_the_pattern(&[7])?;
    // While the machine is stopped too, and after a reset it is black.
    machine.ask("stop", Value::Null)?;
    machine.dump("png")?.shows_the_pattern(&[7])?;
    machine.ask("system_reset", Value::Null)?;
    check(machine.dump("png")?.is_black(), "a reset clears the screen")?;
    machine.ask("cont", Value::Null)?;
    machine.prompt()?;
    machine.dump("png")?.shows_the_pattern(&[])?;
    let full = machine.refused("screendump", json!({"filename": "/dev/full"}));
    check(full.contains("cannot write /dev/full: No space"), full)?;
    machine.end()
}

#[test]
fn a_password_is_set_by_the_line_of_2011_if_clients_need_one() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let mut machine = Machine::start(&["--vnc", "unix:vnc,password=on"])?;
    let example = json!({"device": "vnc", "target": "password", "arg": "foobar1"});
    check(machine.ask("change", example)? == json!({}), "the example of 2011")?;
    check(
        machine.ask("change", json!({"device": "vnc", "target": "passwd", "arg": "a"}))? == json!({}),
        "passwd",
    )?;
    let wrong = machine.refused("change", json!({"device": "vnc", "target": "password"}));
    check(wrong.starts_with("Parameter 'arg' is missing"), wrong)?;
    let wrong = machine.refused("change", json!({"device": "vnc", "target": "password", "arg": ""}));
    check(wrong == "the password is empty", wrong)?;
    let wrong = machine.refused("change", json!({"device": "vnc", "target": "unix:other"}));
    check(wrong == "Expected 'password' after 'vnc'", wrong)?;
    check(machine.hmp("change vnc password secret")?.is_empty(), "HMP sets it")?;
    let said = machine.hmp("change vnc password")?;
    check(said.trim() == "terminal does not support password prompting", format!("HMP without one: {said}"))?;
    machine.ask("set_password", json!({"protocol": "vnc", "password": "secret", "connected": "keep"}))?;
    machine.ask("expire_password", json!({"protocol": "vnc", "time": "+600"}))?;
    for (command, arguments, says) in [
        ("set_password", json!({"protocol": "vnc", "password": ""}), "empty"),
        ("set_password", json!({"protocol": "vnc", "password": "a", "connected": "fail"}), "must be 'keep'"),
        ("set_password", json!({"protocol": "spice", "password": "a"}), "Spice"),
        ("expire_password", json!({"protocol": "vnc", "time": "soon"}), "give now, never"),
    ] {
        let refused = machine.refused(command, arguments);
        check(refused.contains(says), refused)?;
    }
    let info = machine.ask("query-vnc", Value::Null)?;
    check(info["enabled"] == true && info["auth"] == "vnc" && info["family"] == "unix", &info)?;
    check(info["clients"] == json!([]), &info)?;
    machine.end()
}

/// As a client sees it that knows nothing but the text of 2011.
#[test]
fn the_example_of_2011_is_replied_to_byte_for_byte() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let machine = Machine::start(&["--vnc", "unix:vnc,password=on"])?;
    let mut socket = UnixStream::connect(machine.path("qmp"))?;
    socket.set_read_timeout(Some(STEP))?;
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut line = move || -> Result<String, Failure> {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        Ok(line)
    };
    check(line()?.starts_with("{\"QMP\": {"), "a greeting")?;
    let example = "{ \"execute\": \"change\", \"arguments\": { \"device\": \"vnc\", \"target\": \"password\",\n                            \"arg\": \"foobar1\" } }\n";
    for request in ["{ \"execute\": \"qmp_capabilities\" }\n", example] {
        socket.write_all(request.as_bytes())?;
        let reply = line()?;
        check(reply == "{\"return\": {}}\r\n", format!("{request} -> {reply:?}"))?;
    }
    socket
        .write_all(example.replace(",\n                            \"arg\": \"foobar1\"", "").as_bytes())?;
    let reply = line()?;
    check(
        reply.starts_with("{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'arg' is missing"),
        format!("without a password: {reply:?}"),
    )?;
    machine.end()
}

#[test]
fn without_a_password_in_its_options_a_server_takes_none() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let mut machine = Machine::start(&["--vnc", "unix:vnc"])?;
    let off = "the VNC server asks for no password: start the program with --vnc ...,password=on";
    for (command, arguments) in [
        ("change", json!({"device": "vnc", "target": "password", "arg": "foobar1"})),
        ("set_password", json!({"protocol": "vnc", "password": "foobar1"})),
        ("expire_password", json!({"protocol": "vnc", "time": "now"})),
    ] {
        check(machine.refused(command, arguments) == off, command)?;
    }
    check(machine.hmp("info vnc")?.contains("Auth: none"), "info vnc")?;
    machine.end()
}

/// Nothing of this reaches the guest, which has no driver for its keyboard.
#[test]
fn input_is_checked_before_any_of_it_is_sent() -> Result<(), Failure> {
    if !has_kvm() {
        return Ok(());
    }
    let mut machine = Machine::start(&["--vnc", "unix:vnc"])?;
    let key = |kind: &str, data: Value| json!({"type": kind, "data": data});
    machine.ask("send-key", json!({"keys": [key("qcode", json!("ctrl")), key("number", json!(0x1e))]}))?;
    check(machine.hmp("sendkey ctrl-alt-f1 1")?.is_empty(), "HMP presses keys")?;
    let button = |name: &str| key("btn", json!({"button": name, "down": true}));
    let events = json!([
        key("key", json!({"key": key("qcode", json!("a")), "down": true})),
        key("key", json!({"key": key("qcode", json!("a")), "down": false})),
        key("abs", json!({"axis": "x", "value": 32767})),
        button("left"),
        button("wheel-up"),
    ]);
    machine.ask("input-send-event", json!({"events": events}))?;
    for (command, arguments, says) in [
        ("send-key", json!({"keys": [key("qcode", json!("no"))]}), "does not accept value 'no'"),
        ("send-key", json!({"keys": [key("qcode", json!("unmapped"))]}), "not on the keyboard"),
        ("send-key", json!({"keys": [key("number", json!(4711))]}), "scancode 4711"),
        ("send-key", json!({"keys": [], "hold-time": -1}), "hold-time -1"),
        ("input-send-event", json!({"events": [button("touch")]}), "Input handler not found"),
        ("input-send-event", json!({"events": [key("rel", json!({"axis": "x", "value": 1}))]}), "type rel"),
        (
            "input-send-event",
            json!({"events": [key("abs", json!({"axis": "y", "value": -1}))]}),
            "give 0 to 32767",
        ),
    ] {
        let refused = machine.refused(command, arguments);
        check(refused.contains(says), refused)?;
    }
    machine.end()
}
