//! The same wrong requests to us and to QEMU's storage daemon: the same classes and texts.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::{Failure, STEP, check};

use crate::{MIB, Stage, text};

/// QEMU's storage daemon, killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection to either.
struct Wire {
    socket: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Wire {
    fn connect(path: &Path) -> Result<Self, Failure> {
        tests::wait_for("the monitor", STEP, || Ok(UnixStream::connect(path).is_ok()))?;
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(STEP))?;
        let mut wire = Wire { lines: BufReader::new(socket.try_clone()?).lines(), socket };
        wire.answer()?;
        check(wire.ask("{'execute': 'qmp_capabilities'}")?.get("return").is_some(), "the negotiation ends")?;
        Ok(wire)
    }

    /// The next message that is no event.
    fn answer(&mut self) -> Result<Value, Failure> {
        loop {
            let message: Value = serde_json::from_str(&self.lines.next().ok_or("the connection ended")??)?;
            if message.get("event").is_none() {
                return Ok(message);
            }
        }
    }

    fn ask(&mut self, request: &str) -> Result<Value, Failure> {
        writeln!(self.socket, "{request}")?;
        self.answer()
    }
}

/// Requests that both refuse. `FOLDER` is the stage's.
const WRONG: &str = r#"
{"execute": 7}
{"execute": "query-version", "extra": 1}
{"execute": "query-version", "arguments": []}
{"arguments": {}}
[1]
{"execute": "no-such-command"}
{"execute": "query-jobs", "arguments": {"x": 1}}
{"execute": "qmp_capabilities"}
{"execute": "block_resize", "arguments": {"size": 1024}}
{"execute": "block_resize", "arguments": {"device": "none", "size": 1024}}
{"execute": "block_resize", "arguments": {"node-name": "none", "size": 1024}}
{"execute": "block_resize", "arguments": {"device": 1, "size": 1024}}
{"execute": "block_resize", "arguments": {"device": "none", "size": "much"}}
{"execute": "block_resize", "arguments": {"device": "none"}}
{"execute": "blockdev-snapshot-sync", "arguments": {}}
{"execute": "blockdev-snapshot-sync", "arguments": {"device": "none", "snapshot-file": "x"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "none", "snapshot-file": "x"}}
{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "none", "snapshot-file": "x", "mode": "bad"}}
{"execute": "transaction"}
{"execute": "transaction", "arguments": {"actions": {}}}
{"execute": "transaction", "arguments": {"actions": [1]}}
{"execute": "transaction", "arguments": {"actions": [{}]}}
{"execute": "transaction", "arguments": {"actions": [{"type": "foo"}]}}
{"execute": "transaction", "arguments": {"actions": [{"type": "abort"}]}}
{"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {}}]}}
{"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {"x": 1}}]}}
{"execute": "transaction", "arguments": {"actions": [{"type": "blockdev-snapshot-sync", "data": {}}]}}
{"execute": "block-job-set-speed", "arguments": {"device": "none"}}
{"execute": "nbd-server-stop"}
{"execute": "nbd-server-add", "arguments": {"device": "virtio0"}}
{"execute": "nbd-server-remove", "arguments": {"name": "none"}}
{"execute": "nbd-server-start"}
{"execute": "nbd-server-start", "arguments": {"addr": {"type": "pigeon", "data": {}}}}
{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {}}}}
{"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e"}}
{"execute": "block-export-del", "arguments": {"id": "none"}}
"#;

#[test]
fn wrong_requests_get_qemus_answers() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let other = stage.images.raw("other.img", MIB, &[])?;
    let socket = stage.path("daemon");
    let daemon = Command::new("qemu-storage-daemon")
        .args(["--chardev", &format!("socket,path={},server=on,wait=off,id=c", socket.display())])
        .args(["--monitor", "chardev=c"])
        .args(["--blockdev", &format!("driver=file,filename={},node-name=f0", text(&other))])
        .args(["--blockdev", "driver=raw,file=f0,node-name=virtio0"])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("qemu-storage-daemon: {e}: install the package qemu-utils"))?;
    let _daemon = Daemon(daemon);
    let (mut ours, mut qemus) = (Wire::connect(&stage.path("qmp"))?, Wire::connect(&socket)?);
    let mut differ = Vec::new();
    for request in WRONG.lines().filter(|line| !line.is_empty()) {
        let (our, qemu) = (ours.ask(request)?, qemus.ask(request)?);
        check(qemu.get("error").is_some(), format!("QEMU refuses {request}: {qemu}"))?;
        if our != qemu {
            differ.push(format!("{request}\n  ours   {our}\n  QEMU's {qemu}"));
        }
    }
    check(differ.is_empty(), format!("the same answers:\n{}", differ.join("\n")))?;
    vm.quit()
}
