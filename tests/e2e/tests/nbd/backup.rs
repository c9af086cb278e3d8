//! Backups while clients write: each target holds the moment of the command, of several disks the same one.

use std::time::Instant;

use harness::servers::Server;
use harness::{Failure, STEP, qemu_img};
use qmp::event::{BlockJobCancelled, BlockJobCompleted};
use serde_json::{Value, json};

use crate::live::{Writer, ended_well, fio, images};
use crate::rig::{MIB, Model, Rig, qemu_io, run};

fn now() -> Instant {
    Instant::now() + STEP
}

#[test]
fn several_disks_are_backed_up_as_they_are_at_one_moment() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    let mut other = Model::new(16 * MIB);
    run("qemu-img", &["create", "-f", "qcow2", &rig.text("other.qcow2"), "16M"])?;
    qemu_io("qcow2", &rig.text("other.qcow2"), &[other.write(0, 8 * MIB, 7), other.write(9 * MIB, MIB, 8)])?;
    run("qemu-img", &["create", "-f", "qcow2", &rig.text("there.qcow2"), "16M"])?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2"), ("virtio1", "other.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let second = rig.export(&mut vm, "virtio1", true)?;
    // One goes to a server, described as a node.
    let _server = Server::qemu_nbd(&rig.path("server"), "qcow2", &rig.text("there.qcow2"))?;
    let address = json!({"type": "unix", "path": rig.path("server")});
    let node = json!({"driver": "raw", "node-name": "there",
                      "file": {"driver": "nbd", "server": address, "export": "disk"}});
    vm.qmp.execute_json("blockdev-add", node)?;
    let actions = json!([
        {"type": "drive-backup", "data": {"device": "virtio0", "job-id": "b0", "target": rig.path("target"),
                                          "format": "qcow2", "sync": "full", "speed": MIB}},
        {"type": "blockdev-backup", "data": {"device": "virtio1", "job-id": "b1", "target": "there",
                                             "sync": "full", "speed": MIB}},
    ]);
    // One that fails leaves nothing behind, neither jobs nor their names.
    let mut failing = actions.clone();
    if let Some(actions) = failing.as_array_mut() {
        actions.push(json!({"type": "abort", "data": {}}));
    }
    assert!(vm.qmp.execute_json("transaction", json!({"actions": failing})).is_err());
    assert_eq!(vm.qmp.execute_json("query-jobs", Value::Null)?, json!([]));
    vm.qmp.execute_json("transaction", json!({"actions": actions}))?;
    let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
    assert_eq!((&jobs[0]["type"], &jobs[1]["type"]), (&json!("backup"), &json!("backup")));
    let error = vm.qmp.execute_json("blockdev-del", json!({"node-name": "there"}));
    assert!(error.is_err_and(|e| e.to_string().contains("Node there is in use")));
    // From here on everything changes.
    let writer = Writer::start(&uri, Model(model.0.clone()))?;
    let fio = fio(&rig, &uri)?;
    let mut changed = Model(other.0.clone());
    qemu_io("raw", &second, &[changed.write(0, 16 * MIB, 9)])?;
    writer.goes_on()?;
    // The other may have ended by now: the guest has changed all of its disk.
    vm.set_speed("b0", 0)?;
    for _ in 0..2 {
        let end: BlockJobCompleted = vm.qmp.wait(now())?;
        assert_eq!((end.error, end.offset), (None, end.len));
    }
    vm.qmp.execute_json("blockdev-del", json!({"node-name": "there"}))?;
    rig.holds("qcow2", &rig.text("target"), &model)?;
    qemu_img::check("qcow2", &rig.path("target"), false)?;
    let there = format!("nbd+unix:///disk?socket={}", rig.text("server"));
    rig.holds("raw", &there, &other)?;
    writer.goes_on()?;
    ended_well(fio, "fio")?;
    let mut model = writer.stop()?;
    model.take_from(&uri, &rig)?;
    rig.holds("raw", &uri, &model)?;
    rig.holds("raw", &second, &changed)?;
    vm.quit()?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)
}

#[test]
fn what_is_changed_is_kept_beside_the_disk() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    for sync in ["incremental", "bitmap"] {
        let arguments = json!({"device": "virtio0", "target": rig.path("target"), "sync": sync});
        let error = vm.qmp.execute_json("drive-backup", arguments).err().map(|e| e.to_string());
        let text = format!("must provide a valid bitmap name for '{sync}' sync mode");
        assert!(error.as_ref().is_some_and(|error| error.contains(&text)), "{error:?}");
    }
    let backup = json!({"device": "virtio0", "job-id": "b", "target": rig.path("target"), "sync": "none"});
    vm.qmp.execute_json("drive-backup", backup)?;
    let mut changed = Model(model.0.clone());
    qemu_io("raw", &uri, &[changed.write(0, 3 * MIB + 512, 200), changed.write(64 * MIB, 4096, 201)])?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "b"}))?;
    let _: BlockJobCancelled = vm.qmp.wait(now())?;
    rig.holds("raw", &uri, &changed)?;
    vm.quit()?;
    // Over the leaf as it is now, the target reads as the disk did then.
    rig.holds("qcow2", &rig.text("target"), &model)?;
    qemu_img::check("qcow2", &rig.path("target"), false)?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &changed)
}
