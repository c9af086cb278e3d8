//! Errors in QMP's words.

use super::*;

fn error(action: Action, write: bool, no_space: bool) -> IoError {
    IoError { node_name: Some("#block1".into()), write, action, no_space, reason: "writing a.img: no".into() }
}

#[test]
fn events_are_qemu_s() {
    let wire =
        |error, has_io_status| serde_json::to_value(event("virtio0".into(), error, has_io_status)).unwrap();
    let stop = serde_json::json!({
        "device": "virtio0", "node-name": "#block1", "operation": "write", "action": "stop", "nospace": true,
        "reason": "writing a.img: no",
    });
    assert_eq!(wire(error(Action::Stop, true, true), true), stop);
    let report = serde_json::json!({
        "device": "virtio0", "node-name": "#block1", "operation": "read", "action": "report",
        "reason": "writing a.img: no",
    });
    assert_eq!(wire(error(Action::Report, false, true), false), report);
    assert_eq!(wire(error(Action::Ignore, true, false), true)["action"], "ignore");
}

#[test]
fn the_first_error_is_the_disk_s_status() {
    assert_eq!(status_after(IoStatus::Ok, false), IoStatus::Failed);
    assert_eq!(status_after(IoStatus::Ok, true), IoStatus::Nospace);
    assert_eq!(status_after(IoStatus::Failed, true), IoStatus::Failed);
    assert_eq!(status_after(IoStatus::Nospace, false), IoStatus::Nospace);
}
