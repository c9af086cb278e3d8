//! The same invalid requests to our program and to QEMU's storage daemon must have the same classes and
//! texts.

use harness::servers::StorageDaemon;
use harness::{Failure, check};
use serde_json::json;

use crate::wire::Wire;
use crate::{MIB, Stage, text};

/// Requests that both programs refuse.
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
{"execute": "transaction", "arguments": {"actions": [], "properties": {"completion-mode": "some"}}}
{"execute": "transaction", "arguments": {"actions": [], "properties": {"x": 1}}}
{"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {}}], "properties": {"completion-mode": "grouped"}}}
{"execute": "block-job-set-speed", "arguments": {"device": "none"}}
{"execute": "nbd-server-stop"}
{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {"path": "x"}}, "max-connections": -1}}
{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {"path": "x"}}, "handshake-max-seconds": 5000000000}}
{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {"path": "x"}}, "tls-creds": "none"}}
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
    let file = json!({"driver": "file", "filename": text(&other)});
    let node = json!({"driver": "raw", "node-name": "virtio0", "file": file}).to_string();
    let (_daemon, mut qemus) = StorageDaemon::start(&stage.path("daemon"), &[node], Wire::connect)?;
    let mut ours = Wire::connect(&stage.path("qmp"))?;
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
