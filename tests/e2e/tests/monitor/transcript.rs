//! The examples of 2011, as they were written.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use harness::images::drive;
use harness::{Failure, STEP, qemu_img};
use serde_json::Value;

use crate::Stage;

const SIZE: u64 = 10 << 30;

/// `->` lines are sent; the replies must match the `<-` lines.
const TRANSCRIPT: &str = r#"
<- {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": "*"}, "capabilities": []}}
-> {"execute": "qmp_capabilities"}
<- {"return": {}}
-> { "execute": "query-block-stream" }
<- { "return": [] }
-> { "execute": "block_stream", "arguments": { "device": "virtio0" } }
<- { "return": { "device": "virtio0", "len": 10737418240, "offset": 512 } }
-> { "execute": "block_stream", "arguments": { "device": "virtio0" } }
<- { "return": { "device": "virtio0", "len": 10737418240, "offset": 1024 } }
-> { "execute": "block_stream", "arguments": { "all": true, "device": "virtio0" } }
<- { "return": {} }
-> { "execute": "block-job-set-speed", "arguments": { "device": "virtio0", "speed": 1 } }
<- { "return": {} }
-> { "execute": "query-block-stream" }
<- { "return": [ { "device": "virtio0", "len": 10737418240, "offset": "*" } ] }
-> { "execute": "block_stream", "arguments": { "all": true, "device": "virtio0" } }
<- { "error": { "class": "DeviceInUse", "desc": "*" } }
-> { "execute": "block_stream", "arguments": { "stop": true, "device": "virtio0" } }
<- { "return": {} }
-> { "execute": "block_stream", "arguments": { "stop": true, "device": "virtio0" } }
<- { "error": { "class": "DeviceNotActive", "desc": "*" } }
-> { "execute": "query-block-stream" }
<- { "return": [] }
-> { "execute": "block_stream", "arguments": { "device": "virtio7" } }
<- { "error": { "class": "DeviceNotFound", "desc": "Device 'virtio7' not found" } }
-> { "execute": "block_stream", "arguments": { "device": "ide1-cd0" } }
<- { "error": { "class": "NotSupported", "desc": "*" } }
-> { "execute": "change", "arguments": { "device": "ide1-cd0", "target": "Fedora-12-x86_64-DVD.iso" } }
<- { "return": {} }
-> { "execute": "change", "arguments": { "device": "virtio-blk0", "target": "vm_1.img", "notify": false } }
<- { "return": {} }
-> { "execute": "change", "arguments": { "device": "vnc", "target": "password", "arg": "foobar1" } }
<- { "error": { "class": "GenericError", "desc": "no VNC server" } }
"#;

/// Returns true if a reply is the expected one; `"*"` stands for anything.
fn matches(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(any), _) if any == "*" => true,
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(key, value)| got.get(key).is_some_and(|got| matches(value, got)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(a, b)| matches(a, b))
        }
        _ => expected == got,
    }
}

#[test]
fn the_examples_of_2011_word_for_word() -> Result<(), Failure> {
    let stage = Stage::new()?;
    // A base with data at its start, which is copied at once, and enough of it that a stream takes some
    // time.
    stage.images.raw("base.img", SIZE, &[(0, 32 << 20)])?;
    let leaf = stage.path("leaf.qcow2");
    let small = "cluster_size=512,extended_l2=off";
    let created = stage.images.image(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.img",
        "-F",
        "raw",
        "-o",
        small,
        "leaf.qcow2",
    ])?;
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let running = stage.images.raw("vm_0.img", 1 << 20, &[(0, 1 << 20)])?;
    stage.images.leaf("vm_1.img", ("vm_0.img", "raw"))?;
    stage.images.raw("Fedora-12-x86_64-DVD.iso", 4 << 20, &[(32768, 4096)])?;
    let drives = [drive("virtio0", &leaf, "qcow2"), drive("virtio-blk0", &running, "raw")];
    let vm = stage.run(&drives, &["--cdrom", "id=ide1-cd0"])?;

    let mut socket = UnixStream::connect(stage.path("qmp"))?;
    socket.set_read_timeout(Some(STEP))?;
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    // File names are relative in the examples; here the files are in the stage's folder.
    let folder = format!("\"target\": \"{}/", stage.folder.path().display());
    for line in TRANSCRIPT.lines().filter(|line| !line.is_empty()) {
        let (direction, message) = line.split_at(3);
        if direction == "-> " {
            let is_file = !message.contains("\"password\"");
            let message =
                if is_file { message.replace("\"target\": \"", &folder) } else { message.to_owned() };
            writeln!(socket, "{message}")?;
            continue;
        }
        let expected: Value = serde_json::from_str(message)?;
        let deadline = Instant::now() + STEP;
        let got = loop {
            assert!(Instant::now() < deadline, "no answer: {line}");
            let got: Value = serde_json::from_str(&lines.next().ok_or("the connection ended")??)?;
            if got.get("event").is_none() {
                break got;
            }
        };
        assert!(matches(&expected, &got), "expected {expected}, got {got}");
    }
    vm.quit()?;
    qemu_img::check("qcow2", &leaf, true)
}
