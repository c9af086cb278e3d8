//! Commands are read strictly, with QEMU's words.

use serde_json::json;

use super::*;
use crate::error::ErrorClass;

fn parse(name: &str, arguments: Value) -> Result<Command> {
    Command::parse(name, arguments.as_object().unwrap().clone())
}

fn refused(name: &str, arguments: Value) -> String {
    let e = parse(name, arguments).unwrap_err();
    assert_eq!(e.class, ErrorClass::GenericError);
    e.desc
}

#[test]
fn arguments_become_fields() {
    let expected = BlockStream { device: "virtio0".into(), all: Some(true), stop: None, offset: None };
    let command = parse("block_stream", json!({"device": "virtio0", "all": true})).unwrap();
    assert_eq!(command, expected.clone().into());
    assert_eq!(to_value(&expected), json!({"device": "virtio0", "all": true}));
    let expected = HumanMonitorCommand { command_line: "info".into(), cpu_index: None };
    assert_eq!(to_value(&expected), json!({"command-line": "info"}));
}

#[test]
fn wrong_arguments_are_named() {
    assert_eq!(refused("block_stream", json!({})), "Parameter 'device' is missing");
    assert_eq!(
        refused("block_stream", json!({"device": 1})),
        "Invalid parameter type for 'device', expected: string"
    );
    assert_eq!(
        refused("block_stream", json!({"device": "a", "all": "on"})),
        "Invalid parameter type for 'all', expected: boolean"
    );
    // JSON null does not count as an absent member.
    assert_eq!(
        refused("block_stream", json!({"device": "a", "all": null})),
        "Invalid parameter type for 'all', expected: boolean"
    );
    assert_eq!(
        refused("block_resize", json!({"size": 1.5})),
        "Invalid parameter type for 'size', expected: integer"
    );
    assert_eq!(
        refused("block_resize", json!({"size": u64::MAX})),
        "Invalid parameter type for 'size', expected: integer"
    );
    assert_eq!(refused("stop", json!({"now": true})), "Parameter 'now' is unexpected");
    assert_eq!(
        refused("qmp_capabilities", json!({"enable": ["x"]})),
        "Parameter 'null' does not accept value 'x'"
    );
}

#[test]
fn an_unknown_command_has_a_class_of_its_own() {
    let e = parse("block-strm", json!({})).unwrap_err();
    assert_eq!(e, Error::command_not_found("The command block-strm has not been found"));
}

#[test]
fn every_command_is_described_once() {
    let all: Vec<_> = commands().collect();
    for (index, info) in all.iter().enumerate() {
        assert!(!info.doc.is_empty(), "{}", info.name);
        assert!(all[..index].iter().all(|other| other.name != info.name), "{}", info.name);
        let Type::Object { members, .. } = (info.arguments)() else { panic!("{}", info.name) };
        assert!(members().iter().all(|member| !member.doc.is_empty()), "{}", info.name);
        (info.answer)();
    }
}
