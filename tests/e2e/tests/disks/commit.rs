//! `block-commit`: what is refused and what is done, in QEMU's words.

use std::time::Instant;

use harness::images::drive;
use harness::session::Session;
use harness::{Failure, STEP, check, qemu_img};
use qmp::event::{BlockJobCompleted, BlockJobReady};
use serde_json::{Value, json};

use crate::Stage;
use crate::parts::{CHAIN, chain, daemon, node_name};

/// Plays a conversation. `node` gives the node name of an image. Returns what came of each command, and the
/// events of the jobs that ended.
fn converse(mut session: Session, node: impl Fn(&str) -> String) -> Result<Vec<String>, Failure> {
    let mut outcome = Vec::new();
    for arguments in [
        json!({"device": "none"}),
        json!({"device": "n5", "job-id": ""}),
        json!({"device": "n2"}),
        json!({"device": "n5", "top": "none"}),
        json!({"device": "n5", "base": "none"}),
        json!({"device": "n5", "top": "n2", "top-node": "n2"}),
        json!({"device": "n5", "base": "n2", "base-node": "n2"}),
        json!({"device": "n5", "top-node": "none"}),
        json!({"device": "n5", "base-node": "none"}),
        json!({"device": "n5", "top-node": "n1", "base-node": "n2"}),
        json!({"device": "n5", "top-node": "n1", "base-node": "n1"}),
        json!({"device": "n5", "top-node": "n0"}),
        json!({"device": "n5", "backing-file": "x"}),
        json!({"device": "n5", "speed": -1}),
        json!({"device": "n5", "filter-node-name": "-x"}),
        // These are done.
        json!({"device": "n5", "top-node": "n3", "base-node": "n2", "on-error": "enospc"}),
        json!({"device": "n5", "top-node": "n1", "base-node": "n0", "backing-mask-protocol": true}),
        json!({"device": "n5", "base-node": "n4", "filter-node-name": "filter", "auto-dismiss": false}),
    ] {
        let mut arguments = arguments;
        for key in ["device", "top-node", "base-node"] {
            let old = arguments[key].as_str().filter(|name| CHAIN.contains(name)).map(str::to_owned);
            if let Some(old) = old {
                arguments[key] = node(&old).into();
            }
        }
        // Asking for a member has made it.
        if let Some(members) = arguments.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        if arguments.get("job-id").is_none() {
            arguments["job-id"] = "c".into();
        }
        let answer = session.answer("block-commit", arguments.clone())?;
        let text = match answer.get("error") {
            Some(error) => format!("{}: {}", error["class"], error["desc"]),
            None if arguments["auto-dismiss"] == false => {
                format!("ready: {}", session.event("BLOCK_JOB_READY")?)
            }
            None => format!("completed: {}", session.event("BLOCK_JOB_COMPLETED")?),
        };
        let text = CHAIN
            .iter()
            .fold(text, |text, name| text.replace(&format!("'{}'", node(name)), &format!("'{name}'")));
        outcome.push(text);
    }
    session.answer("job-complete", json!({"id": "c"}))?;
    outcome.push(format!("completed: {}", session.event("BLOCK_JOB_COMPLETED")?));
    session.answer("job-dismiss", json!({"id": "c"}))?;
    Ok(outcome)
}

#[test]
fn commits_are_done_and_refused_as_by_qemu() -> Result<(), Failure> {
    let theirs = Stage::new()?;
    chain(&theirs)?;
    let (_daemon, session) = daemon(&theirs)?;
    let theirs = converse(session, str::to_owned)?;

    let stage = Stage::new()?;
    chain(&stage)?;
    let before = stage.path("before.img");
    qemu_img::convert(("qcow2", &stage.path("n5")), ("raw", &before))?;
    let mut vm = stage.run(&[drive("disk", &stage.path("n5"), "qcow2")])?;
    let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    let ours = converse(Session::connect(&stage.path("qmp"))?, |name| match CHAIN.contains(&name) {
        true => node_name(&nodes, name),
        false => name.to_owned(),
    })?;
    assert_eq!(ours, theirs);
    assert_eq!(ours.iter().filter(|line| line.starts_with("completed")).count(), 3, "{ours:?}");
    for gone in ["n5", "n3", "n1"] {
        std::fs::remove_file(stage.path(gone))?;
    }
    let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    assert_eq!(nodes.as_array().map(Vec::len), Some(3), "{nodes}");
    assert_eq!(nodes[0]["ro"], false);
    vm.quit()?;
    for name in ["n0", "n2", "n4"] {
        qemu_img::check("qcow2", &stage.path(name), false)?;
    }
    qemu_img::compare(("qcow2", &stage.path("n4")), ("raw", &before))
}

/// A base that cannot be written: the chain stays as it was.
#[test]
fn a_base_that_cannot_be_written_is_left_alone() -> Result<(), Failure> {
    let stage = Stage::new()?;
    chain(&stage)?;
    let before = stage.path("before.img");
    qemu_img::convert(("qcow2", &stage.path("n5")), ("raw", &before))?;
    let base = stage.path("n4");
    let mut vm = stage.run(&[drive("disk", &stage.path("n5"), "qcow2")])?;
    // In its place is another file, which the disk does not run on.
    std::fs::rename(&base, stage.path("aside"))?;
    std::fs::copy(stage.path("aside"), &base)?;
    let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    let commit = json!({"device": "disk", "base-node": node_name(&nodes, "n4"), "job-id": "c"});
    let refused = vm.qmp.execute_json("block-commit", commit.clone());
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    check(text.contains("is no longer the file that the disk runs on"), &text)?;
    std::fs::rename(stage.path("aside"), &base)?;
    vm.qmp.execute_json("block-commit", commit)?;
    let _: BlockJobReady = vm.qmp.wait(Instant::now() + STEP)?;
    vm.qmp.execute_json("block-job-complete", json!({"device": "c"}))?;
    let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    assert_eq!(end.error, None);
    vm.quit()?;
    qemu_img::check("qcow2", &base, false)?;
    qemu_img::compare(("qcow2", &base), ("raw", &before))
}
