//! Targets of mirrors whose servers are killed while a disk is copied to them.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::servers::Server;
use harness::{Failure, STEP, check, wait_for};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, qemu_io, run};

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

/// Nothing is in flight when the server is killed: it is the guest's flush that meets the loss.
#[test]
fn a_ready_mirror_whose_server_is_killed_waits_for_its_return() -> Result<(), Failure> {
    /// Far less than `reconnect-delay`, and far more than two attempts to connect take.
    const AWAY: Duration = Duration::from_secs(2);
    let rig = Rig::new()?;
    File::create(rig.path("source"))?.set_len(16 * MIB)?;
    File::create(rig.path("target"))?.set_len(16 * MIB)?;
    let mut server = Server::qemu_nbd(&rig.path("server"), "raw", &rig.text("target"))?;
    let mut vm = rig.start(&[("virtio0", "source", "raw")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let arguments = json!({
        "device": "virtio0", "job-id": "m", "target": server.uri("disk"), "format": "raw", "sync": "full",
        "mode": "existing", "copy-mode": "write-blocking",
    });
    vm.qmp.execute_json("drive-mirror", arguments)?;
    let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    let mut guest = Command::new("qemu-io")
        .args(["--cache=writeback", "-f", "raw", &uri])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut commands = guest.stdin.take().ok_or("no input")?;
    writeln!(commands, "write -P 7 1M 64k")?;
    wait_for("the write on the target", STEP, || Ok(std::fs::read(rig.path("target"))?[MIB as usize] == 7))?;
    server.kill()?;
    writeln!(commands, "flush")?;
    // The time is the test: the target is away for that long.
    std::thread::sleep(AWAY);
    let _server = Server::qemu_nbd(&rig.path("server"), "raw", &rig.text("target"))?;
    drop(commands);
    check(guest.wait()?.success(), "the guest's flush succeeds")?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "m"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    assert_eq!(end.error, None);
    run("qemu-io", &["-f", "raw", "-c", "read -P 7 1M 64k", "-c", "write -P 8 2M 64k", &uri])?;
    vm.quit()?;
    qemu_io("raw", &rig.text("target"), &["read -P 7 1M 64k".into(), "read -P 8 2M 64k".into()])?;
    Ok(())
}
