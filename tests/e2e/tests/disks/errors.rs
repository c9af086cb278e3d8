//! Refusals of the 2011 commands: the error class, a text of one line, and nothing changed.

use std::path::Path;
use std::process::Command;

use harness::{Failure, Vm, qemu_img};
use qmp::types::BlockStreamInfo;
use qmp::{Error, ErrorClass};
use serde_json::{Value, json};

use crate::{LONG, MIB, Stage, disk};

/// Returns the command's error. Fails the test if there is none, or another one.
#[track_caller]
fn refused(vm: &mut Vm, command: &str, arguments: Value) -> Error {
    let said = format!("{command} {arguments}");
    match vm.qmp.execute_json(command, arguments) {
        Ok(answer) => panic!("{said}: not refused: {answer}"),
        Err(e) => e.command_error().cloned().unwrap_or_else(|| panic!("{said}: {e}")),
    }
}

#[track_caller]
fn assert_class(vm: &mut Vm, class: ErrorClass, command: &str, arguments: Value) -> String {
    let said = format!("{command} {arguments}");
    let error = refused(vm, command, arguments);
    assert_eq!(error.class, class, "{said}: {error}");
    assert!(!error.desc.is_empty() && !error.desc.contains('\n'), "{said}: {:?}", error.desc);
    error.desc
}

/// The image that the disk runs on, according to `query-block`.
fn running(vm: &mut Vm) -> Result<String, Failure> {
    let drives = vm.qmp.execute(&qmp::command::QueryBlock {})?;
    let inserted = drives.into_iter().next().and_then(|drive| drive.inserted);
    Ok(inserted.ok_or("query-block lists no image")?.file)
}

#[test]
fn an_unknown_device_is_not_found() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    let not_found = ErrorClass::DeviceNotFound;
    for more in [json!({}), json!({"all": true}), json!({"stop": true})] {
        let mut arguments = json!({"device": "virtio7"});
        arguments.as_object_mut().ok_or("an object")?.extend(more.as_object().cloned().unwrap_or_default());
        let desc = assert_class(&mut vm, not_found, "block_stream", arguments);
        assert_eq!(desc, "Device 'virtio7' not found");
    }
    assert_class(&mut vm, not_found, "change", json!({"device": "virtio7", "target": "x"}));
    vm.quit()
}

#[test]
fn an_active_stream_keeps_the_device_to_itself() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(LONG)?;
    let other = stage.images.leaf("other.qcow2", ("leaf.qcow2", "qcow2"))?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    let in_use = ErrorClass::DeviceInUse;
    assert_class(&mut vm, in_use, "block_stream", json!({"device": "virtio0", "all": true}));
    assert_class(&mut vm, in_use, "block_stream", json!({"device": "virtio0"}));
    let change = json!({"device": "virtio0", "target": other.display().to_string(), "format": "qcow2"});
    assert_class(&mut vm, in_use, "change", change);
    vm.stop_stream("virtio0")?;
    // The device is free again.
    vm.stream_one("virtio0")?;
    vm.quit()
}

#[test]
fn stop_without_a_stream_is_not_active() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(4 * MIB)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    let stop = || json!({"device": "virtio0", "stop": true});
    assert_class(&mut vm, ErrorClass::DeviceNotActive, "block_stream", stop());
    vm.stream("virtio0")?;
    vm.stream_completed(harness::STEP)?;
    assert_class(&mut vm, ErrorClass::DeviceNotActive, "block_stream", stop());
    vm.quit()
}

#[test]
fn a_read_only_disk_cannot_be_streamed() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(4 * MIB)?;
    let before = std::fs::read(&leaf)?;
    let drive = format!("id=virtio0,file={},format=qcow2,readonly=on", leaf.display());
    let mut vm = stage.run(&[drive])?;
    assert_class(&mut vm, ErrorClass::NotSupported, "block_stream", json!({"device": "virtio0"}));
    assert_class(
        &mut vm,
        ErrorClass::NotSupported,
        "block_stream",
        json!({"device": "virtio0", "all": true}),
    );
    vm.quit()?;
    assert!(std::fs::read(&leaf)? == before, "the read-only image was written");
    Ok(())
}

#[test]
fn contradictory_arguments_are_refused() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, _, leaf) = stage.base_and_leaf(4 * MIB)?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    let generic = ErrorClass::GenericError;
    let both = json!({"device": "virtio0", "all": true, "stop": true});
    assert_class(&mut vm, generic, "block_stream", both);
    let target = leaf.display().to_string();
    let arguments = json!({"device": "virtio0", "target": target, "arg": "raw", "format": "qcow2"});
    assert_class(&mut vm, generic, "change", arguments);
    assert_eq!(running(&mut vm)?, base.display().to_string());
    let vnc = json!({"device": "vnc", "target": "password", "arg": "secret"});
    assert_eq!(assert_class(&mut vm, generic, "change", vnc), "no VNC server");
    // Both given and equal is not a contradiction, and 'arg' alone gives the format.
    let agreed = json!({"device": "virtio0", "target": target, "arg": "qcow2", "format": "qcow2"});
    vm.qmp.execute_json("change", agreed)?;
    assert_eq!(running(&mut vm)?, target);
    vm.quit()
}

#[test]
fn bad_arguments_are_refused_in_qemus_words() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    for (command, arguments, desc) in [
        ("block_stream", json!({}), "Parameter 'device' is missing"),
        ("block_stream", json!({"device": "virtio0", "base": "x"}), "Parameter 'base' is unexpected"),
        ("change", json!({"device": "virtio0"}), "Parameter 'target' is missing"),
        ("query-block-stream", json!({"device": "virtio0"}), "Parameter 'device' is unexpected"),
    ] {
        assert_eq!(assert_class(&mut vm, ErrorClass::GenericError, command, arguments), desc);
    }
    vm.quit()
}

