//! Nodes of `blockdev-add`: when they are in use, by jobs, disks and other nodes, and in which of QEMU's
//! words a command says so.

use harness::nbd::{Command, Nbd};
use harness::servers::Server;
use harness::{Failure, STEP, Vm, check, wait_for};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, inserted, refuse, text};

/// The delay of a read: as long as a job that starts waits for it.
const HELD: &str = "rdelay=3";

/// Describes a raw image of a MiB as node `t`.
fn describe(stage: &Stage, vm: &mut Vm) -> Result<(), Failure> {
    let file = stage.images.raw("t.img", MIB, &[])?;
    let file = json!({"driver": "file", "filename": text(&file)});
    ask(vm, "blockdev-add", json!({"driver": "raw", "node-name": "t", "file": file}));
    Ok(())
}

fn del(name: &str) -> Value {
    json!({ "node-name": name })
}

fn mirror(device: &str, job: &str) -> Value {
    json!({"device": device, "target": "t", "sync": "full", "job-id": job})
}

/// Waits until no job has this name.
fn gone(vm: &mut Vm, job: &str) -> Result<(), Failure> {
    wait_for("the job's end", STEP, || {
        let jobs = vm.qmp.execute_json("query-jobs", Value::Null)?;
        Ok(jobs.as_array().into_iter().flatten().all(|other| other["id"] != job))
    })
}

#[test]
fn a_node_is_free_when_its_job_has_ended_whoever_has_the_jobs_name_now() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("d0", MIB)?, stage.disk("d1", MIB)?], &[])?;
    describe(&stage, &mut vm)?;
    let mut slow = mirror("d0", "j");
    slow["speed"] = 65536.into();
    ask(&mut vm, "blockdev-mirror", slow);
    refuse(&mut vm, "blockdev-del", del("t"), "GenericError", "Node t is in use");
    let busy = "Node 't' is busy: block device is in use by block job: mirror";
    refuse(&mut vm, "blockdev-mirror", mirror("d1", "k"), "GenericError", busy);
    ask(&mut vm, "block-job-cancel", json!({"device": "j", "force": true}));
    gone(&mut vm, "j")?;
    ask(&mut vm, "x-verify", json!({"device": "d0", "job-id": "j", "speed": 65536}));
    ask(&mut vm, "blockdev-del", del("t"));
    vm.quit()
}

#[test]
fn a_node_is_in_use_while_its_job_is_being_started() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let image = stage.images.raw("d0.img", MIB, &[(0, MIB)])?;
    let server = Server::nbdkit(&stage.path("d0"), &["--filter=delay", "file", &text(&image), HELD])?;
    let held = format!("id=d0,file={},format=raw", server.uri(""));
    let mut vm = stage.run(&[held, stage.disk("d1", MIB)?], &[])?;
    describe(&stage, &mut vm)?;
    ask(&mut vm, "nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": stage.path("nbd")}}}));
    ask(&mut vm, "nbd-server-add", json!({"device": "d0"}));
    let mut reader = Nbd::connect(&stage.path("nbd"), "d0", STEP)?;
    // The mirror waits for it, because its filter has not seen it.
    reader.send(Command::Read(4096), 0, &[])?;
    let mut starter = vm.connect()?;
    let started = std::thread::spawn(move || {
        loop {
            match starter.execute_json("blockdev-mirror", mirror("d0", "m")).map_err(|e| e.to_string()) {
                // The probe below had the name just then.
                Err(e) if e.contains("already in use") => {}
                ended => break ended,
            }
        }
    });
    // Fails in any case, first because of the file, then because of the name.
    let probe = json!({"device": "d1", "job-id": "m", "digests": "/none"});
    wait_for("the job's name to be taken", STEP, || match vm.qmp.execute_json("x-verify", probe.clone()) {
        Ok(answer) => Err(format!("x-verify returned {answer}").into()),
        Err(e) => Ok(e.to_string().contains("already in use")),
    })?;
    refuse(&mut vm, "blockdev-del", del("t"), "GenericError", "Node t is in use");
    let twice = vm.qmp.execute_json("blockdev-mirror", mirror("d1", "k"));
    let twice = twice.err().map(|e| e.to_string()).unwrap_or_default();
    check(twice.contains("is in use"), format!("a node has one job: {twice}"))?;
    let mut data = Vec::new();
    check(reader.receive(&mut data)?.error == 0, "the request in flight is answered")?;
    started.join().map_err(|_| "the client panicked")??;
    ask(&mut vm, "block-job-cancel", json!({"device": "m", "force": true}));
    gone(&mut vm, "m")?;
    ask(&mut vm, "blockdev-del", del("t"));
    vm.quit()
}

#[test]
fn a_node_that_a_disk_moved_to_is_its_leaf_and_then_the_backing_file_of_its_leaf() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("d0", MIB)?], &[])?;
    describe(&stage, &mut vm)?;
    let leaf = inserted(&mut vm, "d0")["node-name"].as_str().unwrap_or_default().to_owned();
    refuse(&mut vm, "blockdev-del", del(&leaf), "GenericError", &format!("Node {leaf} is in use"));
    ask(&mut vm, "blockdev-mirror", mirror("d0", "j"));
    wait_for("the mirror to be ready", STEP, || {
        let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
        Ok(jobs[0]["ready"] == true)
    })?;
    ask(&mut vm, "job-complete", json!({"id": "j"}));
    gone(&mut vm, "j")?;
    refuse(&mut vm, "blockdev-del", del("t"), "GenericError", "Node t is in use");
    let overlay =
        json!({"device": "d0", "snapshot-file": text(&stage.path("top")), "snapshot-node-name": "top"});
    ask(&mut vm, "blockdev-snapshot-sync", overlay);
    refuse(&mut vm, "blockdev-del", del("top"), "GenericError", "Node top is in use");
    let behind = "Node 't' is busy: node is used as backing hd of 'd0'";
    refuse(&mut vm, "blockdev-del", del("t"), "GenericError", behind);
    refuse(&mut vm, "blockdev-mirror", mirror("d0", "j"), "GenericError", behind);
    vm.quit()
}
