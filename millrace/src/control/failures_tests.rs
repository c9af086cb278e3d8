//! Errors in QMP's types.

use super::*;

fn error(action: ErrorAction, write: bool, no_space: bool) -> IoError {
    let (reason, detail) = ("Input/output error".into(), "writing a.img at 0: Input/output error".into());
    IoError { node_name: Some("#block1".into()), write, action, no_space, reason, detail }
}

#[test]
fn events_are_qemu_s() {
    let wire =
        |error, has_io_status| serde_json::to_value(event("virtio0".into(), error, has_io_status)).unwrap();
    let stop = serde_json::json!({
        "qom-path": "", "device": "virtio0", "node-name": "#block1", "operation": "write", "action": "stop", "nospace": true,
        "reason": "Input/output error", "x-reason": "writing a.img at 0: Input/output error",
    });
    assert_eq!(wire(error(ErrorAction::Stop, true, true), true), stop);
    let report = serde_json::json!({
        "qom-path": "", "device": "virtio0", "node-name": "#block1", "operation": "read", "action": "report",
        "reason": "Input/output error", "x-reason": "writing a.img at 0: Input/output error",
    });
    assert_eq!(wire(error(ErrorAction::Report, false, true), false), report);
    assert_eq!(wire(error(ErrorAction::Ignore, true, false), true)["action"], "ignore");
}

#[test]
fn the_first_error_is_the_disk_s_status() {
    assert_eq!(status_after(IoStatus::Ok, false), IoStatus::Failed);
    assert_eq!(status_after(IoStatus::Ok, true), IoStatus::Nospace);
    assert_eq!(status_after(IoStatus::Failed, true), IoStatus::Failed);
    assert_eq!(status_after(IoStatus::Nospace, false), IoStatus::Nospace);
}
