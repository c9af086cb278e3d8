//! The `block-stream` tests of QEMU's own suites (its iotest 030, and tp-qemu's `blockdev_stream`), run
//! with the same commands against our program and qemu-storage-daemon.

use std::path::Path;
use std::process::Command;

use harness::servers::StorageDaemon;
use harness::session::Session;
use harness::{Failure, check, images::drive};
use serde_json::{Value, json};

use crate::{MIB, Stage};

/// The chain, from the bottom: a short raw base, then images with some data of their own.
const CHAIN: [(&str, &str); 5] =
    [("base", "raw"), ("low", "qcow2"), ("mid", "qcow2"), ("high", "qcow2"), ("leaf", "qcow2")];

fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<String, Failure> {
    let output = Command::new(program).args(arguments).current_dir(folder).output()?;
    check(output.status.success(), format!("{program} {arguments:?}"))?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes the chain by QEMU's programs, with data where iotest 030 has it.
fn make(stage: &Stage) -> Result<(), Failure> {
    let folder = stage.folder.path();
    stage.images.raw("base", MIB, &[(0, 512)])?;
    for (n, pair) in CHAIN.windows(2).enumerate() {
        let [(below, format), (name, _)] = [pair[0], pair[1]];
        let size = if n == 0 { "2M" } else { "4M" };
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", below, "-F", format, name, size], folder)?;
        let write = format!("write -q -P {} {} 64k", n + 1, (n as u64 + 1) * 512 * 1024);
        run("qemu-io", &["-f", "qcow2", "-c", &write, name], folder)?;
    }
    Ok(())
}

/// Replaces node names and folders, which differ between the programs.
fn plain(message: &mut Value, names: &[(String, String)]) {
    match message {
        Value::String(text) => {
            for (theirs, plain) in names {
                *text = text.replace(theirs, plain);
            }
        }
        Value::Object(object) => object.values_mut().for_each(|value| plain(value, names)),
        Value::Array(values) => values.iter_mut().for_each(|value| plain(value, names)),
        _ => {}
    }
}

/// The node name that this test gives to an image in QEMU. The leaf's is the name of our drive.
fn node_name(image: &str) -> String {
    if image == "leaf" { image.to_owned() } else { format!("node-{image}") }
}

struct Talk {
    session: Session,
    folder: String,
    /// Our node names in the order of [`CHAIN`]; QEMU's are chosen by [`node_name`].
    nodes: Vec<String>,
    /// The messages to compare.
    said: Vec<(String, Value)>,
}

impl Talk {
    fn node(&self, name: &str) -> Value {
        let at = CHAIN.iter().position(|(image, _)| *image == name);
        json!(at.map_or(name.to_owned(), |at| self.nodes[at].clone()))
    }

    fn note(&mut self, what: &str, mut value: Value) {
        let mut names = vec![(self.folder.clone(), "FOLDER".to_owned())];
        names.extend(self.nodes.iter().cloned().zip(CHAIN.iter().map(|(name, _)| node_name(name))));
        plain(&mut value, &names);
        self.said.push((what.to_owned(), value));
    }

    /// Sends a command and records the reply.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        let answer = self.session.answer(command, arguments.clone())?;
        self.note(&format!("{command} {arguments}"), answer.clone());
        Ok(answer)
    }

    /// Waits for the next end of a job, and for the states and events on the way.
    fn ended(&mut self, name: &str) -> Result<Value, Failure> {
        let end = self.session.event(name)?;
        self.note(name, end.clone());
        self.session.until(|message| {
            message["data"]["status"] == "null" || message["data"]["status"] == "concluded"
        })?;
        Ok(end)
    }
}

