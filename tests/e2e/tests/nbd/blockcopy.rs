//! The sequence of libvirt's `blockcopy` while clients read and write: `blockdev-add` describes the target,
//! node by node, and the disk moves there by `job-complete`.

use std::time::Instant;

use harness::servers::Server;
use harness::{Failure, STEP, qemu_img};
use qmp::event::{BlockJobCompleted, BlockJobPending, BlockJobReady};
use serde_json::{Value, json};

use crate::live::{Writer, ended_well, fio, images};
use crate::rig::{MIB, Rig, run};

fn now() -> Instant {
    Instant::now() + STEP
}

#[test]
fn a_disk_is_copied_as_libvirt_does_it() -> Result<(), Failure> {
    // As libvirt asks for them, and with arguments of ours beside.
    for (over, way) in [
        ("file", json!({"copy-mode": "background"})),
        ("nbd", json!({"copy-mode": "write-blocking"})),
        ("nbd", json!({"x-adaptive": true, "x-window": MIB, "x-deadline": 60})),
    ] {
        let rig = Rig::new()?;
        let model = images(&rig)?;
        run("qemu-img", &["create", "-f", "qcow2", &rig.text("target"), "128M"])?;
        let server;
        let (storage, format) = match over {
            "nbd" => {
                server = Server::qemu_nbd(&rig.path("server"), "qcow2", &rig.text("target"))?;
                let _ = &server;
                let address = json!({"type": "unix", "path": rig.path("server")});
                (json!({"driver": "nbd", "server": address, "export": "disk"}), "raw")
            }
            _ => (json!({"driver": "file", "filename": rig.path("target"), "auto-read-only": true}), "qcow2"),
        };
        let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
        let uri = rig.export(&mut vm, "virtio0", true)?;
        let writer = Writer::start(&uri, model)?;
        let fio = fio(&rig, &uri)?;
        let mut storage = storage;
        storage["node-name"] = "libvirt-3-storage".into();
        storage["discard"] = "unmap".into();
        vm.qmp.execute_json("blockdev-add", storage)?;
        let mut image = json!({"node-name": "libvirt-3-format", "read-only": false, "discard": "unmap",
                               "driver": format, "file": "libvirt-3-storage"});
        if format == "qcow2" {
            image["backing"] = Value::Null;
        }
        vm.qmp.execute_json("blockdev-add", image)?;
        let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
        let described: Vec<_> = nodes.as_array().into_iter().flatten().collect();
        assert_eq!(described.len(), 4, "{nodes}");
        assert_eq!((&described[2]["drv"], &described[3]["drv"]), (&json!(format), &json!(over)));
        let mut mirror = json!({
            "job-id": "copy-vda-libvirt-3-format", "device": "virtio0", "target": "libvirt-3-format",
            "sync": "full", "auto-finalize": false, "auto-dismiss": false,
        });
        mirror.as_object_mut().ok_or("no arguments")?.extend(way.as_object().cloned().unwrap_or_default());
        vm.qmp.execute_json("blockdev-mirror", mirror)?;
        let ready: BlockJobReady = vm.qmp.wait(now())?;
        assert_eq!(ready.device, "copy-vda-libvirt-3-format");
        writer.goes_on()?;
        let id = json!({"id": "copy-vda-libvirt-3-format"});
        vm.qmp.execute_json("job-complete", id.clone())?;
        let _: BlockJobPending = vm.qmp.wait(now())?;
        vm.qmp.execute_json("job-finalize", id.clone())?;
        let end: BlockJobCompleted = vm.qmp.wait(now())?;
        assert_eq!(end.error, None);
        let jobs = vm.qmp.execute_json("query-jobs", Value::Null)?;
        assert_eq!((&jobs[0]["status"], jobs.as_array().map(Vec::len)), (&json!("concluded"), Some(1)));
        vm.qmp.execute_json("job-dismiss", id)?;
        for gone in ["base.img", "leaf.qcow2"] {
            std::fs::remove_file(rig.path(gone))?;
        }
        // The disk runs on the node, which therefore stays.
        let error = vm.qmp.execute_json("blockdev-del", json!({"node-name": "libvirt-3-format"}));
        let text = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("Node libvirt-3-format is in use"), "{text}");
        let nodes = vm.qmp.execute_json("query-named-block-nodes", json!({"flat": true}))?;
        assert_eq!(nodes[0]["node-name"], "libvirt-3-format");
        writer.goes_on()?;
        ended_well(fio, "fio")?;
        let mut model = writer.stop()?;
        model.take_from(&uri, &rig)?;
        rig.holds("raw", &uri, &model)?;
        vm.quit()?;
        if over == "file" {
            rig.holds("qcow2", &rig.text("target"), &model)?;
            qemu_img::check("qcow2", &rig.path("target"), false)?;
        } else {
            let there = format!("nbd+unix:///disk?socket={}", rig.text("server"));
            rig.holds("raw", &there, &model)?;
        }
    }
    Ok(())
}
