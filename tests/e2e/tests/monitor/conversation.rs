//! The same conversations with our program and with QEMU's storage daemon must have the same replies and
//! events.
//!
//! A script has one request per line. Other lines wait (`until STATUS` for the state of the only job, or
//! `until gone`) or make an image fail (`fail on`, `fail off`). The disk is `d0`; `mid` and `low` are
//! its backing files.

use std::path::Path;

use harness::images::drive;
use harness::servers::{Server, StorageDaemon};
use harness::{Failure, STEP, Vm, check, wait_for};
use serde_json::{Value, json};

use crate::wire::Wire;
use crate::{MIB, Stage, text};

const SIZE: u64 = 8 * MIB;

/// One side of a conversation.
struct Peer {
    wire: Wire,
    /// Our node names, which are generated, and the names in the script.
    names: Vec<(String, &'static str)>,
    folder: String,
}

/// The replies, and the events of jobs.
#[derive(PartialEq, Debug)]
struct Said {
    answers: Vec<String>,
    events: Vec<Value>,
}

impl Peer {
    fn qemu(folder: &Path, nodes: &[Value]) -> Result<(StorageDaemon, Self), Failure> {
        let nodes: Vec<_> = nodes.iter().map(Value::to_string).collect();
        let (daemon, wire) = StorageDaemon::start(&folder.join("daemon"), &nodes, Wire::connect)?;
        Ok((daemon, Peer { wire, names: Vec::new(), folder: text(folder) }))
    }

    fn ours(stage: &Stage, drives: &[String]) -> Result<(Vm, Self), Failure> {
        let vm = stage.run(drives, &[])?;
        let mut wire = Wire::connect(&stage.path("qmp"))?;
        let nodes = wire.ask(r#"{"execute": "query-named-block-nodes", "arguments": {"flat": true}}"#)?;
        // The chain of the disk comes first, beginning with its leaf.
        let nodes = nodes["return"].as_array().cloned().unwrap_or_default();
        let own = nodes.iter().filter_map(|node| node["node-name"].as_str().map(str::to_owned));
        let names = own.zip(["d0", "mid", "low"]).collect();
        Ok((vm, Peer { wire, names, folder: text(stage.folder.path()) }))
    }

    fn ask(&mut self, request: &str) -> Result<Value, Failure> {
        let mut request = request.replace("FOLDER", &self.folder);
        for (own, name) in self.names.iter().filter(|(_, name)| *name != "d0") {
            request = request.replace(&format!("\"{name}\""), &format!("\"{own}\""));
        }
        let answer = self.wire.ask(&request)?;
        Ok(serde_json::from_str(&self.in_the_scripts_words(&answer))?)
    }

    fn in_the_scripts_words(&self, answer: &Value) -> String {
        let mut said = answer.to_string().replace(&self.folder, "FOLDER");
        for (own, name) in &self.names {
            said = said.replace(own.as_str(), name);
        }
        said
    }

    fn until(&mut self, status: &str) -> Result<(), Failure> {
        let what = format!("the job to be {status}");
        wait_for(&what, STEP, || {
            let jobs = self.wire.ask(r#"{"execute": "query-jobs"}"#)?;
            let now = jobs["return"][0]["status"].as_str().unwrap_or("gone");
            Ok(now == status)
        })
    }

    fn play(&mut self, script: &str) -> Result<Said, Failure> {
        let mut answers = Vec::new();
        let lines = script.lines().filter(|line| !line.is_empty());
        for line in lines {
            if let Some(status) = line.strip_prefix("until ") {
                self.until(status)?;
            } else if let Some(state) = line.strip_prefix("fail ") {
                let file = Path::new(&self.folder).join("fail");
                if state == "on" { std::fs::write(file, "")? } else { std::fs::remove_file(file)? }
            } else {
                let mut answer = self.ask(line)?;
                plain(&mut answer);
                answers.push(format!("{line}\n  {answer}"));
            }
        }
        let events = std::mem::take(&mut self.wire.events);
        Ok(Said { answers, events: told(events) })
    }
}

/// Removes fields that only our program has, and the progress of a job that is not at its end: how far it
/// comes before it is cancelled depends on the time.
fn plain(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(plain),
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("x-") && key != "timestamp");
            for (at, end) in [("offset", "len"), ("current-progress", "total-progress")] {
                let end = map.get(end).cloned();
                if let Some(at) = map.get_mut(at)
                    && Some(&*at) != end.as_ref()
                {
                    *at = "some".into();
                }
            }
            map.values_mut().for_each(plain);
        }
        _ => {}
    }
}

