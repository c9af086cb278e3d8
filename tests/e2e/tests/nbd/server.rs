//! The monitor's commands with QEMU's texts, and their effects on clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use harness::{Failure, STEP, Vm, check};
use qmp::event::BlockExportDeleted;
use serde_json::{Value, json};

use crate::rig::{MIB, Model, Rig, greeted, hung_up, request, run};

fn rig() -> Result<(Rig, Vm), Failure> {
    let rig = Rig::new()?;
    run("qemu-img", &["create", "-f", "raw", &rig.text("a.img"), "4M"])?;
    let vm = rig.start(&[("d0", "a.img", "raw")])?;
    Ok((rig, vm))
}

/// Expects this error text, or success if it is empty.
fn expect(vm: &mut Vm, command: &str, arguments: Value, text: &str) -> Result<(), Failure> {
    let answer = match vm.qmp.execute_json(command, arguments.clone()) {
        Ok(_) => String::new(),
        Err(e) => e.command_error().map(|e| e.desc.clone()).ok_or(e)?,
    };
    check(answer == text, format!("{command} {arguments}: {answer:?}, not {text:?}"))
}

fn deleted(vm: &mut Vm, id: &str) -> Result<(), Failure> {
    let event: BlockExportDeleted = vm.qmp.wait(Instant::now() + STEP)?;
    check(event.id == id, format!("{event:?}, not {id}"))
}

#[test]
fn commands_answer_in_qemus_words() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    let unix = json!({"addr": {"type": "unix", "data": {"path": rig.path("nbd")}}});
    let add = |device: &str| json!({"device": device});
    let export = |id: &str, name: &str| json!({"type": "nbd", "id": id, "node-name": "d0", "name": name});
    for (command, arguments, text) in [
        ("nbd-server-start", unix.clone(), "NBD server already running"),
        ("nbd-server-stop", Value::Null, ""),
        ("nbd-server-stop", Value::Null, "NBD server not running"),
        ("nbd-server-add", add("d0"), "NBD server not running"),
        ("nbd-server-add", add("x"), "Cannot find device='x' nor node-name='x'"),
        ("nbd-server-remove", json!({"name": "x"}), "Export 'x' is not found"),
        ("nbd-server-start", unix, ""),
        ("nbd-server-add", add("d0"), ""),
        ("nbd-server-add", add("d0"), "Block export id 'd0' is already in use"),
        ("nbd-server-add", json!({"device": "d0", "name": "a b"}), "Invalid block export id"),
        ("nbd-server-add", json!({"device": "d0", "name": ""}), "Invalid block export id"),
        ("block-export-add", export("e", "d0"), "NBD server already has export named 'd0'"),
        ("block-export-add", export("d0", "e"), "Block export id 'd0' is already in use"),
        ("block-export-add", export("e", "other"), ""),
        ("nbd-server-remove", json!({"name": "other"}), "Export 'other' is not found"),
        (
            "nbd-server-remove",
            json!({"name": "e", "mode": "x"}),
            "Parameter 'mode' does not accept value 'x'",
        ),
    ] {
        expect(&mut vm, command, arguments, text)?;
    }
    let entry = |id| json!({"id": id, "type": "nbd", "node-name": "d0", "shutting-down": false});
    let exports = vm.qmp.execute_json("query-block-exports", Value::Null)?;
    check(exports == json!([entry("e"), entry("d0")]), exports)?;
    vm.qmp.execute_json("block-export-del", json!({"id": "e"}))?;
    deleted(&mut vm, "e")?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    deleted(&mut vm, "d0")?;
    check(!rig.path("nbd").exists(), "the socket's file is removed")?;
    let exports = vm.qmp.execute_json("query-block-exports", Value::Null)?;
    check(exports == json!([]), exports)?;
    vm.quit()
}

#[test]
fn removing_asks_for_force_only_where_clients_are() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    rig.export(&mut vm, "d0", false)?;
    let mut client = rig.connect("d0")?;
    // The client is in its transmission phase once it gets a reply.
    client.write_all(&request(3, 0, 0))?;
    client.read_exact(&mut [0; 16])?;
    expect(&mut vm, "nbd-server-remove", json!({"name": "d0"}), "export 'd0' still in use")?;
    expect(&mut vm, "nbd-server-remove", json!({"name": "d0", "mode": "hard"}), "")?;
    deleted(&mut vm, "d0")?;
    hung_up(&mut client)?;
    // The name is free again, and when a client leaves, the export can be removed.
    let uri = rig.export(&mut vm, "d0", false)?;
    run("nbdinfo", &["--size", &uri])?;
    harness::wait_for("the client to be gone", STEP, || {
        Ok(vm.qmp.execute_json("nbd-server-remove", json!({"name": "d0"})).is_ok())
    })?;
    vm.quit()
}

