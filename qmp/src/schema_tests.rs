//! Nested structures, lists and enumerations: how they describe themselves and what they refuse.

use serde_json::json;

use super::*;
use crate::types::{BlockStreamInfo, ImageInfo};

qapi_struct! {
    /// A structure.
    struct Outer {
        /// Numbers.
        sizes as "all-sizes": Option<Vec<u64>>,
        /// Others.
        inner: Vec<Inner>,
    }

    /// Another.
    struct Inner {
        /// A choice.
        mode: Mode,
        /// A fraction.
        share: Option<f64>,
    }
}

qapi_enum! {
    /// A choice.
    enum Mode {
        /// One.
        Fast = "fast",
        /// The other.
        Slow = "slow-but-sure",
    }
}

fn refused(value: Value) -> String {
    Outer::parse("", value).unwrap_err().desc
}

#[test]
fn nested_values_are_read() {
    let outer = Outer::parse("", json!({"inner": [{"mode": "slow-but-sure", "share": 1}]})).unwrap();
    assert_eq!(outer, Outer { sizes: None, inner: vec![Inner { mode: Mode::Slow, share: Some(1.0) }] });
}

#[test]
fn errors_tell_the_path() {
    assert_eq!(refused(json!({})), "Parameter 'inner' is missing");
    assert_eq!(refused(json!({"inner": {}})), "Invalid parameter type for 'inner', expected: array");
    assert_eq!(refused(json!({"inner": [1]})), "Invalid parameter type for 'inner[0]', expected: object");
    assert_eq!(refused(json!({"inner": [{}]})), "Parameter 'inner[0].mode' is missing");
    assert_eq!(
        refused(json!({"inner": [{"mode": "quick"}]})),
        "Parameter 'mode' does not accept value 'quick'"
    );
    assert_eq!(refused(json!({"inner": [{"mode": "fast", "x": 1}]})), "Parameter 'inner[0].x' is unexpected");
    assert_eq!(
        refused(json!({"all-sizes": [1, "2"], "inner": []})),
        "Parameter 'all-sizes[1]' expects uint64"
    );
}

#[test]
fn types_describe_themselves() {
    let Type::Object { name, members } = Outer::describe() else { panic!("no object") };
    let members = members();
    assert_eq!((name, members[0].name, members[0].optional), ("Outer", "all-sizes", true));
    assert!(matches!(&members[0].of, Type::Array(of) if matches!(**of, Type::Int)));
    let Type::Object { members, .. } = BlockStreamInfo::describe() else { panic!("no object") };
    assert_eq!(members()[2].doc, "The offset up to which the disk is streamed.");
    // It contains its own type: describing it must not recurse for ever.
    assert!(matches!(ImageInfo::describe(), Type::Object { name: "ImageInfo", .. }));
}