/// Filters the events of jobs. QEMU pauses a job whenever it drains its disk, and creates one before it
/// has checked all arguments; the number of errors of a job depends on the size of its copies.
fn told(events: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for mut event in events {
        if !event["event"].as_str().is_some_and(|name| name.contains("JOB")) {
            continue;
        }
        plain(&mut event);
        let status = |event: &Value| event["data"]["status"].as_str().unwrap_or_default().to_owned();
        let last = kept.last().map(status).unwrap_or_default();
        match (last.as_str(), status(&event).as_str()) {
            ("paused", "running") | ("created", "null") => drop(kept.pop()),
            _ if kept.last() == Some(&event) => {}
            _ => kept.push(event),
        }
    }
    kept
}

/// Makes the images of one side: a raw one full of data, and two overlays.
fn images(stage: &Stage) -> Result<(), Failure> {
    stage.images.raw("low.img", SIZE, &[(0, SIZE)])?;
    stage.images.leaf("mid.qcow2", ("low.img", "raw"))?;
    stage.images.leaf("d0.qcow2", ("mid.qcow2", "qcow2"))?;
    stage.images.raw("plain.img", MIB, &[])?;
    Ok(())
}

/// A node of QEMU over a file in the folder.
fn node(stage: &Stage, name: &str, format: &str, backing: Option<Value>) -> Value {
    let file = stage.path(&if format == "raw" { format!("{name}.img") } else { format!("{name}.qcow2") });
    let file = json!({"driver": "file", "filename": text(&file)});
    let mut node = json!({"driver": format, "node-name": name, "file": file});
    if let Some(backing) = backing {
        node["backing"] = backing;
    }
    node
}

fn compare(qemu: Said, ours: Said) -> Result<(), Failure> {
    let answers = qemu.answers.iter().zip(&ours.answers).filter(|(qemu, ours)| qemu != ours);
    let differ: Vec<_> = answers.map(|(qemu, ours)| format!("QEMU's: {qemu}\nours:   {ours}")).collect();
    check(differ.is_empty(), format!("the same answers:\n{}", differ.join("\n")))?;
    let list = |events: &[Value]| events.iter().map(|event| format!("\n  {event}")).collect::<String>();
    let same = qemu.events == ours.events;
    check(same, format!("the same events:{}\nQEMU's:{}", list(&ours.events), list(&qemu.events)))
}

/// Plays a script to both programs and compares the results.
fn same(script: &str) -> Result<(), Failure> {
    let (theirs, stage) = (Stage::new()?, Stage::new()?);
    images(&theirs)?;
    images(&stage)?;
    let low = node(&theirs, "low", "raw", None);
    let mid = node(&theirs, "mid", "qcow2", Some(low));
    let nodes = [node(&theirs, "d0", "qcow2", Some(mid)), node(&theirs, "plain", "raw", None)];
    let (_daemon, mut qemu) = Peer::qemu(theirs.folder.path(), &nodes)?;
    let drives =
        [drive("d0", &stage.path("d0.qcow2"), "qcow2"), drive("plain", &stage.path("plain.img"), "raw")];
    let (vm, mut ours) = Peer::ours(&stage, &drives)?;
    compare(qemu.play(script)?, ours.play(script)?)?;
    vm.quit()
}