#[test]
fn stop_and_quit_end_clients_of_every_kind() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    for quit in [false, true] {
        rig.export(&mut vm, "d0", true)?;
        let silent = rig.connect_only()?;
        let idle = rig.connect("d0")?;
        let mut sending = rig.connect("d0")?;
        sending.write_all(&[request(1, 0, 4096), vec![1; 4095]].concat())?;
        let mut unread = rig.connect("d0")?;
        for _ in 0..100 {
            unread.write_all(&request(0, 0, MIB as u32))?;
        }
        if quit {
            vm.quit()?;
            for mut client in [silent, idle, sending, unread] {
                hung_up(&mut client)?;
            }
            break;
        }
        vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
        for mut client in [silent, idle, sending, unread] {
            hung_up(&mut client)?;
        }
        rig.start_server(&mut vm, json!({}))?;
    }
    // The incomplete write must have had no effect.
    rig.holds("raw", &rig.text("a.img"), &Model::new(4 * MIB))
}

#[test]
fn more_clients_than_allowed_wait() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    rig.start_server(&mut vm, json!({"max-connections": 1}))?;
    rig.export(&mut vm, "d0", false)?;
    let first = rig.connect("d0")?;
    let mut second = rig.connect_only()?;
    second.set_nonblocking(true)?;
    vm.qmp.execute_json("query-block-exports", Value::Null)?;
    let read = second.read(&mut [0]).map_err(|e| e.kind());
    check(read == Err(ErrorKind::WouldBlock), format!("{read:?}"))?;
    second.set_nonblocking(false)?;
    drop(first);
    greeted(&mut second)?;
    vm.quit()
}

#[test]
fn tcp_serves_as_well() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let addr = json!({"type": "inet", "data": {"host": "127.0.0.1", "port": port}});
    vm.qmp.execute_json("nbd-server-start", json!({"addr": addr}))?;
    rig.export(&mut vm, "d0", true)?;
    let uri = format!("nbd://127.0.0.1:{port}/d0");
    let mut model = Model::new(4 * MIB);
    let writes = [model.write(1000, 2 * MIB, 9), "flush".into()];
    crate::rig::qemu_io("raw", &uri, &writes)?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("raw", &rig.text("a.img"), &model)
}

#[test]
fn an_export_that_writes_through_flushes_by_itself() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    for (id, writethrough) in [("lazy", false), ("through", true)] {
        let export = json!({"type": "nbd", "id": id, "node-name": "d0", "name": id, "writable": true,
                            "writethrough": writethrough});
        vm.qmp.execute_json("block-export-add", export)?;
        let mut client = rig.connect(id)?;
        client.write_all(&[request(1, 0, 4096), vec![1; 4096]].concat())?;
        client.read_exact(&mut [0; 16])?;
        let stats = vm.qmp.execute_json("query-blockstats", Value::Null)?;
        let flushes = &stats[0]["stats"]["flush_operations"];
        check(*flushes == json!(u64::from(writethrough)), format!("{id}: {flushes} flushes"))?;
    }
    vm.quit()
}

#[test]
fn a_client_that_chooses_nothing_is_let_go_when_the_server_says() -> Result<(), Failure> {
    let (rig, mut vm) = rig()?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    rig.start_server(&mut vm, json!({"handshake-max-seconds": 1}))?;
    let started = Instant::now();
    hung_up(&mut rig.connect_only()?)?;
    // The default is ten seconds.
    let took = started.elapsed().as_secs_f64();
    check(took > 0.9 && took < 9.0, format!("let go after {took} s"))?;
    vm.quit()
}

/// Returns true if the server has hung up on a client that sends nothing.
fn is_gone(client: &mut TcpStream) -> Result<bool, Failure> {
    client.set_nonblocking(true)?;
    match std::io::copy(client, &mut std::io::sink()) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(true),
        Err(e) => Err(e.into()),
        Ok(_) => Ok(true),
    }
}

#[test]
fn clients_that_choose_nothing_keep_nobody_out() -> Result<(), Failure> {
    let (_rig, mut vm) = rig()?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let inet = json!({"type": "inet", "data": {"host": "127.0.0.1", "port": port.to_string()}});
    vm.qmp.execute_json(
        "nbd-server-start",
        json!({"addr": inet, "max-connections": 8, "handshake-max-seconds": 60}),
    )?;
    vm.qmp.execute_json("nbd-server-add", json!({"device": "d0"}))?;
    let uri = format!("nbd://127.0.0.1:{port}/d0");
    let connect = || -> Result<TcpStream, Failure> {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        client.set_read_timeout(Some(STEP))?;
        client.read_exact(&mut [0; 18])?;
        Ok(client)
    };
    // One client uses an export, but is idle for longer than the others. It must not be disconnected.
    let mut idle = connect()?;
    idle.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02d0")?;
    idle.read_exact(&mut [0; 10])?;
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(connect()?);
    }
    // All slots are taken. Each of these clients waits only until the oldest silent one is disconnected,
    // not until all have timed out.
    for _ in 0..3 {
        run("nbdinfo", &["--size", &uri])?;
    }
    let gone = silent.iter_mut().map(is_gone).collect::<Result<Vec<_>, _>>()?;
    check(gone[0], "the oldest made room")?;
    check(!gone[6], "the youngest has its time")?;
    idle.write_all(&request(0, 0, 512))?;
    idle.read_exact(&mut [0; 16 + 512])?;
    vm.quit()
}
