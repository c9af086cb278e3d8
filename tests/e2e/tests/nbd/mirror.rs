//! `drive-mirror` while clients read and write: the disk moves to its copy, or leaves it behind.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use harness::servers::Server;
use harness::{Failure, STEP, Vm, check, qemu_img, wait_for};
use qmp::event::{BlockJobCancelled, BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::live::{Writer, ended_well, fio, images};
use crate::rig::{MIB, Rig, run};

fn now() -> Instant {
    Instant::now() + STEP
}

/// Starts a mirror in a copy mode, or in the way that these arguments say.
fn mirror(vm: &mut Vm, rig: &Rig, format: &str, way: impl Into<Value>) -> Result<(), Failure> {
    let mut arguments = json!({
        "device": "virtio0", "job-id": "m", "target": rig.path("target"), "format": format,
        "sync": "full", "node-name": "copy",
    });
    match way.into() {
        Value::Object(mut way) => arguments.as_object_mut().ok_or("no arguments")?.append(&mut way),
        mode => arguments["copy-mode"] = mode,
    }
    vm.qmp.execute_json("drive-mirror", arguments)?;
    Ok(())
}

#[test]
fn clients_work_on_while_their_disk_moves_to_a_mirror() -> Result<(), Failure> {
    let behind = json!({"copy-mode": "write-blocking", "x-window": 1 << 20});
    let adaptive = json!({"x-adaptive": true, "x-deadline": 60, "x-max-latency": 500, "x-window": 1 << 20});
    for (format, mode) in [
        ("qcow2", json!("background")),
        ("raw", json!("write-blocking")),
        ("qcow2", behind),
        ("raw", adaptive),
    ] {
        let rig = Rig::new()?;
        let model = images(&rig)?;
        let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
        let uri = rig.export(&mut vm, "virtio0", true)?;
        let writer = Writer::start(&uri, model)?;
        let fio = fio(&rig, &uri)?;
        writer.goes_on()?;
        mirror(&mut vm, &rig, format, mode)?;
        let ready: BlockJobReady = vm.qmp.wait(now())?;
        assert_eq!(ready.device, "m");
        let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
        assert_eq!((&jobs[0]["type"], &jobs[0]["ready"]), (&json!("mirror"), &json!(true)));
        assert!(jobs[0]["x-queued"].as_u64().is_some_and(|queued| queued <= 2 << 20), "{jobs}");
        assert!(
            ["background", "write-blocking"].map(Value::from).contains(&jobs[0]["x-copy-mode"]),
            "{jobs}"
        );
        writer.goes_on()?;
        vm.qmp.execute_json("block-job-complete", json!({"device": "m"}))?;
        let end: BlockJobCompleted = vm.qmp.wait(now())?;
        assert_eq!((end.error, end.offset), (None, end.len));
        for gone in ["base.img", "leaf.qcow2"] {
            std::fs::remove_file(rig.path(gone))?;
        }
        writer.goes_on()?;
        ended_well(fio, "fio")?;
        let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
        assert_eq!((nodes.as_array().map(Vec::len), &nodes[0]["node-name"]), (Some(1), &json!("copy")));
        let mut model = writer.stop()?;
        model.take_from(&uri, &rig)?;
        rig.holds("raw", &uri, &model)?;
        vm.quit()?;
        rig.holds(format, &rig.text("target"), &model)?;
        if format != "raw" {
            qemu_img::check(format, &rig.path("target"), false)?;
        }
    }
    Ok(())
}

#[test]
fn a_mirror_that_is_left_is_a_whole_copy() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    // Cancelled before it is ready, it leaves nothing of worth.
    let slow = json!({
        "device": "virtio0", "job-id": "m", "target": rig.path("other"), "format": "raw", "sync": "full",
        "speed": 65536,
    });
    vm.qmp.execute_json("drive-mirror", slow)?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m"}))?;
    let _: BlockJobCancelled = vm.qmp.wait(now())?;
    let writer = Writer::start(&uri, model)?;
    mirror(&mut vm, &rig, "qcow2", "write-blocking")?;
    let _: BlockJobReady = vm.qmp.wait(now())?;
    writer.goes_on()?;
    let model = writer.stop()?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!(end.error, None);
    // It is nobody's any more, and holds what the disk held.
    rig.holds("qcow2", &rig.text("target"), &model)?;
    qemu_img::check("qcow2", &rig.path("target"), false)?;
    run("qemu-io", &["-f", "raw", "-c", "write -P 1 0 4k", &uri])?;
    // Ready, and cancelled by force.
    let arguments = json!({
        "device": "virtio0", "job-id": "m", "target": rig.path("top"), "format": "qcow2", "sync": "top",
    });
    vm.qmp.execute_json("drive-mirror", arguments)?;
    let _: BlockJobReady = vm.qmp.wait(now())?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m", "force": true}))?;
    let _: BlockJobCancelled = vm.qmp.wait(now())?;
    vm.quit()
}

