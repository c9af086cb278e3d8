//! The same end of a stream by QEMU's block-stream and by ours: SIGKILL as soon as the event arrives;
//! then only the leaf is left.

use std::path::Path;
use std::process::Command;

use bench::{Daemon, Disk, Vmm};
use harness::images::same_bytes;
use harness::{Failure, check, qemu_img};
use serde_json::Value;

use crate::{MIB, Stage, millrace};

/// Streams with `vmm` and kills it right after the event. Returns the state of the leaf when it is
/// alone.
fn killed_after_the_event(vmm: Vmm) -> Result<Result<(), Failure>, Failure> {
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(64 * MIB)?;
    // The same leaf for both programs: made by qemu-img.
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&base).arg(&leaf);
    check(create.status()?.success(), "qemu-img create")?;
    let disk = Disk {
        leaf: (leaf.clone(), "qcow2".to_owned()),
        backing: Some((base.clone(), "raw".to_owned())),
        direct: false,
        qemu_aio: "threads".to_owned(),
    };
    let mut daemon = Daemon::start(vmm, millrace()?, stage.folder.path(), &disk)?;
    daemon.stream()?;
    daemon.kill()?;
    check(same_bytes(&base, &copy)?, "the base is byte for byte what it was")?;
    // The event means that the base is no longer needed.
    std::fs::remove_file(&base)?;
    Ok(is_whole(&leaf, &copy))
}

fn is_whole(leaf: &Path, copy: &Path) -> Result<(), Failure> {
    let info = qemu_img::info("qcow2", leaf)?;
    check(info["backing-filename"] == Value::Null, "no backing file is recorded")?;
    qemu_img::check("qcow2", leaf, true)?;
    qemu_img::compare(("qcow2", leaf), ("raw", copy)).map_err(|e| {
        // The worst case: nothing shows that the content is gone.
        format!("qemu-img check finds nothing wrong, but the content is gone: {e}").into()
    })
}

/// QEMU's result is only printed, because it depends on the version; our leaf must be whole.
#[test]
fn killed_after_the_event_beside_qemu() -> Result<(), Failure> {
    match killed_after_the_event(Vmm::Qemu) {
        Ok(Ok(())) => println!("QEMU {}: whole", qemu_img::version()?),
        Ok(Err(e)) => println!("QEMU {}: LOST: {e}", qemu_img::version()?),
        Err(e) => println!("QEMU: not seen: {e}"),
    }
    killed_after_the_event(Vmm::Ours)??;
    println!("ours: whole");
    Ok(())
}
