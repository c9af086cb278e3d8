//! `block-stream` and the commands that control jobs: every message is compared with
//! qemu-storage-daemon's; and streams into parts of a chain, checked with qemu-img.

use std::process::{Command, Stdio};
use std::time::Instant;

use harness::images::drive;
use qmp::event::{BlockJobCancelled, BlockJobCompleted};
use serde_json::{Value, json};

use harness::servers::StorageDaemon;
use harness::session::Session;
use harness::{Failure, STEP, Vm, check, qemu_img};

use crate::{MIB, Stage, disk};

fn now() -> Instant {
    Instant::now() + STEP
}

/// Replaces the offset of an unfinished job, which may have any value.
fn without_progress(message: &mut Value) {
    match message {
        Value::Object(object) => {
            let len = ["len", "total-progress"].iter().find_map(|key| object.get(*key)).cloned();
            for key in ["offset", "current-progress"] {
                if let Some(offset) = object.get_mut(key)
                    && len.as_ref() != Some(offset)
                {
                    *offset = json!("some");
                }
            }
            object.values_mut().for_each(without_progress);
        }
        Value::Array(values) => values.iter_mut().for_each(without_progress),
        _ => {}
    }
}

/// Controls jobs in every way. Returns the whole conversation.
fn converse(mut session: Session) -> Result<Vec<Value>, Failure> {
    let stream = |more: Value| {
        let mut arguments = json!({"device": "leaf"});
        if let (Some(arguments), Value::Object(more)) = (arguments.as_object_mut(), more) {
            arguments.extend(more);
        }
        json!({"execute": "block-stream", "arguments": arguments})
    };
    let job = |command: &str, id: &str| json!({"execute": command, "arguments": {"id": id}});
    let block_job = |command: &str, id: &str| json!({"execute": command, "arguments": {"device": id}});
    let speed = |id: &str, speed: i64| json!({"execute": "block-job-set-speed", "arguments": {"device": id, "speed": speed}});
    let query = |command: &str| json!({"execute": command});
    let becomes = |status: &'static str| move |message: &Value| message["data"]["status"] == status;
    for refused in [
        stream(json!({"device": "nope", "job-id": "j"})),
        stream(json!({"job-id": "0j"})),
        stream(json!({"job-id": "j", "base": "a", "base-node": "b"})),
        stream(json!({"job-id": "j", "base": "a", "bottom": "b"})),
        stream(json!({"job-id": "j", "base-node": "a", "bottom": "b"})),
        stream(json!({"job-id": "j", "base": "a"})),
        stream(json!({"job-id": "j", "base-node": "a"})),
        stream(json!({"job-id": "j", "backing-file": "a"})),
        stream(json!({"job-id": "j", "on-error": "perhaps"})),
        query("query-jobs"),
        query("query-block-jobs"),
    ] {
        session.ask(&refused)?;
    }
    session.ask(&stream(
        json!({"job-id": "j", "speed": 65536, "auto-finalize": false, "auto-dismiss": false}),
    ))?;
    for command in ["job-finalize", "job-dismiss", "job-complete", "job-resume", "block-job-finalize"] {
        session.ask(&job(command, "j"))?;
    }
    session.ask(&stream(json!({"job-id": "j"})))?;
    session.ask(&stream(json!({"job-id": "k"})))?;
    session.ask(&speed("j", -1))?;
    session.ask(&speed("nope", 1))?;
    for command in ["block-job-pause", "block-job-resume", "block-job-cancel", "block-job-complete"] {
        session.ask(&block_job(command, "nope"))?;
    }
    for command in ["job-pause", "job-resume", "job-cancel", "job-dismiss"] {
        session.ask(&job(command, "nope"))?;
    }
    session.ask(&job("job-pause", "j"))?;
    session.until(becomes("paused"))?;
    session.settle();
    session.ask(&block_job("block-job-pause", "j"))?;
    session.ask(&block_job("block-job-cancel", "j"))?;
    session.ask(&query("query-jobs"))?;
    session.ask(&query("query-block-jobs"))?;
    session.ask(&job("job-resume", "j"))?;
    session.ask(&speed("j", 0))?;
    session.until(|message| message["event"] == "BLOCK_JOB_PENDING")?;
    session.settle();
    session.ask(&query("query-block-jobs"))?;
    session.ask(&job("job-pause", "j"))?;
    session.ask(&job("job-finalize", "j"))?;
    session.ask(&query("query-jobs"))?;
    session.ask(&job("job-cancel", "j"))?;
    session.ask(&job("job-dismiss", "j"))?;
    session.ask(&query("query-jobs"))?;
    // A stream that has nothing to do.
    session.ask(&stream(json!({"job-id": "k", "auto-dismiss": false, "auto-finalize": false})))?;
    session.until(|message| message["event"] == "BLOCK_JOB_PENDING")?;
    session.settle();
    session.said.iter_mut().for_each(without_progress);
    Ok(session.said)
}

#[test]
fn a_conversation_is_word_for_word_that_of_qemu() -> Result<(), Failure> {
    let theirs = Stage::new()?;
    let (_, _, leaf) = theirs.base_and_leaf(8 * MIB)?;
    let file = format!("file,node-name=file,filename={}", leaf.display());
    let nodes = [file, "qcow2,node-name=leaf,file=file".to_owned()];
    let (_daemon, session) = StorageDaemon::start(&theirs.path("q"), &nodes, Session::connect)?;
    let theirs = converse(session)?;
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(8 * MIB)?;
    let vm = stage.run(&[drive("leaf", &leaf, "qcow2")])?;
    let ours = converse(Session::connect(&stage.path("qmp"))?)?;
    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "message {index}");
    }
    assert_eq!(ours.len(), theirs.len());
    vm.quit()
}