/// A target that cannot be switched to is refused with its name, and the disk keeps running on its
/// image.
#[test]
fn a_bad_target_is_refused_by_name() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, _, _) = stage.base_and_leaf(4 * MIB)?;
    let images = &stage.images;
    images.raw("other.img", 4 * MIB, &[])?;
    images.raw("larger.img", 5 * MIB, &[])?;
    images.leaf("unrelated.qcow2", ("other.img", "raw"))?;
    images.leaf("backing-raw.qcow2", ("leaf.qcow2", "raw"))?;
    std::fs::create_dir(stage.path("folder"))?;
    std::fs::write(stage.path("text"), "this is no image")?;
    std::fs::write(stage.path("empty"), "")?;
    std::os::unix::fs::symlink("base.img", stage.path("alias.img"))?;
    images.leaf("orphan.qcow2", ("other.img", "raw"))?;
    rebase(&stage.path("orphan.qcow2"), "gone.img", "raw")?;
    images.leaf("loop.qcow2", ("other.img", "raw"))?;
    rebase(&stage.path("loop.qcow2"), "loop.qcow2", "qcow2")?;
    images.leaf("as-qcow2.qcow2", ("base.img", "raw"))?;
    rebase(&stage.path("as-qcow2.qcow2"), "base.img", "qcow2")?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    for (name, format, notify) in [
        ("missing.qcow2", Some("qcow2"), true),
        ("folder/missing/leaf.qcow2", Some("qcow2"), true),
        ("folder", Some("raw"), true),
        ("text", Some("qcow2"), true),
        ("empty", Some("raw"), true),
        ("larger.img", Some("raw"), false),
        ("unrelated.qcow2", None, true),
        ("other.img", None, true),
        ("text", None, true),
        ("base.img", Some("raw"), true),
        ("alias.img", Some("raw"), true),
        ("base.img", None, true),
        ("orphan.qcow2", Some("qcow2"), true),
        ("orphan.qcow2", None, true),
        ("loop.qcow2", Some("qcow2"), true),
        ("as-qcow2.qcow2", Some("qcow2"), true),
        ("as-qcow2.qcow2", None, true),
    ] {
        let target = stage.path(name).display().to_string();
        let mut arguments = json!({"device": "virtio0", "target": target, "notify": notify});
        if let Some(format) = format {
            arguments["format"] = format.into();
        }
        let desc = assert_class(&mut vm, ErrorClass::GenericError, "change", arguments);
        assert!(desc.contains(name), "{name}: not named in: {desc}");
        assert_eq!(running(&mut vm)?, base.display().to_string(), "after {name}");
    }
    for target in ["json:{\"driver\":\"raw\"}", "http://127.0.0.1/x", ""] {
        let arguments = json!({"device": "virtio0", "target": target, "format": "raw"});
        assert_class(&mut vm, ErrorClass::GenericError, "change", arguments);
    }
    let arguments = json!({"device": "virtio0", "target": "other.img", "format": "vmdk"});
    assert!(assert_class(&mut vm, ErrorClass::GenericError, "change", arguments).contains("vmdk"));
    // A good target is still accepted after all these.
    vm.change("virtio0", &stage.path("leaf.qcow2"), None, true)?;
    vm.quit()
}

/// Sets the backing file that an image records, without checking it.
fn rebase(image: &Path, backing: &str, format: &str) -> Result<(), Failure> {
    let mut command = Command::new("qemu-img");
    let output = command.args(["rebase", "-u", "-b", backing, "-F", format]).arg(image).output()?;
    harness::check(output.status.success(), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_image_in_use_is_locked_against_everybody() -> Result<(), Failure> {
    let (stage, other_stage) = (Stage::new()?, Stage::new()?);
    let (_, _, leaf) = stage.base_and_leaf(4 * MIB)?;
    let unrelated = other_stage.images.raw("unrelated.img", 4 * MIB, &[])?;
    let vm = stage.run(&disk(&leaf, "qcow2"))?;
    // QEMU's tools respect the same locks.
    assert!(qemu_img::check("qcow2", &leaf, true).is_err(), "qemu-img checks an image in use");
    let mut other = other_stage.run(&disk(&unrelated, "raw"))?;
    let name = leaf.display().to_string();
    let change = json!({"device": "virtio0", "target": name, "format": "qcow2"});
    let desc = assert_class(&mut other, ErrorClass::GenericError, "change", change.clone());
    assert!(desc.contains("leaf.qcow2"), "{desc}");
    // A backing file of a running disk must not be opened for writing either.
    let base = stage.path("base.img").display().to_string();
    let to_base = json!({"device": "virtio0", "target": base, "format": "raw"});
    let desc = assert_class(&mut other, ErrorClass::GenericError, "change", to_base);
    assert!(desc.contains("base.img"), "{desc}");
    vm.quit()?;
    other.qmp.execute_json("change", change)?;
    other.quit()
}

#[test]
fn without_a_backing_file_there_is_nothing_to_do() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    let whole = BlockStreamInfo { device: "virtio0".into(), len: MIB, offset: MIB, absent: None };
    assert_eq!(vm.stream_one("virtio0")?, whole);
    vm.stream("virtio0")?;
    vm.stream_completed(harness::STEP)?;
    assert_eq!(vm.streams()?, []);
    vm.quit()
}
