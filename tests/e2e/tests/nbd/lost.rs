//! Targets of mirrors whose servers are killed while a disk is copied to them.

use std::fs::File;
use std::time::Instant;

use harness::servers::Server;
use harness::{Failure, STEP, check, wait_for};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, run};

const SIZE: u64 = 1 << 30;
/// The most that a loss costs: what a flush in progress covers, what was written beside it, and what was in
/// flight at both times.
const MOST: u64 = 96 * MIB;

#[test]
fn a_target_whose_server_is_killed_in_mid_copy_is_copied_again_only_where_it_was_not_flushed()
-> Result<(), Failure> {
    let rig = Rig::new()?;
    let source = Server::nbdkit(&rig.path("source"), &["pattern", "size=1G"])?;
    let leaf = rig.text("leaf.qcow2");
    run("qemu-img", &["create", "-f", "qcow2", "-b", &source.uri(""), "-F", "raw", &leaf])?;
    File::create(rig.path("target"))?.set_len(SIZE)?;
    let mut server = Server::qemu_nbd(&rig.path("server"), "raw", &rig.text("target"))?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let arguments = json!({
        "device": "virtio0", "job-id": "m", "target": server.uri("disk"), "format": "raw", "sync": "full",
        "mode": "existing", "speed": 160 * MIB,
    });
    vm.qmp.execute_json("drive-mirror", arguments)?;
    wait_for("the middle of the copy", STEP, || {
        let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
        Ok(jobs[0]["offset"].as_u64().ok_or("no offset")? >= SIZE / 2)
    })?;
    server.kill()?;
    let _server = Server::qemu_nbd(&rig.path("server"), "raw", &rig.text("target"))?;
    vm.qmp.execute_json("block-job-set-speed", json!({"device": "m", "speed": 0}))?;
    let ready: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    check(ready.offset >= SIZE, "all of it was copied")?;
    let again = ready.offset - SIZE;
    println!("copied again: {} MiB", again / MIB);
    check(again <= MOST, "little more than what was not flushed was copied again")?;
    vm.qmp.execute_json("block-job-cancel", json!({"device": "m"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    assert_eq!(end.error, None);
    vm.quit()?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source.uri(""), &rig.text("target")])?;
    Ok(())
}