#[test]
fn misuse_of_block_stream() -> Result<(), Failure> {
    same(
        r##"
{"execute": "block-stream", "arguments": {"device": "nope"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base": "nope.img"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base-node": "nope"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base-node": "plain"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base-node": "d0"}}
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "j", "base-node": "d0"}}
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "j", "base-node": "mid"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "bottom": "nope"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "bottom": "plain"}}
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "j", "bottom": "d0"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base": "x", "base-node": "y"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base": "x", "bottom": "y"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "base-node": "x", "bottom": "y"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "backing-file": "x"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "backing-mask-protocol": 1}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "filter-node-name": "d0"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "filter-node-name": "#x"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "filter-node-name": "a b"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "filter-node-name": ""}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "filter-node-name": "a123456789012345678901234567890123456789"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "speed": -1}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "on-error": "bad"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "0j"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "a b"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": ""}}
{"execute": "block-stream", "arguments": {"device": "mid"}}
{"execute": "query-jobs"}
"##,
    )
}

#[test]
fn commands_without_their_job() -> Result<(), Failure> {
    let mut script = String::new();
    for verb in ["pause", "resume", "cancel", "complete", "finalize", "dismiss"] {
        let id = if matches!(verb, "finalize" | "dismiss") { "id" } else { "device" };
        script += &format!("{}\n", json!({"execute": format!("job-{verb}"), "arguments": {"id": "none"}}));
        script +=
            &format!("{}\n", json!({"execute": format!("block-job-{verb}"), "arguments": {id: "none"}}));
    }
    for speed in [1, -1] {
        let arguments = json!({"device": "none", "speed": speed});
        script += &format!("{}\n", json!({"execute": "block-job-set-speed", "arguments": arguments}));
    }
    same(&script)
}

#[test]
fn overlays_and_sizes() -> Result<(), Failure> {
    same(
        r##"
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s", "format": "raw"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s", "format": "none"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s", "format": ""}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "#a", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "mid", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "plain", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "a123456789012345678901234567890123456789", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/no/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/none", "mode": "existing"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "mid", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "low", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s"}}
{"execute": "block_resize", "arguments": {"node-name": "d0", "size": 1000}}
{"execute": "block_resize", "arguments": {"node-name": "d0", "size": -1}}
{"execute": "block_resize", "arguments": {"node-name": "mid", "size": 16777216}}
{"execute": "block_resize", "arguments": {"node-name": "low", "size": 16777216}}
{"execute": "block_resize", "arguments": {"node-name": "nope", "size": 16777216}}
{"execute": "block_resize", "arguments": {"node-name": "d0", "size": 16777216}}
"##,
    )
}