#[test]
fn arguments_of_a_mirror_that_would_have_no_effect_are_refused() -> Result<(), Failure> {
    let rig = Rig::new()?;
    images(&rig)?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let refused = [
        (json!({"x-window": 65536}), "'x-window' needs"),
        (json!({"x-window": (1u64 << 30) + 1, "copy-mode": "write-blocking"}), "'x-window' is at most"),
        (json!({"x-deadline": 1}), "'x-deadline' needs"),
        (json!({"x-adaptive": true, "copy-mode": "write-blocking"}), "'x-adaptive' chooses"),
    ];
    for (way, expected) in refused {
        let error = mirror(&mut vm, &rig, "raw", way.clone()).err().ok_or("accepted")?.to_string();
        assert!(error.contains(expected), "{way}: {error}");
    }
    vm.quit()
}

/// A target that takes 4 MiB a second, and a writer at random over all of the disk that is far faster: on any
/// machine.
#[test]
fn an_adaptive_mirror_is_ready_where_one_in_the_background_never_is() -> Result<(), Failure> {
    const SIZE: u64 = 16 * MIB;
    let rig = Rig::new()?;
    std::fs::write(rig.path("disk"), vec![7; SIZE as usize])?;
    File::create(rig.path("target"))?.set_len(SIZE)?;
    // Bits a second.
    let rate = format!("rate={}", 4 * MIB * 8);
    let arguments = ["--filter=rate", "file", &rig.text("target"), &rate];
    let server = Server::nbdkit(&rig.path("server"), &arguments)?;
    let mut vm = rig.start(&[("virtio0", "disk", "raw")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let mut writer = Command::new("fio");
    writer.args(["--name=w", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--norandommap"]);
    writer.args(["--time_based", "--runtime=1h"]).arg(format!("--uri={uri}")).arg(format!("--size={SIZE}"));
    let mut writer = writer.current_dir(rig.path("")).stdout(Stdio::null()).spawn()?;
    wait_for("fio to write", STEP, || {
        let stats = vm.qmp.execute_json("query-blockstats", Value::Null)?;
        Ok(stats[0]["stats"]["wr_operations"].as_u64().ok_or("no count")? > 100)
    })?;
    let start = json!({
        "device": "virtio0", "job-id": "m", "target": server.uri(""), "format": "raw", "sync": "full",
        "mode": "existing",
    });
    vm.qmp.execute_json("drive-mirror", start.clone())?;
    wait_for("all of the disk to be copied twice", STEP, || {
        check(writer.try_wait()?.is_none(), "fio writes on")?;
        let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
        assert_eq!((&jobs[0]["ready"], &jobs[0]["x-copy-mode"]), (&json!(false), &json!("background")));
        Ok(jobs[0]["offset"].as_u64().ok_or("no offset")? >= 2 * SIZE)
    })?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m", "force": true}))?;
    let _: BlockJobCancelled = vm.qmp.wait(now())?;
    let mut adaptive = start;
    adaptive["x-adaptive"] = true.into();
    vm.qmp.execute_json("drive-mirror", adaptive)?;
    let _: BlockJobReady = vm.qmp.wait(now())?;
    check(writer.try_wait()?.is_none(), "fio writes on")?;
    let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
    assert_eq!(jobs[0]["x-copy-mode"], "write-blocking");
    writer.kill()?;
    writer.wait()?;
    // What fio has sent is written before this has ended.
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!(end.error, None);
    vm.quit()?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &rig.text("disk"), &rig.text("target")])?;
    Ok(())
}