/// The whole conversation.
fn converse(talk: &mut Talk) -> Result<(), Failure> {
    let file = |talk: &Talk, name: &str| json!(format!("{}/{name}", talk.folder));
    // Refusals: an unknown device, an inner image without a job name, invalid bases.
    talk.ask("block-stream", json!({"device": "nonexistent"}))?;
    let (mid, high) = (talk.node("mid"), talk.node("high"));
    talk.ask("block-stream", json!({"device": mid}))?;
    for base in ["mid", "high", "none"] {
        let base = talk.node(base);
        talk.ask("block-stream", json!({"device": mid, "job-id": "stream", "base-node": base}))?;
    }
    let (low_file, mid_file) = (file(talk, "low"), file(talk, "mid"));
    talk.ask("block-stream", json!({"device": mid, "job-id": "stream", "base": low_file, "base-node": "x"}))?;
    talk.ask("block-stream", json!({"device": mid, "job-id": "stream", "base": mid_file}))?;
    talk.ask("block-stream", json!({"device": "leaf", "job-id": "stream", "backing-file": "x"}))?;
    talk.ask("block-stream", json!({"device": "leaf", "job-id": "stream", "bottom": "none"}))?;
    talk.ask("block-stream", json!({"device": "leaf", "job-id": "j", "speed": -1}))?;
    // Nothing is left of these.
    talk.ask("query-block-jobs", json!({}))?;
    talk.ask("query-jobs", json!({}))?;
    // A no-op: the base is the image directly below.
    talk.ask("block-stream", json!({"device": high, "job-id": "noop", "base-node": mid}))?;
    talk.ended("BLOCK_JOB_COMPLETED")?;
    // Into the middle, down to an image below, which is recorded by a given name.
    let low = talk.node("low");
    let record = json!({"device": high, "job-id": "part", "base-node": low, "backing-file": "./low"});
    talk.ask("block-stream", record)?;
    talk.ended("BLOCK_JOB_COMPLETED")?;
    // Speeds: set at the start, refused, and invalid ones.
    let slow = json!({"device": "leaf", "job-id": "slow", "speed": 1024, "auto-finalize": false, "auto-dismiss": false});
    talk.ask("block-stream", slow)?;
    for speed in [json!(-1), json!(8.5), json!("abc")] {
        let answer = talk.session.answer("block-job-set-speed", json!({"device": "slow", "speed": speed}))?;
        let class = answer["error"]["class"].clone();
        talk.note(&format!("speed {speed}"), class);
    }
    for speed in [1, 12345] {
        talk.ask("block-job-set-speed", json!({"device": "slow", "speed": speed}))?;
        let jobs = talk.session.answer("query-block-jobs", json!({}))?;
        talk.note("its speed", jobs["return"][0]["speed"].clone());
    }
    // A paused job accepts another speed, and resumes.
    talk.ask("job-pause", json!({"id": "slow"}))?;
    talk.session.until(|message| message["data"]["status"] == "paused")?;
    let first = talk.session.answer("query-block-jobs", json!({}))?;
    talk.ask("block-job-set-speed", json!({"device": "slow", "speed": 5120}))?;
    let again = talk.session.answer("query-block-jobs", json!({}))?;
    check(first["return"][0]["offset"] == again["return"][0]["offset"], "a paused job makes no progress")?;
    talk.ask("job-resume", json!({"id": "slow"}))?;
    talk.ask("job-cancel", json!({"id": "slow"}))?;
    talk.session.until(|message| message["event"] == "BLOCK_JOB_CANCELLED")?;
    talk.session.until(|message| message["data"]["status"] == "concluded")?;
    talk.ask("job-dismiss", json!({"id": "slow"}))?;
    // Everything, with a job that waits for its commands at the end; the base is shorter than the image.
    let whole = json!({"device": "leaf", "job-id": "whole", "auto-finalize": false, "auto-dismiss": false});
    talk.ask("block-stream", whole)?;
    talk.session.until(|message| message["event"] == "BLOCK_JOB_PENDING")?;
    talk.ask("query-jobs", json!({}))?;
    talk.ask("job-finalize", json!({"id": "whole"}))?;
    talk.session.until(|message| message["data"]["status"] == "concluded")?;
    talk.ask("query-jobs", json!({}))?;
    talk.ask("block-job-dismiss", json!({"id": "whole"}))?;
    talk.ask("query-jobs", json!({}))?;
    // Nothing is left to do.
    talk.ask("block-stream", json!({"device": "leaf", "job-id": "again"}))?;
    talk.ended("BLOCK_JOB_COMPLETED")?;
    Ok(())
}

/// The extents of an image's own layer, as QEMU reports them.
fn map(folder: &Path, name: &str) -> Result<String, Failure> {
    run("qemu-io", &["-f", "qcow2", "-r", "-c", "map", name], folder)
}

#[test]
fn what_qemus_suites_ask_is_answered_as_by_qemu() -> Result<(), Failure> {
    let theirs = Stage::new()?;
    make(&theirs)?;
    let folder = theirs.folder.path().display().to_string();
    // One option for the whole chain, so that QEMU may write to images that it opens read-only, as it
    // does for chains from image headers.
    let mut prefix = String::new();
    let mut options = Vec::new();
    for (name, format) in CHAIN.iter().rev() {
        options.push(format!(
            "{prefix}driver={format},{prefix}node-name={},{prefix}file.driver=file,{prefix}file.filename={folder}/{name}",
            node_name(name)
        ));
        prefix.push_str("backing.");
    }
    let nodes = CHAIN.iter().map(|(name, _)| node_name(name)).collect();
    let (daemon, session) = StorageDaemon::start(&theirs.path("q"), &[options.join(",")], Session::connect)?;
    let mut qemu = Talk { session, folder, nodes, said: Vec::new() };
    converse(&mut qemu)?;

    let stage = Stage::new()?;
    make(&stage)?;
    let vm = stage.run(&[drive("leaf", &stage.path("leaf"), "qcow2")])?;
    let mut session = Session::connect(&stage.path("qmp"))?;
    let found = session.answer("query-named-block-nodes", json!({"flat": true}))?;
    let nodes = found["return"].as_array().ok_or("no nodes")?.iter().rev();
    let nodes = nodes.filter_map(|node| node["node-name"].as_str().map(str::to_owned)).collect();
    let folder = stage.folder.path().display().to_string();
    let mut ours = Talk { session, folder, nodes, said: Vec::new() };
    converse(&mut ours)?;
    for (index, ((what, ours), (_, theirs))) in ours.said.iter().zip(&qemu.said).enumerate() {
        assert_eq!(ours, theirs, "{index}: {what}");
    }
    assert_eq!(ours.said.len(), qemu.said.len());
    vm.quit()?;
    // QEMU has written everything only once it has ended.
    qemu.session.answer("quit", json!({}))?;
    daemon.wait()?;
    for name in ["leaf", "high"] {
        assert_eq!(map(stage.folder.path(), name)?, map(theirs.folder.path(), name)?, "{name}");
        harness::qemu_img::check("qcow2", &stage.path(name), false)?;
        harness::qemu_img::compare(("qcow2", &stage.path(name)), ("qcow2", &theirs.path(name)))?;
    }
    Ok(())
}
