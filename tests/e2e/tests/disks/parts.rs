//! Several jobs on one disk: streams into parts of a chain, allowed and refused as by QEMU; and a
//! verification.

use std::process::{Command, Stdio};
use std::time::Instant;

use harness::images::drive;
use harness::servers::StorageDaemon;
use harness::session::Session;
use harness::{Failure, STEP, check, qemu_img};
use qmp::event::BlockJobCompleted;
use serde_json::{Value, json};

use crate::{MIB, Stage, disk};

/// The images, the last one first in the chain.
pub const CHAIN: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];

/// Makes the chain, each image with data of its own.
pub fn chain(stage: &Stage) -> Result<(), Failure> {
    let run = |program: &str, arguments: &[&str]| -> Result<(), Failure> {
        let mut command = Command::new(program);
        let status =
            command.args(arguments).current_dir(stage.folder.path()).stdout(Stdio::null()).status()?;
        check(status.success(), format!("{program} {arguments:?}"))
    };
    for (n, name) in CHAIN.iter().enumerate() {
        match n.checked_sub(1) {
            None => run("qemu-img", &["create", "-q", "-f", "qcow2", name, "16M"])?,
            Some(below) => {
                run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", CHAIN[below], "-F", "qcow2", name])?;
            }
        }
        let write = format!("write -q -P {} {}M 4M", n + 1, n * 2);
        run("qemu-io", &["-f", "qcow2", "-c", &write, name])?;
    }
    Ok(())
}

/// Starts `qemu-storage-daemon` with the chain, each image a node of its name.
pub fn daemon(stage: &Stage) -> Result<(StorageDaemon, Session), Failure> {
    let mut nodes = Vec::new();
    for (n, name) in CHAIN.iter().enumerate() {
        nodes.push(format!("file,node-name=f{n},filename={}", stage.path(name).display()));
        let backing = n.checked_sub(1).map_or("null".into(), |below| format!("\"{}\"", CHAIN[below]));
        let image = format!(r#"{{"driver":"qcow2","node-name":"{name}","file":"f{n}","backing":{backing}}}"#);
        nodes.push(image);
    }
    StorageDaemon::start(&stage.path("q"), &nodes, Session::connect)
}

/// Finds the node name of an image of the chain.
pub fn node_name(nodes: &Value, image: &str) -> String {
    let all = nodes.as_array().into_iter().flatten();
    let mut found = all.filter(|node| node["file"].as_str().is_some_and(|file| file.ends_with(image)));
    found.next().and_then(|node| node["node-name"].as_str()).unwrap_or_default().to_owned()
}

/// Starts streams of parts of the chain, slow ones. Returns for each what came of it. `node` gives the
/// node name of an image.
fn converse(mut session: Session, node: impl Fn(&str) -> String) -> Result<Vec<String>, Failure> {
    let mut outcome = Vec::new();
    for (id, top, end) in [
        ("a", "n3", ("bottom", "n2")),
        ("b", "n5", ("bottom", "n4")),
        ("c", "n4", ("base-node", "n1")),
        ("d", "n3", ("bottom", "n3")),
        ("e", "n5", ("base-node", "n3")),
        ("f", "n2", ("bottom", "n1")),
        ("g", "n1", ("bottom", "n0")),
        ("h", "n1", ("bottom", "n0")),
    ] {
        let arguments = json!({"device": node(top), "job-id": id, end.0: node(end.1), "speed": 65536});
        session.ask(&json!({"execute": "block-stream", "arguments": arguments}))?;
        let answers = session.said.iter().rev();
        let found = answers.into_iter().find_map(|message| match message.get("error") {
            Some(error) => Some(error["desc"].as_str().unwrap_or_default().to_owned()),
            None => message.get("return").map(Value::to_string),
        });
        let named = CHAIN.iter().fold(found.unwrap_or_default(), |text, name| {
            text.replace(&format!("'{}'", node(name)), &format!("'{name}'"))
        });
        outcome.push(format!("{id}: {named}"));
    }
    Ok(outcome)
}

#[test]
fn parts_of_a_chain_are_streamed_side_by_side_as_by_qemu() -> Result<(), Failure> {
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
    let node = |name: &str| node_name(&nodes, name);
    let ours = converse(Session::connect(&stage.path("qmp"))?, node)?;
    assert_eq!(ours, theirs);
    assert_eq!(ours.iter().filter(|line| line.ends_with("{}")).count(), 3, "{ours:?}");

    // All three end well at once, and what they have copied is not needed any more.
    for id in ["a", "b", "g"] {
        vm.set_speed(id, 0)?;
    }
    for _ in 0..3 {
        let end: BlockJobCompleted = vm.qmp.wait(Instant::now() + STEP)?;
        assert_eq!(end.error, None);
    }
    for gone in ["n0", "n2", "n4"] {
        std::fs::remove_file(stage.path(gone))?;
    }
    vm.quit()?;
    for name in ["n1", "n3", "n5"] {
        qemu_img::check("qcow2", &stage.path(name), true)?;
    }
    qemu_img::compare(("qcow2", &stage.path("n5")), ("raw", &before))
}

#[test]
fn a_verification_tells_what_differs() -> Result<(), Failure> {
    use sha2::{Digest, Sha256};
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(8 * MIB)?;
    let content = stage.path("content.img");
    qemu_img::convert(("qcow2", &leaf), ("raw", &content))?;
    let content = std::fs::read(content)?;
    let mut lines = String::from("# by sha256sum\n");
    for n in 0..8 {
        let start = n << 20;
        let bytes = if n == 5 { &b"other"[..] } else { &content[start..start + (1 << 20)] };
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        lines += &format!("{start} {} {digest}\n", 1 << 20);
    }
    std::fs::write(stage.path("digests"), lines)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    let arguments = json!({"device": "virtio0", "job-id": "v", "digests": stage.path("digests")});
    vm.qmp.execute_json("x-verify", arguments)?;
    // It is in no stream's way.
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    let deadline = Instant::now() + STEP;
    let result = loop {
        let jobs = vm.qmp.execute_json("query-jobs", Value::Null)?;
        let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == "v").cloned();
        let job = job.ok_or("the job is gone before job-dismiss")?;
        if job["status"] == "concluded" {
            break job;
        }
        check(Instant::now() < deadline, "a verification ends")?;
    };
    assert_eq!(result["type"], "x-verify");
    let differing = json!([{"offset": 5 << 20, "length": 1 << 20}]);
    assert_eq!(result["x-result"], json!({"bytes": 8 << 20, "unreadable": [], "differing": differing}));
    vm.qmp.execute_json("job-dismiss", json!({"id": "v"}))?;
    std::fs::write(stage.path("digests"), "0 512 abc\n")?;
    let arguments = json!({"device": "virtio0", "digests": stage.path("digests")});
    let error = vm.qmp.execute_json("x-verify", arguments).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("line 1 is not 'OFFSET LENGTH SHA256'"), "{error}");
    vm.quit()
}
