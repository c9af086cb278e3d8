//! Overlays, switches of several disks at the same time, and live copy as one command.

use harness::{Failure, STEP, Vm, qemu_img};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, inserted, refuse, text};

#[test]
fn an_overlay_is_created_and_switched_to_in_one_step() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let before = inserted(&mut vm, "virtio0");
    assert!(before["node-name"].as_str().is_some_and(|name| name.starts_with("#block")), "{before}");
    let file = text(&stage.path("one.qcow2"));
    let arguments = json!({"device": "virtio0", "snapshot-file": file, "snapshot-node-name": "one"});
    assert_eq!(ask(&mut vm, "blockdev-snapshot-sync", arguments), json!({}));
    let after = inserted(&mut vm, "virtio0");
    assert_eq!(
        (&after["node-name"], &after["file"], &after["drv"]),
        (&json!("one"), &json!(file), &json!("qcow2"))
    );
    assert_eq!(after["backing_file_depth"], 1);
    // By its node name, to an existing image.
    let leaf = stage.images.leaf("two.qcow2", ("one.qcow2", "qcow2"))?;
    let arguments = json!({"node-name": "one", "snapshot-file": text(&leaf), "mode": "existing"});
    ask(&mut vm, "blockdev-snapshot-sync", arguments);
    let nodes = ask(&mut vm, "query-named-block-nodes", json!({"flat": true}));
    let files: Vec<_> = nodes.as_array().into_iter().flatten().map(|node| node["file"].clone()).collect();
    assert_eq!(files, [text(&leaf), file, text(&stage.path("virtio0.img"))].map(Value::from));
    assert_eq!(nodes[1]["node-name"], "one");
    assert!(nodes[0]["image"].get("backing-image").is_none(), "a flat answer: {}", nodes[0]);
    assert_eq!((&nodes[0]["ro"], &nodes[1]["ro"]), (&json!(false), &json!(true)));
    vm.quit()?;
    qemu_img::check("qcow2", &leaf, false)?;
    qemu_img::compare(("qcow2", &leaf), ("raw", &stage.path("virtio0.img")))
}

#[test]
fn overlays_are_refused_in_qemus_words() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm =
        stage.run(&[stage.disk("virtio0", MIB)?, stage.disk("virtio1", MIB)?], &["--cdrom", "id=cd"])?;
    let (new, command) = (text(&stage.path("new")), "blockdev-snapshot-sync");
    let mut refuse = |arguments: Value, desc: &str| refuse(&mut vm, command, arguments, "GenericError", desc);
    refuse(json!({}), "Parameter 'snapshot-file' is missing");
    refuse(json!({"snapshot-file": new}), "Cannot find device='' nor node-name=''");
    refuse(json!({"device": "x", "snapshot-file": new}), "Cannot find device='x' nor node-name=''");
    refuse(json!({"node-name": "x", "snapshot-file": new}), "Cannot find device='' nor node-name='x'");
    let with = |key: &str, value: &str| {
        let mut arguments = json!({"device": "virtio0", "snapshot-file": new});
        arguments[key] = value.into();
        arguments
    };
    refuse(with("format", "foo"), "Unknown file format 'foo'");
    refuse(with("mode", "bad"), "Parameter 'mode' does not accept value 'bad'");
    refuse(with("snapshot-node-name", "virtio1"), "New overlay node-name already in use");
    refuse(with("snapshot-node-name", "#mine"), "Invalid node-name: '#mine'");
    refuse(with("device", "cd"), "Device 'cd' has no medium");
    // The other disk's image is not an overlay, and must not be emptied by creating one there.
    let other = stage.path("virtio1.img");
    let content = std::fs::read(&other)?;
    let vm = &mut vm;
    for mode in ["absolute-paths", "existing"] {
        let arguments = json!({"device": "virtio0", "snapshot-file": text(&other), "mode": mode});
        assert!(vm.qmp.execute_json(command, arguments).is_err(), "{mode}: a running image was taken");
    }
    assert!(std::fs::read(&other)? == content, "a running image was changed");
    assert_eq!(inserted(vm, "virtio0")["file"], text(&stage.path("virtio0.img")));
    Ok(())
}