#[test]
fn everything_while_a_job_runs_rests_waits_and_has_ended() -> Result<(), Failure> {
    same(
        r##"
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "speed": 65536, "auto-finalize": false, "auto-dismiss": false, "filter-node-name": "filter", "backing-mask-protocol": true}}
until running
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "k"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j"}}
{"execute": "block-stream", "arguments": {"device": "d0"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "0"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "k", "base": "nope"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "k", "base-node": "nope"}}
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "k"}}
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "k", "base-node": "low"}}
{"execute": "block-stream", "arguments": {"device": "low", "job-id": "k"}}
{"execute": "block-stream", "arguments": {"device": "plain", "job-id": "j"}}
{"execute": "block_resize", "arguments": {"node-name": "d0", "size": 16777216}}
{"execute": "block_resize", "arguments": {"node-name": "mid", "size": 16777216}}
{"execute": "block_resize", "arguments": {"node-name": "low", "size": 16777216}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "mid", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s"}}
{"execute": "transaction", "arguments": {"actions": [{"type": "blockdev-snapshot-sync", "data": {"node-name": "d0", "snapshot-node-name": "sn", "snapshot-file": "FOLDER/s"}}]}}
{"execute": "job-complete", "arguments": {"id": "j"}}
{"execute": "block-job-complete", "arguments": {"device": "j"}}
{"execute": "job-finalize", "arguments": {"id": "j"}}
{"execute": "block-job-finalize", "arguments": {"id": "j"}}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
{"execute": "block-job-dismiss", "arguments": {"id": "j"}}
{"execute": "job-resume", "arguments": {"id": "j"}}
{"execute": "block-job-resume", "arguments": {"device": "j"}}
{"execute": "block-job-set-speed", "arguments": {"device": "j", "speed": -1}}
{"execute": "job-pause", "arguments": {"id": "j"}}
{"execute": "job-pause", "arguments": {"id": "j"}}
{"execute": "block-job-pause", "arguments": {"device": "j"}}
until paused
{"execute": "job-complete", "arguments": {"id": "j"}}
{"execute": "block-job-cancel", "arguments": {"device": "j"}}
{"execute": "block-job-set-speed", "arguments": {"device": "j", "speed": 0}}
{"execute": "block-job-resume", "arguments": {"device": "j"}}
until pending
{"execute": "query-block-jobs"}
{"execute": "query-jobs"}
{"execute": "job-pause", "arguments": {"id": "j"}}
{"execute": "job-resume", "arguments": {"id": "j"}}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
{"execute": "job-complete", "arguments": {"id": "j"}}
{"execute": "block-job-set-speed", "arguments": {"device": "j", "speed": 1}}
{"execute": "block_resize", "arguments": {"node-name": "d0", "size": 16777216}}
{"execute": "job-finalize", "arguments": {"id": "j"}}
until concluded
{"execute": "query-block-jobs"}
{"execute": "query-jobs"}
{"execute": "job-finalize", "arguments": {"id": "j"}}
{"execute": "job-cancel", "arguments": {"id": "j"}}
{"execute": "job-pause", "arguments": {"id": "j"}}
{"execute": "job-resume", "arguments": {"id": "j"}}
{"execute": "job-complete", "arguments": {"id": "j"}}
{"execute": "block-job-cancel", "arguments": {"device": "j"}}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
{"execute": "query-jobs"}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
"##,
    )
}

#[test]
fn a_job_that_is_cancelled() -> Result<(), Failure> {
    same(
        r##"
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "speed": 65536}}
until running
{"execute": "block-job-cancel", "arguments": {"device": "j"}}
until gone
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "speed": 65536, "auto-dismiss": false}}
until running
{"execute": "job-pause", "arguments": {"id": "j"}}
until paused
{"execute": "block-job-cancel", "arguments": {"device": "j"}}
{"execute": "block-job-cancel", "arguments": {"device": "j", "force": true}}
until concluded
{"execute": "query-jobs"}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "auto-finalize": false, "auto-dismiss": false}}
until pending
{"execute": "job-cancel", "arguments": {"id": "j"}}
until concluded
{"execute": "query-jobs"}
{"execute": "query-block-jobs"}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
"##,
    )
}

#[test]
fn jobs_one_after_the_other() -> Result<(), Failure> {
    same(
        r##"
{"execute": "block-stream", "arguments": {"device": "plain", "job-id": "p"}}
until gone
{"execute": "block-stream", "arguments": {"device": "mid", "job-id": "m"}}
until gone
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "d", "auto-finalize": false}}
until pending
{"execute": "block-job-finalize", "arguments": {"id": "d"}}
until gone
{"execute": "query-block-jobs"}
"##,
    )
}

