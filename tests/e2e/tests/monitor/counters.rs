//! The counters that the program reports.

use harness::{Failure, STEP, check};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, text};

#[test]
fn counters_tell_what_a_stream_copied() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 8 * MIB)?], &[])?;
    let before = ask(&mut vm, "query-blockstats", Value::Null);
    assert_eq!(before[0]["device"], "virtio0");
    let stats = &before[0]["stats"];
    for key in ["rd_bytes", "wr_operations", "flush_total_time_ns", "failed_unmap_operations", "wr_merged"] {
        assert_eq!(stats[key], 0, "{key}");
    }
    assert!(stats.get("idle_time_ns").is_none(), "idle without a request: {stats}");
    let bins = |histogram: &Value| histogram["bins"].as_array().map_or(0, Vec::len);
    let histogram = &stats["rd_latency_histogram"];
    assert_eq!(bins(histogram), histogram["boundaries"].as_array().map_or(0, Vec::len) + 1);
    let target = text(&stage.path("copy.qcow2"));
    ask(&mut vm, "x-live-copy", json!({"device": "virtio0", "target": target, "format": "qcow2"}));
    vm.stream_completed(STEP)?;
    let after = ask(&mut vm, "query-blockstats", Value::Null);
    let copied = &after[0]["stats"]["x-copied"];
    let sum: u64 = ["copied", "offloaded"].iter().filter_map(|key| copied[key].as_u64()).sum();
    check(sum == 8 * MIB, copied)?;
    let nodes = ask(&mut vm, "query-blockstats", json!({"query-nodes": true}));
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
    vm.quit()
}

#[test]
fn the_schema_knows_every_command() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[], &[])?;
    let schema = ask(&mut vm, "query-qmp-schema", Value::Null);
    let schema = schema.as_array().ok_or("no list")?;
    let commands = ask(&mut vm, "query-commands", Value::Null);
    for command in commands.as_array().ok_or("no list")? {
        let entry = schema.iter().find(|entry| entry["name"] == command["name"]);
        check(entry.is_some_and(|entry| entry["meta-type"] == "command"), command)?;
    }
    vm.quit()
}
