//! Figures that clients draw of a disk: its map, which equals that of `qemu-img map`, its latencies, and the
//! requests around a switch.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::images::drive;
use harness::{Failure, STEP, Vm, check, wait_for};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, refuse, text};

const CELL: u64 = 64 << 10;
const SIZE: u64 = 48 * MIB;

/// The bytes of the disk's cells, as a client keeps them.
struct Map {
    generation: u64,
    cells: Vec<u8>,
}

fn number(value: &Value, member: &str) -> u64 {
    value[member].as_u64().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// Reads a number in groups of seven bits.
fn leb128(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return Some(value);
        }
    }
}

impl Map {
    /// Asks for what has changed since the last question, or for all.
    fn follow(vm: &mut Vm, old: Option<Map>) -> Result<Map, Failure> {
        let mut arguments = json!({"device": "disk"});
        if let Some(old) = &old {
            arguments["since"] = json!(old.generation);
        }
        let answer = ask(vm, "x-query-block-map", arguments);
        check(answer["next"].is_null() && number(&answer, "cell-size") == CELL, &answer)?;
        let mut cells = old.map_or(Vec::new(), |old| old.cells);
        cells.resize(number(&answer, "total-cells") as usize, 0);
        let mut bytes = STANDARD.decode(answer["runs"].as_str().ok_or("no runs")?)?.into_iter();
        let mut at = 0;
        while let Some(gap) = leb128(&mut bytes) {
            let (Some(len), Some(byte)) = (leb128(&mut bytes), bytes.next()) else {
                return Err("half a run".into());
            };
            cells[at + gap as usize..at + (gap + len) as usize].fill(byte);
            at += (gap + len) as usize;
        }
        Ok(Map { generation: number(&answer, "generation"), cells })
    }

    /// Compares each cell with the map of QEMU's program, which reads the file.
    fn equals_qemus(&self, stage: &Stage, leaf: &str) -> Result<(), Failure> {
        let map = ["map", "-U", "--output=json", "-f", "qcow2", leaf];
        let output = Command::new("qemu-img").args(map).current_dir(stage.folder.path()).output()?;
        check(output.status.success(), String::from_utf8_lossy(&output.stderr))?;
        let runs: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        check(self.cells.len() as u64 == SIZE / CELL, "the number of cells")?;
        for (cell, byte) in self.cells.iter().enumerate() {
            let at = cell as u64 * CELL;
            let inside = |run: &&Value| {
                let start = number(run, "start");
                start < at + CELL && at < start + number(run, "length")
            };
            let own = |member: &'static str| {
                let all = runs.iter().filter(inside).filter(|run| number(run, "depth") == 0);
                all.filter(|run| run[member] == true).count()
            };
            let behind =
                runs.iter().filter(inside).map(|run| number(run, "depth")).filter(|depth| *depth > 0);
            let (data, zero, behind) = (own("data") > 0, own("zero") > 0, behind.min());
            // A cluster of subclusters may have several states.
            let same = match (byte & 7, u64::from(byte >> 3)) {
                (1, depth) => !data && !zero && behind == Some(depth),
                (2, share) => !data && zero && (share == 31) == behind.is_none(),
                (3 | 5, share) => data && (share == 31) == behind.is_none(),
                _ => false,
            };
            check(same, format!("cell {cell} is {byte:#x}, and qemu-img has {data} {zero} {behind:?}"))?;
        }
        Ok(())
    }
}

