//! `change` without a guest: chains that grow under a running disk, and shrink again.

use harness::images::{drive, same_bytes};
use harness::{Failure, STEP, qemu_img};
use serde_json::{Value, json};

use crate::{LONG, MIB, Stage, assert_alone, block_events, disk};

#[test]
fn switched_twice_then_streamed_the_last_leaf_has_it_all() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(16 * MIB)?;
    let second = stage.images.leaf("second.qcow2", ("leaf.qcow2", "qcow2"))?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    vm.change("virtio0", &leaf, None, false)?;
    // Part of the data is in the middle of the chain, part at its bottom.
    for _ in 0..8 {
        vm.stream_one("virtio0")?;
    }
    vm.change("virtio0", &second, Some("qcow2"), false)?;
    let depth = |answer: Value| answer[0]["inserted"]["backing_file_depth"].clone();
    assert_eq!(depth(vm.qmp.execute_json("query-block", Value::Null)?), 2);
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    assert_eq!(depth(vm.qmp.execute_json("query-block", Value::Null)?), 0);
    assert!(same_bytes(&base, &copy)?, "the base was written");
    std::fs::remove_file(&base)?;
    std::fs::remove_file(&leaf)?;
    vm.quit()?;
    assert_alone(&second, &copy, false)
}

/// An image that left the chain is free for other programs at once; the new one is not.
#[test]
fn locks_follow_the_switch() -> Result<(), Failure> {
    let (stage, other) = (Stage::new()?, Stage::new()?);
    let (base, copy, leaf) = stage.base_and_leaf(4 * MIB)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.change("virtio0", &copy, Some("raw"), false)?;
    // Another program opens the old chain, as a user might.
    other.run(&disk(&leaf, "qcow2"))?.quit()?;
    assert!(other.run(&disk(&copy, "raw")).is_err(), "the new image is not locked");
    vm.change("virtio0", &base, Some("raw"), false)?;
    vm.change("virtio0", &leaf, None, false)?;
    vm.quit()
}

#[test]
fn two_disks_stream_side_by_side() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, copy, leaf) = stage.base_and_leaf(LONG)?;
    let second = stage.images.leaf("second.qcow2", ("copy.img", "raw"))?;
    let mut vm = stage.run(&[drive("a", &leaf, "qcow2"), drive("b", &second, "qcow2")])?;
    vm.stream("a")?;
    vm.stream("b")?;
    let streams = vm.streams()?;
    assert_eq!(streams.iter().map(|stream| &stream.device).collect::<Vec<_>>(), ["a", "b"]);
    vm.stop_stream("b")?;
    vm.stream("b")?;
    vm.stream_completed(STEP)?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    assert_alone(&leaf, &copy, false)?;
    assert_alone(&second, &copy, false)
}

#[test]
fn stop_and_cont_leave_a_stream_alone() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, copy, leaf) = stage.base_and_leaf(LONG)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.qmp.execute_json("stop", Value::Null)?;
    let status = vm.qmp.execute_json("query-status", Value::Null)?;
    assert_eq!(status, json!({"running": false, "status": "paused"}));
    vm.stream_completed(STEP)?;
    vm.qmp.execute_json("cont", Value::Null)?;
    assert_eq!(vm.qmp.execute_json("query-status", Value::Null)?["running"], true);
    assert_eq!(block_events(&mut vm), ["STOP", "RESUME"]);
    vm.quit()?;
    assert_alone(&leaf, &copy, false)
}

/// If the guest may be notified, a switch to a larger image makes the disk larger.
#[test]
fn a_switch_may_change_the_size_if_it_may_be_told() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, _, _) = stage.base_and_leaf(4 * MIB)?;
    let larger = stage.images.raw("larger.img", 8 * MIB, &[])?;
    let leaf = stage.images.leaf("over-larger.qcow2", ("larger.img", "raw"))?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    assert!(vm.change("virtio0", &larger, Some("raw"), false).is_err());
    vm.change("virtio0", &larger, Some("raw"), true)?;
    let block = vm.qmp.execute_json("query-block", Value::Null)?;
    assert_eq!(block[0]["inserted"]["image"]["virtual-size"], 8 * MIB);
    vm.change("virtio0", &leaf, None, false)?;
    assert_eq!(vm.stream_one("virtio0")?.len, 8 * MIB);
    vm.quit()?;
    qemu_img::check("qcow2", &leaf, false)
}