fn ask(vm: &mut Vm, command: &str, arguments: Value) -> Result<Value, Failure> {
    Ok(vm.qmp.execute_json(command, arguments)?)
}

#[test]
fn a_part_of_a_chain_and_an_image_in_the_middle() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", 8 * MIB, &[(0, 4 * MIB)])?;
    let folder = stage.folder.path();
    let qemu = |program: &str, arguments: &[&str]| -> Result<(), Failure> {
        let status =
            Command::new(program).args(arguments).current_dir(folder).stdout(Stdio::null()).status()?;
        check(status.success(), format!("{program} {arguments:?}"))
    };
    let mut below = ("base.img", "raw");
    for (index, (name, format)) in
        [("low.qcow2", "qcow2"), ("high.qed", "qed"), ("leaf.qcow2", "qcow2")].into_iter().enumerate()
    {
        qemu("qemu-img", &["create", "-q", "-f", format, "-b", below.0, "-F", below.1, name])?;
        let write = format!("write -q -P {} {}M 1M", index + 1, 2 * index + 1);
        qemu("qemu-io", &["-f", format, "-c", &write, name])?;
        below = (name, format);
    }
    let before = stage.path("before.img");
    let leaf = stage.path("leaf.qcow2");
    qemu_img::convert(("qcow2", &leaf), ("raw", &before))?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    // Into the middle: `high` takes the data of `low`, and is then directly over the base.
    let nodes = ask(&mut vm, "query-named-block-nodes", Value::Null)?;
    let node = |name: &str| {
        let nodes = nodes.as_array().into_iter().flatten();
        let found =
            nodes.into_iter().find(|node| node["file"].as_str().is_some_and(|file| file.ends_with(name)));
        found.map(|node| node["node-name"].clone()).ok_or_else(|| format!("no node of {name}"))
    };
    let inner = json!({"device": node("high.qed")?, "job-id": "inner", "bottom": node("low.qcow2")?});
    ask(&mut vm, "block-stream", inner)?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!((end.error, end.offset), (None, end.len));
    std::fs::remove_file(stage.path("low.qcow2"))?;
    let info = qemu_img::info("qed", &stage.path("high.qed"))?;
    check(info["backing-filename"].as_str().is_some_and(|name| name.ends_with("base.img")), &info)?;
    // It is a backing file as before: QEMU can read it too.
    qemu_img::convert(("qed", &stage.path("high.qed")), ("raw", &stage.path("high.img")))?;
    // Then the leaf takes the data of `high`.
    let name = "./base.img";
    ask(
        &mut vm,
        "block-stream",
        json!({"device": "virtio0", "base": base.display().to_string(), "backing-file": name}),
    )?;
    let end: BlockJobCompleted = vm.qmp.wait(now())?;
    assert_eq!((end.error, end.device.as_str()), (None, "virtio0"));
    std::fs::remove_file(stage.path("high.qed"))?;
    vm.kill()?;
    let info = qemu_img::info("qcow2", &leaf)?;
    assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&json!(name), &json!("raw")));
    qemu_img::check("qcow2", &leaf, true)?;
    qemu_img::compare(("qcow2", &leaf), ("raw", &before))
}

#[test]
fn jobs_of_two_disks_and_clashes() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut drives = Vec::new();
    for name in ["a", "b"] {
        stage.images.raw(&format!("{name}.img"), 8 * MIB, &[(0, 8 * MIB)])?;
        let leaf = stage.images.leaf(&format!("{name}.qcow2"), (&format!("{name}.img"), "raw"))?;
        drives.push(drive(name, &leaf, "qcow2"));
    }
    let mut vm = stage.run(&drives)?;
    ask(&mut vm, "block-stream", json!({"device": "a", "job-id": "b", "speed": 65536}))?;
    let refused = |result: Result<Value, Failure>| result.err().map(|e| e.to_string()).unwrap_or_default();
    let text = refused(ask(&mut vm, "block-stream", json!({"device": "b"})));
    assert!(text.contains("Job ID 'b' already in use"), "{text}");
    let text = refused(ask(&mut vm, "block_stream", json!({"device": "b", "all": true})));
    assert!(text.contains("Device 'b' is in use"), "{text}");
    let text = refused(ask(&mut vm, "block_resize", json!({"device": "a", "size": 16 * MIB})));
    assert!(text.contains("Node 'a' is busy: block device is in use by block job: stream"), "{text}");
    ask(&mut vm, "block-stream", json!({"device": "b", "job-id": "other", "speed": 65536}))?;
    assert_eq!(vm.streams()?.len(), 2);
    let shown = ask(&mut vm, "human-monitor-command", json!({"command-line": "info block-jobs"}))?;
    let shown = shown.as_str().unwrap_or_default().to_owned();
    assert!(shown.contains("Streaming device b:") && shown.contains("Streaming device other:"), "{shown}");
    for id in ["b", "other"] {
        ask(&mut vm, "block-job-cancel", json!({"device": id}))?;
        let _: BlockJobCancelled = vm.qmp.wait(now())?;
    }
    // The job names and the disks are free again.
    vm.stream("b")?;
    vm.stream_completed(STEP)?;
    vm.quit()
}