/// Runs `qemu-io` with these commands on the disk's export.
fn write(socket: &str, commands: &[&str]) -> Result<(), Failure> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let uri = format!("nbd+unix:///disk?socket={socket}");
    let output = Command::new("qemu-io").args(["-f", "raw"]).args(commands).arg(uri).output()?;
    check(output.status.success(), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_map_equals_qemus_during_and_after_a_stream() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", SIZE, &[(0, 20 * MIB), (30 * MIB, 3 * MIB), (40 * MIB, 8 * MIB)])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    let mut vm = stage.run(&[drive("disk", &leaf, "qcow2")], &[])?;
    let socket = text(&stage.path("nbd"));
    ask(&mut vm, "nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}));
    ask(&mut vm, "nbd-server-add", json!({"device": "disk", "writable": true}));
    let mut map = Map::follow(&mut vm, None)?;
    map.equals_qemus(&stage, "leaf.qcow2")?;
    write(
        &socket,
        &["write -P 5 1M 192k", "write -z 8M 1M", "write -P 6 9000k 4k", "write -P 7 33M 64k", "flush"],
    )?;
    map = Map::follow(&mut vm, Some(map))?;
    assert_eq!(map.cells[16..19], [5 | 31 << 3; 3], "written by a client");
    map.equals_qemus(&stage, "leaf.qcow2")?;

    ask(&mut vm, "block-stream", json!({"device": "disk", "job-id": "j", "speed": 8 * MIB}));
    let absent = |map: &Map| map.cells.iter().filter(|byte| **byte & 7 == 1).count();
    let before = absent(&map);
    let mut last = Some(map);
    wait_for("a part of the stream", STEP, || {
        let map = Map::follow(&mut vm, last.take())?;
        let is_midway = absent(&map) + 40 < before;
        last = Some(map);
        Ok(is_midway)
    })?;
    ask(&mut vm, "block-job-pause", json!({"device": "j"}));
    wait_for("the pause", STEP, || Ok(ask(&mut vm, "query-jobs", Value::Null)[0]["status"] == "paused"))?;
    write(&socket, &["write -P 8 47M 128k", "flush"])?;
    map = Map::follow(&mut vm, last)?;
    assert!(absent(&map) > 0, "the stream is over already");
    map.equals_qemus(&stage, "leaf.qcow2")?;

    ask(&mut vm, "block-job-set-speed", json!({"device": "j", "speed": 0}));
    ask(&mut vm, "block-job-resume", json!({"device": "j"}));
    wait_for("the stream's end", STEP, || Ok(ask(&mut vm, "query-jobs", Value::Null) == json!([])))?;
    map = Map::follow(&mut vm, Some(map))?;
    assert_eq!(absent(&map), 0);
    map.equals_qemus(&stage, "leaf.qcow2")?;
    let whole = Map::follow(&mut vm, None)?;
    assert_eq!(whole.cells, map.cells, "who followed the changes has everything");
    vm.quit()
}

#[test]
fn latencies_and_the_requests_around_a_switch() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("disk", 4 * MIB)?], &[])?;
    assert_eq!(ask(&mut vm, "query-chardev", Value::Null), json!([]), "there is no guest");
    let none = ask(&mut vm, "x-query-flight", json!({"device": "disk"}));
    assert_eq!((&none["switch"], &none["requests"]), (&json!(0), &json!([])));
    let socket = text(&stage.path("nbd"));
    ask(&mut vm, "nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}));
    ask(&mut vm, "nbd-server-add", json!({"device": "disk", "writable": true}));
    write(&socket, &["write 64k 4k", "read 1M 64k", "flush"])?;
    let snapshot = json!({"device": "disk", "snapshot-file": stage.path("over.qcow2")});
    ask(&mut vm, "blockdev-snapshot-sync", snapshot);
    write(&socket, &["write 128k 8k"])?;
    // An interval is closed when its time is over.
    let mut written = 0;
    wait_for("the intervals", STEP, || {
        let latency = ask(&mut vm, "x-query-latency", json!({"device": "disk"}));
        let intervals = latency["intervals"].as_array().ok_or("no intervals")?;
        written = intervals.iter().filter_map(|interval| interval["write"]["bytes"].as_u64()).sum();
        let gate: u64 = intervals.iter().filter_map(|interval| interval["gate-closed"].as_u64()).sum();
        Ok(written == 12 << 10 && gate > 0)
    })?;
    let latency = ask(&mut vm, "x-query-latency", json!({"device": "disk"}));
    let later = ask(&mut vm, "x-query-latency", json!({"device": "disk", "since": latency["next"]}));
    assert_eq!(later["intervals"], json!([]));
    let flight = ask(&mut vm, "x-query-flight", json!({"device": "disk"}));
    assert_eq!((number(&flight, "switch"), number(&flight, "around")), (1, 50_000_000));
    let requests = flight["requests"].as_array().ok_or("no requests")?;
    assert_eq!(requests.len() as u64, number(&flight, "total"));
    for command in ["x-query-block-map", "x-query-latency", "x-query-flight"] {
        refuse(&mut vm, command, json!({"device": "none"}), "DeviceNotFound", "Device 'none' not found");
    }
    let wrong = json!({"device": "disk", "cell-size": 1000});
    let text = "cell-size 1000 is not a power of two of at least 512";
    refuse(&mut vm, "x-query-block-map", wrong, "GenericError", text);
    vm.quit()
}
