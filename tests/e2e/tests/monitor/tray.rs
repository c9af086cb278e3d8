//! Removable drives.

use harness::Vm;
use harness::{Failure, check};
use serde_json::{Value, json};

use crate::{MIB, Stage, ask, events, refuse, text};

fn drive(vm: &mut Vm) -> Value {
    ask(vm, "query-block", Value::Null)[0].clone()
}

#[test]
fn a_medium_goes_in_and_out() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (one, two) = (stage.images.raw("1.iso", MIB, &[])?, stage.images.raw("2.iso", 2 * MIB, &[])?);
    let mut vm = stage.run(&[], &["--cdrom", "id=cd0"])?;
    let empty = drive(&mut vm);
    assert_eq!(
        (&empty["removable"], &empty["locked"], &empty["tray_open"]),
        (&json!(true), &json!(false), &json!(false))
    );
    check(empty.get("inserted").is_none(), &empty)?;
    assert_eq!(ask(&mut vm, "query-named-block-nodes", Value::Null), json!([]));
    ask(&mut vm, "change", json!({"device": "cd0", "target": text(&one)}));
    let full = drive(&mut vm);
    assert_eq!((&full["inserted"]["file"], &full["inserted"]["ro"]), (&json!(text(&one)), &json!(true)));
    assert_eq!(full["tray_open"], false);
    let moves = |vm: &mut Vm| -> Vec<Value> {
        events(vm, "DEVICE_TRAY_MOVED").into_iter().map(|data| data["tray-open"].clone()).collect()
    };
    assert_eq!(moves(&mut vm), [true, false]);
    // The guest is not notified, so the tray does not move.
    ask(&mut vm, "change", json!({"device": "cd0", "target": text(&two), "notify": false}));
    assert_eq!(drive(&mut vm)["inserted"]["image"]["virtual-size"], 2 * MIB);
    check(moves(&mut vm).is_empty(), "without notify the tray does not move")?;
    ask(&mut vm, "blockdev-open-tray", json!({"id": "cd0"}));
    ask(&mut vm, "blockdev-open-tray", json!({"device": "cd0"}));
    let open = drive(&mut vm);
    assert_eq!((&open["tray_open"], &open["inserted"]["file"]), (&json!(true), &json!(text(&two))));
    ask(&mut vm, "blockdev-close-tray", json!({"id": "cd0"}));
    assert_eq!(moves(&mut vm), [true, false]);
    ask(&mut vm, "eject", json!({"device": "cd0"}));
    ask(&mut vm, "eject", json!({"device": "cd0", "force": true}));
    let out = drive(&mut vm);
    check(out["tray_open"] == true && out.get("inserted").is_none(), &out)?;
    let arguments =
        json!({"id": "cd0", "filename": text(&one), "format": "raw", "read-only-mode": "read-only"});
    ask(&mut vm, "blockdev-change-medium", arguments);
    let again = drive(&mut vm);
    assert_eq!((&again["tray_open"], &again["inserted"]["file"]), (&json!(false), &json!(text(&one))));
    vm.quit()
}

#[test]
fn wrong_media_and_wrong_drives_are_refused() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", MIB, &[])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    let iso = stage.images.raw("1.iso", MIB, &[])?;
    let mut vm =
        stage.run(&[stage.disk("virtio0", MIB)?], &["--cdrom", &format!("id=cd0,file={}", iso.display())])?;
    for command in ["eject", "blockdev-open-tray", "blockdev-close-tray"] {
        let desc = "Device 'virtio0' is not removable";
        refuse(&mut vm, command, json!({"device": "virtio0"}), "GenericError", desc);
        refuse(&mut vm, command, json!({"device": "no"}), "DeviceNotFound", "Device 'no' not found");
        refuse(&mut vm, command, json!({}), "GenericError", "Need exactly one of 'device' and 'id'");
    }
    // A guest may have written the header, so it is not used to detect the format, nor taken for raw.
    let desc = format!("{}: give a format: it looks like qcow2", leaf.display());
    refuse(&mut vm, "change", json!({"device": "cd0", "target": text(&leaf)}), "GenericError", &desc);
    let missing =
        vm.qmp.execute_json("change", json!({"device": "cd0", "target": text(&stage.path("none.iso"))}));
    check(missing.is_err(), "a missing medium is refused")?;
    let arguments = json!({"id": "cd0", "filename": text(&iso), "read-only-mode": "read-write"});
    refuse(&mut vm, "blockdev-change-medium", arguments, "GenericError", "Device 'cd0' is read-only");
    // After all these, the first medium is still in the drive, and the tray did not move.
    assert_eq!(ask(&mut vm, "query-block", Value::Null)[1]["inserted"]["file"], text(&iso));
    check(events(&mut vm, "DEVICE_TRAY_MOVED").is_empty(), "the tray did not move")?;
    ask(&mut vm, "change", json!({"device": "cd0", "target": text(&leaf), "format": "qcow2"}));
    assert_eq!(ask(&mut vm, "query-block", Value::Null)[1]["inserted"]["backing_file_depth"], 1);
    vm.quit()
}
