//! `block-commit` while clients read and write: images behind the leaf, then the leaf itself, into a raw base
//! that is smaller.

use std::time::Instant;

use harness::{Failure, STEP, qemu_img};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::live::{Writer, ended_well, fio, images};
use crate::rig::{MIB, Rig, run};

fn now() -> Instant {
    Instant::now() + STEP
}

#[test]
fn clients_work_on_while_images_are_committed() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = images(&rig)?;
    // The base ends before the disk does; what is missing is in the image above it.
    let last = model.0.len() as u64 - MIB;
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", &format!("write -P 128 {last} {}", MIB - 4096), &rig.text("leaf.qcow2")],
    )?;
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", &format!("write -z {} 4096", last + MIB - 4096), &rig.text("leaf.qcow2")],
    )?;
    std::fs::OpenOptions::new().write(true).open(rig.path("base.img"))?.set_len(last)?;
    for (below, above) in [("leaf", "a"), ("a", "b"), ("b", "top")] {
        let (below, above) = (format!("{below}.qcow2"), rig.text(&format!("{above}.qcow2")));
        run("qemu-img", &["create", "-f", "qcow2", "-b", &below, "-F", "qcow2", &above])?;
    }
    let mut vm = rig.start(&[("virtio0", "top.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let writer = Writer::start(&uri, model)?;
    let fio = fio(&rig, &uri)?;
    writer.goes_on()?;
    // Images behind the leaf, with the disk's data in them.
    let inner = json!({"device": "virtio0", "job-id": "c", "top": rig.path("b.qcow2")});
    vm.qmp.execute_json("block-commit", inner)?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!((end.error, end.offset), (None, end.len));
    for gone in ["b.qcow2", "a.qcow2", "leaf.qcow2"] {
        std::fs::remove_file(rig.path(gone))?;
    }
    writer.goes_on()?;
    // The leaf.
    vm.qmp.execute_json("block-commit", json!({"device": "virtio0", "job-id": "c"}))?;
    let ready: BlockJobReady = vm.qmp.wait(now())?;
    assert_eq!(ready.device, "c");
    let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
    assert_eq!((&jobs[0]["type"], &jobs[0]["ready"]), (&json!("commit"), &json!(true)));
    writer.goes_on()?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "c"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!(end.error, None);
    std::fs::remove_file(rig.path("top.qcow2"))?;
    writer.goes_on()?;
    ended_well(fio, "fio")?;
    let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    assert_eq!((nodes.as_array().map(Vec::len), &nodes[0]["drv"]), (Some(1), &json!("raw")));
    let mut model = writer.stop()?;
    model.take_from(&uri, &rig)?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("raw", &rig.text("base.img"), &model)?;
    let info = qemu_img::info("raw", &rig.path("base.img"))?;
    assert_eq!(info["virtual-size"], model.0.len());
    Ok(())
}
