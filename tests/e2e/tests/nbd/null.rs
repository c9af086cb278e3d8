//! A disk on `null://SIZE`, whose export others read, write and measure.

use harness::{Failure, Vm, check};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, fails, millrace, run};

/// Runs a monitor command that must fail. Returns the error.
fn refused(vm: &mut Vm, command: &str, arguments: Value) -> Result<String, Failure> {
    match vm.qmp.execute_json(command, arguments) {
        Ok(answer) => Err(format!("{command} succeeded: {answer}").into()),
        Err(error) => Ok(error.to_string()),
    }
}

#[test]
fn a_null_disk_is_zeros_for_everybody_and_never_a_backing_file() -> Result<(), Failure> {
    let rig = Rig::new()?;
    // A name that reaches nothing needs no permission.
    let folder = rig.text("");
    let drive = "id=virtio0,file=null://64G,format=raw".to_owned();
    let mut vm = rig.start_with(&[drive], &["--allow-dir".into(), folder])?;
    rig.start_server(&mut vm, json!({}))?;
    let uri = rig.export(&mut vm, "virtio0", true)?;

    let info: Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])?)?;
    check(info["exports"][0]["export-size"] == 65_536 * MIB, &info)?;
    check(info["exports"][0]["is_read_only"] == false, &info)?;
    let map: Value = serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", "raw", &uri])?)?;
    check(map.as_array().is_some_and(|map| map.iter().all(|run| run["zero"] == true)), &map)?;
    // What is written is gone at once, up to the last byte.
    let commands =
        ["write -P 7 0 1M", "read -P 0 0 1M", "write -P 7 68719475712 1k", "discard 1M 1G", "flush"];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(&uri);
    run("qemu-io", &arguments)?;
    let fio = ["--name=null", "--ioengine=nbd", "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=16M"];
    run("fio", &[&fio[..], &[&format!("--uri={uri}")]].concat())?;

    // No image over it: neither by the monitor nor by the command line.
    let overlay = json!({"device": "virtio0", "snapshot-file": rig.text("overlay"), "format": "qcow2"});
    let error = refused(&mut vm, "blockdev-snapshot-sync", overlay)?;
    check(error.contains("no image may record"), error)?;
    check(!rig.path("overlay").exists(), "the overlay was created")?;
    let program = millrace()?.display().to_string();
    let leaf = rig.text("leaf");
    let over = ["image", "create", "-f", "qcow2", "-b", "null://1G", "-F", "raw", &leaf];
    let error = fails(&program, &over)?;
    check(error.contains("no image may record") && !rig.path("leaf").exists(), error)?;
    // Nor does one that records it, made by somebody else, lead to it.
    run("qemu-img", &["create", "-u", "-f", "qcow2", "-b", "null://1G", "-F", "raw", &leaf, "1G"])?;
    let error = refused(&mut vm, "change", json!({"device": "virtio0", "target": leaf, "format": "qcow2"}))?;
    check(error.contains("no image may record"), error)?;

    let target = json!({"device": "virtio0", "target": "null://1G", "format": "raw"});
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    vm.qmp.execute_json("change", target)?;
    let said = run(&program, &["image", "info", "-f", "raw", "null://1G"])?;
    check(said.contains("1073741824"), said)?;
    vm.quit()
}
