//! Transactions of several clients at the same time, on disks whose storage holds a request for longer
//! than a switch waits.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::nbd::{Command, Nbd};
use harness::servers::Server;
use harness::{Failure, STEP, check, wait_for};
use qmp::{Client, ClientError};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, inserted, text};

/// The delay of a read: longer than a switch waits for requests in flight.
const HELD: &str = "rdelay=8";

fn change(device: &str, target: &Path) -> Value {
    json!({"type": "x-change", "data": {"device": device, "target": text(target), "format": "raw"}})
}

/// The result of a transaction: `None` on success, or the error text. There is always a reply, and never
/// that a disk is gone.
fn outcome(result: Result<Value, ClientError>) -> Result<Option<String>, Failure> {
    let desc = match result {
        Ok(_) => return Ok(None),
        Err(e) => e.command_error().map(|e| e.desc.clone()).ok_or(e)?,
    };
    let known = desc.contains("is in use: a switch is active") || desc.contains("did not end within");
    check(known, &desc)?;
    Ok(Some(desc))
}

/// Repeats the same switch until it succeeds.
fn insist(client: &mut Client, actions: &Value) -> Result<(), Failure> {
    let deadline = Instant::now() + STEP;
    while outcome(client.execute_json("transaction", json!({"actions": actions})))?.is_some() {
        check(Instant::now() < deadline, "the switch succeeds before the time-out")?;
    }
    Ok(())
}

#[test]
fn clients_that_try_again_after_a_timeout_lose_no_disk() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let disks = ["d0", "d1", "d2"];
    let slow = |disk: &str| {
        let image = stage.images.raw(&format!("{disk}.img"), MIB, &[(0, MIB)])?;
        Server::nbdkit(&stage.path(disk), &["--filter=delay", "file", &text(&image), HELD])
    };
    let servers = disks.iter().map(|disk| slow(disk)).collect::<Result<Vec<_>, _>>()?;
    let drive = |(disk, server): (&&str, &Server)| format!("id={disk},file={},format=raw", server.uri(""));
    let drives: Vec<_> = disks.iter().zip(&servers).map(drive).collect();
    let mut vm = stage.run(&drives, &[])?;
    let address = json!({"addr": {"type": "unix", "data": {"path": stage.path("nbd")}}});
    ask(&mut vm, "nbd-server-start", address);
    let mut readers = Vec::new();
    let mut clients = Vec::new();
    for disk in disks {
        ask(&mut vm, "nbd-server-add", json!({ "device": disk }));
        let mut reader = Nbd::connect(&stage.path("nbd"), disk, STEP)?;
        // In flight until the first switch has given up.
        reader.send(Command::Read(4096), 0, &[])?;
        readers.push(reader);
        for name in ["a", "b", "c", "d"] {
            let target = stage.images.raw(&format!("{disk}{name}.img"), MIB, &[])?;
            clients.push((vm.connect()?, json!([change(disk, &target)])));
        }
    }
    let over = AtomicBool::new(false);
    let done: Vec<_> = std::thread::scope(|scope| {
        let insist = |(mut client, actions)| insist(&mut client, &actions).map_err(|e| e.to_string());
        let clients: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || insist(client))).collect();
        // Two clients that send a lot, so that the main loop is sometimes slower than the disks.
        for _ in 0..2 {
            let (path, over) = (stage.path("qmp"), &over);
            scope.spawn(move || -> std::io::Result<()> {
                let mut noise = UnixStream::connect(path)?;
                let large = format!("{{\"execute\": \"x\", \"arguments\": [{}0]}}", "0,".repeat(500_000));
                while !over.load(Ordering::Relaxed) {
                    noise.write_all(large.as_bytes())?;
                }
                Ok(())
            });
        }
        let done = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        done
    });
    for done in done {
        done.map_err(|_| "a client panicked")??;
    }
    for (reader, disk) in readers.iter_mut().zip(disks) {
        let mut data = Vec::new();
        check(reader.receive(&mut data)?.error == 0, "the request in flight is answered")?;
        // The client that came last determines the image.
        let file = inserted(&mut vm, disk)["file"].as_str().map(str::to_owned);
        check(file.as_ref().is_some_and(|file| file.ends_with(".img")), format!("{disk} is on {file:?}"))?;
        reader.send(Command::Read(512), 0, &[])?;
        check(reader.receive(&mut data)?.error == 0, "the disk still works")?;
    }
    vm.quit()
}

#[test]
fn a_client_that_dies_in_a_transaction_leaves_the_disks_to_others() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("d0", MIB)?, stage.disk("d1", MIB)?], &[])?;
    for round in 0..20 {
        let image = |disk: &str, of: &str| stage.images.raw(&format!("{of}{round}{disk}"), MIB, &[]);
        let dying = json!([change("d0", &image("0", "dying")?), change("d1", &image("1", "dying")?)]);
        let living = json!([change("d1", &image("1", "living")?), change("d0", &image("0", "living")?)]);
        let mut socket = UnixStream::connect(stage.path("qmp"))?;
        write!(
            socket,
            "{{'execute':'qmp_capabilities'}} {{'execute':'transaction','arguments':{{'actions':{dying}}}}}"
        )?;
        // The client dies at once, or after its command has begun.
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(round));
        }
        drop(socket);
        insist(&mut vm.qmp, &living)?;
        // The dead client's transaction may still be applied afterwards, but only as a whole.
        wait_for("both disks to be on images of one transaction", STEP, || {
            let names =
                ["d0", "d1"].map(|disk| inserted(&mut vm, disk)["file"].as_str().unwrap_or("").to_owned());
            Ok(names[0].strip_suffix('0') == names[1].strip_suffix('1'))
        })?;
    }
    vm.quit()
}
