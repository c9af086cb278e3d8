//! Nodes as clients write them.

use serde_json::json;

use super::*;

#[test]
fn a_node_has_its_file_by_name_or_inside() {
    let file = |value| BlockdevRef::parse("file", value);
    assert_eq!(file(json!("f")).unwrap(), BlockdevRef::Name("f".into()));
    let inner = json!({"driver": "file", "filename": "/x", "node-name": "f"});
    let BlockdevRef::New(new) = file(inner.clone()).unwrap() else { panic!("a name") };
    assert_eq!((new.driver, new.filename.as_deref()), (BlockdevDriver::File, Some("/x")));
    assert_eq!(serde_json::to_value(file(inner.clone()).unwrap()).unwrap(), inner);
    let error = |value| file(value).unwrap_err().desc;
    assert_eq!(error(json!(1)), "Invalid parameter type for 'file', expected: BlockdevRef");
    assert_eq!(error(json!({"driver": "file", "x": 1})), "Parameter 'file.x' is unexpected");
}

#[test]
fn null_is_no_backing_file_and_not_an_argument_left_out() {
    let add = |backing| BlockdevAdd::parse("", json!({"driver": "qcow2", "backing": backing})).unwrap();
    let none = add(Value::Null);
    assert_eq!(none.backing, Some(BlockdevRefOrNull::Null));
    assert_eq!(serde_json::to_value(&none).unwrap(), json!({"driver": "qcow2", "backing": null}));
    assert!(matches!(add(json!("b")).backing, Some(BlockdevRefOrNull::Node(BlockdevRef::Name(_)))));
    assert_eq!(BlockdevAdd::parse("", json!({"driver": "qcow2"})).unwrap().backing, None);
}
