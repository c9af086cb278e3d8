//! `blockdev-add`, `blockdev-del` and `blockdev-mirror`: what is refused, and in which words, as by QEMU.

use std::path::Path;

use harness::images::drive;
use harness::session::Session;
use harness::{Failure, check};
use serde_json::{Value, json};

use crate::Stage;
use crate::parts::{CHAIN, chain, daemon, node_name};

/// Commands with `NAME` for the node names of the chain's images, and `/` before the name of a file.
fn commands(folder: &Path) -> Vec<(&'static str, Value)> {
    let file = |name: &str| folder.join(name).display().to_string();
    let add = |value: Value| ("blockdev-add", value);
    let mirror = |device: &str, target: &str, more: Value| {
        let mut arguments = json!({"device": device, "target": target, "sync": "full", "job-id": "m"});
        if let (Some(arguments), Some(more)) = (arguments.as_object_mut(), more.as_object()) {
            arguments.extend(more.clone());
        }
        ("blockdev-mirror", arguments)
    };
    let change = |value: Value| ("block-job-change", value);
    let del = |name: &str| ("blockdev-del", json!({"node-name": name}));
    vec![
        add(json!({"driver": "file", "filename": "/none/x", "node-name": "a"})),
        add(json!({"driver": "file", "filename": file("t")})),
        add(json!({"driver": "none", "filename": file("t"), "node-name": "a"})),
        add(json!({"driver": "file", "filename": file("t"), "node-name": "-x"})),
        add(json!({"driver": "file", "filename": file("t"), "node-name": "x".repeat(40)})),
        add(json!({"driver": "file", "node-name": "a"})),
        add(json!({"driver": "file", "filename": file("t"), "x": 1, "node-name": "a"})),
        add(
            json!({"driver": "file", "filename": file("t"), "server": {"type": "unix", "path": "/x"}, "node-name": "a"}),
        ),
        add(json!({"driver": "file", "filename": file("t"), "node-name": "tf", "read-only": false,
                   "auto-read-only": true, "discard": "unmap", "cache": {"direct": false, "no-flush": false}})),
        add(json!({"driver": "qcow2", "file": "none", "node-name": "tq"})),
        add(json!({"driver": "qcow2", "node-name": "tq"})),
        add(json!({"driver": "qcow2", "file": "tf", "node-name": "tq", "backing": null})),
        add(json!({"driver": "qcow2", "file": "tf", "node-name": "tf"})),
        add(
            json!({"driver": "qcow2", "file": {"driver": "file", "filename": file("small")}, "node-name": "sm"}),
        ),
        add(json!({"driver": "raw", "node-name": "in", "read-only": true,
                   "file": {"driver": "file", "filename": file("inner"), "node-name": "inf", "read-only": true}})),
        del("inf"),
        add(json!({"driver": "raw", "file": "inf", "node-name": "in2", "read-only": true})),
        del("in"),
        del("inf"),
        del("in2"),
        del("inf"),
        del("none"),
        del("tf"),
        del("n1"),
        mirror("none", "tq", json!({})),
        mirror("n5", "none", json!({})),
        mirror("n5", "tq", json!({"job-id": ""})),
        mirror("n5", "n5", json!({})),
        mirror("n5", "n4", json!({})),
        mirror("n1", "tq", json!({})),
        mirror("n5", "tq", json!({"sync": "incremental"})),
        mirror("n5", "tq", json!({"speed": -1})),
        mirror("n5", "tq", json!({"granularity": 256})),
        mirror("n5", "tq", json!({"granularity": 1000})),
        mirror("n5", "tq", json!({"granularity": 128 << 20})),
        mirror("n5", "tq", json!({"granularity": -1})),
        mirror("n5", "tq", json!({"granularity": 100, "sync": "incremental"})),
        mirror("n5", "tq", json!({"buf-size": -1})),
        mirror("n5", "tq", json!({"filter-node-name": "tq"})),
        mirror(
            "n5",
            "tq",
            json!({"speed": 65536, "filter-node-name": "filter", "granularity": 4096, "buf-size": 8192}),
        ),
        change(json!({})),
        change(json!({"id": "m"})),
        change(json!({"id": "m", "type": "mirror"})),
        change(json!({"id": "m", "type": "none"})),
        change(json!({"id": "m", "type": "commit", "copy-mode": "background"})),
        change(json!({"id": "m", "type": "mirror", "copy-mode": "none"})),
        change(json!({"id": "none", "type": "mirror", "copy-mode": "background"})),
        change(json!({"id": "m", "type": "mirror", "copy-mode": "background"})),
        change(json!({"id": "m", "type": "mirror", "copy-mode": "write-blocking"})),
        ("block-job-pause", json!({"device": "m"})),
        change(json!({"id": "m", "type": "mirror", "copy-mode": "write-blocking"})),
        ("block-job-resume", json!({"device": "m"})),
        del("tq"),
        ("block-stream", json!({"device": "n5", "job-id": "s"})),
        ("block-job-cancel", json!({"device": "m", "force": true})),
    ]
}

