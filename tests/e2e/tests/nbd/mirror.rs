//! `drive-mirror` while clients read and write: the disk moves to its copy, or leaves it behind.

use std::time::Instant;

use harness::{Failure, STEP, Vm, qemu_img};
use qmp::event::{BlockJobCancelled, BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::live::{Writer, ended_well, fio, images};
use crate::rig::{Rig, run};

fn now() -> Instant {
    Instant::now() + STEP
}

fn mirror(vm: &mut Vm, rig: &Rig, format: &str, mode: &str) -> Result<(), Failure> {
    let arguments = json!({
        "device": "virtio0", "job-id": "m", "target": rig.path("target"), "format": format,
        "sync": "full", "copy-mode": mode, "node-name": "copy",
    });
    vm.qmp.execute_json("drive-mirror", arguments)?;
    Ok(())
}

#[test]
fn clients_work_on_while_their_disk_moves_to_a_mirror() -> Result<(), Failure> {
    for (format, mode) in [("qcow2", "background"), ("raw", "write-blocking")] {
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
