//! A running guest's disk moves to a mirror, and the image that it leaves behind is deleted.

use std::fs::remove_file;
use std::path::{Path, PathBuf};
use std::time::Instant;

use guest_agent::wire::Fields;
use harness::{Failure, STEP, check, qemu_img, wait_for};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::MIB;
use crate::reset::restarted;
use crate::stage::{Guest, STREAM, shared};

/// Starts a mirror of a disk to a new image, of at most `speed` bytes a second if that is not 0.
fn mirror(guest: &mut Guest, disk: usize, name: &str, mode: &str, speed: u64) -> Result<PathBuf, Failure> {
    let target = guest.images.path(name);
    let arguments = json!({
        "device": guest.disks[disk].id, "target": target.display().to_string(), "format": "qcow2",
        "sync": "full", "copy-mode": mode, "speed": speed,
    });
    guest.vm.qmp.execute_json("drive-mirror", arguments)?;
    Ok(target)
}

/// Fails unless the mirror of the first disk has this state.
fn is(guest: &mut Guest, status: &str) -> Result<(), Failure> {
    let jobs = guest.vm.qmp.execute_json("query-block-jobs", Value::Null)?;
    check(
        jobs[0]["status"] == status && jobs[0]["type"] == "mirror",
        format!("a mirror that is {status}: {jobs}"),
    )
}

/// Moves a disk to its mirror, which is ready, and deletes the images that it leaves behind.
fn moves(guest: &mut Guest, disk: usize, target: &Path) -> Result<(), Failure> {
    let id = guest.disks[disk].id;
    guest.vm.qmp.execute_json("block-job-complete", json!({"device": id}))?;
    let end: BlockJobCompleted = guest.vm.qmp.wait(Instant::now() + STREAM)?;
    check(end.error.is_none(), format!("the mirror ends well: {end:?}"))?;
    let blocks = guest.vm.qmp.execute_json("query-block", Value::Null)?;
    let file = &blocks[disk]["inserted"]["file"];
    check(*file == target.display().to_string(), format!("the disk runs on the target, not on {file}"))?;
    let old = std::mem::replace(&mut guest.disks[disk].image, (target.to_owned(), "qcow2"));
    Ok(remove_file(old.0)?)
}

fn stop_and_continue(guest: &mut Guest, status: &str) -> Result<(), Failure> {
    guest.vm.qmp.execute_json("stop", Value::Null)?;
    is(guest, status)?;
    guest.vm.qmp.execute_json("cont", Value::Null)?;
    Ok(())
}

/// The guest's machine is stopped, continued and reset while it writes and its disk is copied. When the
/// mirror is ready, the guest is stopped, continued and reboots; then its disk moves.
pub fn through_resets() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.load()?;
        // So slow that it outlasts the reset on any host.
        let target = mirror(guest, 0, "mirror.qcow2", "background", MIB / 2)?;
        stop_and_continue(guest, "running")?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        let seq = guest.fill()?;
        guest.load()?;
        guest.vm.qmp.execute_json("system_reset", Value::Null)?;
        restarted(guest, false)?;
        is(guest, "running")?;
        guest.has_all_since(seq)?;

        let job = guest.load()?;
        guest.vm.set_speed("virtio0", 0)?;
        let _: BlockJobReady = guest.vm.qmp.wait(Instant::now() + STREAM)?;
        stop_and_continue(guest, "ready")?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        let digest = guest.agent()?.digest("/dev/vda")?;
        // The reply comes before the guest goes down.
        guest.agent()?.call("reboot", Fields::new(), STEP)?;
        restarted(guest, true)?;
        is(guest, "ready")?;
        let found = guest.has_all_since(1)?;
        check(found == digest, "after a reboot everything is as it was written last")?;

        let job = guest.load()?;
        moves(guest, 0, &target)?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        guest.agent()?.fsync("/dev/vda")?;
        qemu_img::check_in_use("qcow2", &target)
    })
}

/// An ext4 on the second disk, of which every write goes to both sides from the start.
pub fn under_a_file_system() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.agent()?.fs_load("/dev/vdb", 8, 16, MIB)?;
        let files = |guest: &mut Guest, more: u64| {
            let before = guest.agent()?.stat(job)?.writes;
            wait_for("files to be written", STEP, || {
                let stat = guest.agent()?.stat(job)?;
                check(stat.running && stat.errors == 0, format!("the load runs well: {stat:?}"))?;
                Ok(stat.writes >= before + more)
            })
        };
        files(guest, 4)?;
        let target = mirror(guest, 1, "mirror-1.qcow2", "write-blocking", 0)?;
        let _: BlockJobReady = guest.vm.qmp.wait(Instant::now() + STREAM)?;
        files(guest, 4)?;
        moves(guest, 1, &target)?;
        files(guest, 4)?;
        guest.agent()?.stop(job)?;
        let count = guest.agent()?.fs_verify("/dev/vdb")?;
        check(count >= 12, format!("{count} files are there"))
    })
}