/// Runs the commands. Returns what came of each; `node` gives the node name of an image.
fn converse(
    mut session: Session,
    folder: &Path,
    node: impl Fn(&str) -> String,
) -> Result<Vec<String>, Failure> {
    let mut outcome = Vec::new();
    for (name, mut arguments) in commands(folder) {
        for key in ["device", "target", "node-name"] {
            let old = arguments[key].as_str().filter(|name| CHAIN.contains(name)).map(str::to_owned);
            if let Some(old) = old {
                arguments[key] = node(&old).into();
            }
        }
        let answer = session.answer(name, arguments)?;
        let text = match answer.get("error") {
            Some(error) => format!("{}: {}", error["class"], error["desc"]),
            None => answer["return"].to_string(),
        };
        let text = CHAIN.iter().fold(text, |text, name| {
            // Ours names the disk where QEMU names its leaf.
            text.replace(&format!("'{}'", node(name)), &format!("'{name}'")).replace("'disk'", "'n5'")
        });
        outcome.push(format!("{name} {text}"));
    }
    session.event("BLOCK_JOB_CANCELLED")?;
    for name in ["tq", "tf", "sm"] {
        let gone = session.answer("blockdev-del", json!({"node-name": name}))?;
        check(gone.get("return").is_some(), format!("blockdev-del {name}: {gone}"))?;
    }
    Ok(outcome)
}

#[test]
fn nodes_are_described_and_refused_as_by_qemu() -> Result<(), Failure> {
    let make = |stage: &Stage| -> Result<(), Failure> {
        chain(stage)?;
        for (name, size) in [("t", "16M"), ("small", "8M"), ("inner", "8M")] {
            let path = stage.path(name).display().to_string();
            check(stage.images.image(&["create", "-f", "qcow2", &path, size])?.status.success(), name)?;
        }
        Ok(())
    };
    let theirs = Stage::new()?;
    make(&theirs)?;
    let (_daemon, session) = daemon(&theirs)?;
    let theirs = converse(session, theirs.folder.path(), str::to_owned)?;

    let stage = Stage::new()?;
    make(&stage)?;
    let mut vm = stage.run(&[drive("disk", &stage.path("n5"), "qcow2")])?;
    let nodes = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    let ours = converse(Session::connect(&stage.path("qmp"))?, stage.folder.path(), |name| {
        match CHAIN.contains(&name) {
            true => node_name(&nodes, name),
            false => name.to_owned(),
        }
    })?;
    assert_eq!(ours, theirs);
    assert_eq!(ours.iter().filter(|line| line.ends_with("{}")).count(), 14, "{ours:?}");
    let after = vm.qmp.execute_json("query-named-block-nodes", Value::Null)?;
    assert_eq!(after.as_array().map(Vec::len), Some(CHAIN.len()), "{after}");
    vm.quit()
}