#[test]
fn several_disks_switch_together_or_not_at_all() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let disks = ["virtio0", "virtio1", "virtio2"];
    let drives = disks.iter().map(|name| stage.disk(name, MIB)).collect::<Result<Vec<_>, _>>()?;
    let mut vm = stage.run(&drives, &[])?;
    let file = |disk: &str, n: u32| text(&stage.path(&format!("{disk}-{n}.qcow2")));
    let snapshot = |disk: &str, n: u32| json!({"type": "blockdev-snapshot-sync", "data": {"device": disk, "snapshot-file": file(disk, n)}});
    // The last step fails when all others are ready.
    for last in [
        json!({"type": "abort", "data": {}}),
        json!({"type": "x-change", "data": {"device": "virtio2", "target": text(&stage.path("none")), "format": "raw"}}),
        snapshot("virtio0", 9),
    ] {
        let actions = json!({"actions": [snapshot("virtio0", 1), snapshot("virtio1", 1), last]});
        let failed = vm.qmp.execute_json("transaction", actions);
        assert!(failed.is_err(), "{last} did not fail");
        for disk in disks {
            assert_eq!(inserted(&mut vm, disk)["file"], text(&stage.path(&format!("{disk}.img"))), "{last}");
        }
    }
    ask(&mut vm, "x-events", json!({"enable": true}));
    let mut plain = vm.connect()?;
    let other = stage.images.leaf("other.qcow2", ("virtio2.img", "raw"))?;
    let change =
        json!({"type": "x-change", "data": {"device": "virtio2", "target": text(&other), "notify": false}});
    let actions = json!({"actions": [snapshot("virtio0", 2), snapshot("virtio1", 2), change]});
    assert_eq!(ask(&mut vm, "transaction", actions), json!({}));
    for (disk, file) in
        [("virtio0", file("virtio0", 2)), ("virtio1", file("virtio1", 2)), ("virtio2", text(&other))]
    {
        assert_eq!(inserted(&mut vm, disk)["file"], file);
    }
    assert_eq!(crate::events(&mut vm, "BLOCK_SWITCHED").len(), 3);
    // A client that knows only QEMU's events gets none of ours after QEMU's commands, but gets those of
    // our own commands.
    let mut heard = |vm: &mut Vm| -> Result<Vec<Value>, Failure> {
        plain.execute_json("query-status", Value::Null)?;
        let events = plain.events().into_iter().filter(|event| event.event == "BLOCK_SWITCHED");
        let theirs = events.map(|event| event.data["device"].clone()).collect();
        assert!(vm.qmp.events().iter().all(|event| event.event == "BLOCK_SWITCHED"));
        Ok(theirs)
    };
    assert_eq!(heard(&mut vm)?, [json!(null); 0]);
    ask(&mut vm, "blockdev-snapshot-sync", snapshot("virtio0", 3)["data"].clone());
    assert_eq!(heard(&mut vm)?, [json!(null); 0]);
    let target = stage.images.leaf("virtio1-3.qcow2", ("virtio1-2.qcow2", "qcow2"))?;
    ask(&mut vm, "change", json!({"device": "virtio1", "target": text(&target)}));
    assert_eq!(heard(&mut vm)?, ["virtio1"]);
    // Each connection asks for the events, and can stop them again.
    ask(&mut vm, "x-events", json!({"enable": false}));
    ask(&mut vm, "blockdev-snapshot-sync", snapshot("virtio0", 4)["data"].clone());
    assert!(crate::events(&mut vm, "BLOCK_SWITCHED").is_empty());
    refuse(&mut vm, "x-events", json!({}), "GenericError", "Parameter 'enable' is missing");
    assert_eq!(ask(&mut vm, "transaction", json!({"actions": []})), json!({}));
    refuse(
        &mut vm,
        "transaction",
        json!({"actions": [{"type": "foo"}]}),
        "GenericError",
        "Parameter 'type' does not accept value 'foo'",
    );
    let desc = "Parameter 'actions[0].data.snapshot-file' is missing";
    let actions = json!({"actions": [{"type": "blockdev-snapshot-sync", "data": {}}]});
    refuse(&mut vm, "transaction", actions, "GenericError", desc);
    vm.quit()
}

#[test]
fn live_copy_is_one_command() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 8 * MIB)?], &[])?;
    for format in ["qcow2", "qed"] {
        let target = stage.path(&format!("copy.{format}"));
        let arguments =
            json!({"device": "virtio0", "target": text(&target), "format": format, "notify": false});
        assert_eq!(ask(&mut vm, "x-live-copy", arguments), json!({}));
        vm.stream_completed(STEP)?;
        let disk = inserted(&mut vm, "virtio0");
        assert_eq!((&disk["file"], &disk["backing_file_depth"]), (&json!(text(&target)), &json!(0)));
    }
    let arguments = json!({"device": "virtio0", "target": text(&stage.path("copy.img")), "format": "raw"});
    refuse(
        &mut vm,
        "x-live-copy",
        arguments,
        "NotSupported",
        "Backing file not supported for file format 'raw'",
    );
    let arguments = json!({"device": "x", "target": "y", "format": "qcow2"});
    refuse(&mut vm, "x-live-copy", arguments, "DeviceNotFound", "Device 'x' not found");
    vm.quit()?;
    qemu_img::compare(("qed", &stage.path("copy.qed")), ("raw", &stage.path("virtio0.img")))
}