/// Plays a script to both programs, over images behind nbdkit that fail with `error` while the script
/// says so: reads of `low` fail, or writes of `d0`.
fn same_with(error: &str, script: &str) -> Result<(), Failure> {
    let reads = error == "EIO";
    let what = if reads { "pread" } else { "pwrite" };
    let play = |is_qemu: bool| -> Result<Said, Failure> {
        let stage = Stage::new()?;
        let low = stage.images.raw("low.img", SIZE, &[(0, SIZE)])?;
        let leaf = stage.path("d0.qcow2");
        let (name, size) = (text(&leaf), SIZE.to_string());
        let create = |backing: &str| -> Result<(), Failure> {
            // QEMU accepts no other backing file by option if one is recorded.
            let made = if is_qemu {
                stage.images.image(&["create", "-f", "qcow2", &name, &size])?
            } else {
                stage.images.image(&["create", "-f", "qcow2", "-b", backing, "-F", "raw", &name])?
            };
            check(made.status.success(), String::from_utf8_lossy(&made.stderr))
        };
        if !reads {
            create(&text(&low))?;
            // An export cannot grow.
            std::fs::File::options().write(true).open(&leaf)?.set_len(4 * SIZE)?;
        }
        let (file, fail) = (text(if reads { &low } else { &leaf }), text(&stage.path("fail")));
        let arguments = [
            "--filter=error",
            "file",
            &file,
            &format!("error-{what}={error}"),
            &format!("error-{what}-rate=100%"),
            &format!("error-file={fail}"),
        ];
        let socket = stage.path("nbd");
        let server = Server::nbdkit(&socket, &arguments)?;
        let uri = server.uri("");
        if reads {
            create(&uri)?;
        }
        if is_qemu {
            let mut low = node(&stage, "low", "raw", None);
            let mut d0 = node(&stage, "d0", "qcow2", None);
            let failing = if reads { &mut low } else { &mut d0 };
            failing["file"] = json!({"driver": "nbd", "server": {"type": "unix", "path": text(&socket)}});
            d0["backing"] = low;
            let (_daemon, mut peer) = Peer::qemu(stage.folder.path(), &[d0])?;
            return peer.play(script);
        }
        let name = if reads { name } else { uri };
        let (vm, mut peer) = Peer::ours(&stage, &[format!("id=d0,file={name},format=qcow2")])?;
        let said = peer.play(script)?;
        let (log, at) = (vm.log(), if reads { "reading" } else { "writing" });
        check(log.contains("job 'j'") && log.contains(at), format!("the log says what failed: {log}"))?;
        vm.quit()?;
        Ok(said)
    };
    let (mut qemu, mut ours) = (play(true)?, play(false)?);
    if !reads {
        // QEMU reports 'read' for all errors of a stream.
        for event in qemu.events.iter_mut().chain(&mut ours.events) {
            event["data"].as_object_mut().map(|data| data.remove("operation"));
        }
    }
    compare(qemu, ours)
}

const REPORTED: &str = r#"
fail on
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "auto-dismiss": false}}
until concluded
{"execute": "query-jobs"}
{"execute": "query-block-jobs"}
fail off
{"execute": "job-dismiss", "arguments": {"id": "j"}}
"#;

const STOPPED: &str = r#"
fail on
{"execute": "block-stream", "arguments": {"device": "d0", "job-id": "j", "on-error": "POLICY", "auto-dismiss": false}}
until paused
{"execute": "query-jobs"}
{"execute": "query-block-jobs"}
{"execute": "block-job-cancel", "arguments": {"device": "j"}}
{"execute": "job-pause", "arguments": {"id": "j"}}
fail off
{"execute": "job-resume", "arguments": {"id": "j"}}
until concluded
{"execute": "query-jobs"}
{"execute": "query-block-jobs"}
{"execute": "job-dismiss", "arguments": {"id": "j"}}
"#;

#[test]
fn errors_that_are_reported_have_the_c_library_s_words() -> Result<(), Failure> {
    for error in ["EIO", "ENOSPC", "EPERM"] {
        same_with(error, REPORTED)?;
    }
    // 'enospc' acts like 'report' for other errors, and 'ignore' leads to the same end.
    for policy in ["enospc", "ignore"] {
        let policy = format!("\"on-error\": \"{policy}\", \"auto-dismiss\"");
        same_with("EIO", &REPORTED.replace("\"auto-dismiss\"", &policy))?;
    }
    Ok(())
}

#[test]
fn errors_that_pause_the_job() -> Result<(), Failure> {
    same_with("EIO", &STOPPED.replace("POLICY", "stop"))?;
    same_with("ENOSPC", &STOPPED.replace("POLICY", "enospc"))
}
