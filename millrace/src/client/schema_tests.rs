//! The conversion of words to arguments.

use serde_json::json;

use super::*;

fn schema() -> Schema {
    let entries = json!([
        {"name": "resize", "meta-type": "command", "arg-type": "1", "ret-type": "2", "allow-oob": false},
        {"name": "1", "meta-type": "object", "members": [
            {"name": "device", "type": "str"},
            {"name": "size", "type": "int", "default": null},
            {"name": "force", "type": "bool", "default": null},
            {"name": "mode", "type": "3", "default": null},
            {"name": "at", "type": "4", "default": null},
            {"name": "list", "type": "[int]", "default": null},
        ]},
        {"name": "3", "meta-type": "enum", "values": ["a", "b"]},
        {"name": "4", "meta-type": "object", "members": [{"name": "path", "type": "str"}]},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
        {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
        {"name": "[int]", "meta-type": "array", "element-type": "int"},
    ]);
    let entries = entries.as_array().unwrap().iter();
    let entries = entries.map(|entry| serde_json::from_value::<SchemaInfo>(entry.clone()).unwrap());
    Schema(entries.map(|entry| (entry.name.clone(), entry)).collect())
}

fn arguments(pairs: &[&str]) -> Result<Value, Failure> {
    let pairs: Vec<_> = pairs.iter().map(|&pair| pair.to_owned()).collect();
    schema().arguments("resize", &pairs)
}

#[test]
fn words_take_the_type_that_the_server_wants() {
    let all = ["device=17", "size=1G", "force=on", "mode=a", "at.path=/x=y", "list=[1, 2]"];
    let object = json!({
        "device": "17", "size": 1 << 30, "force": true, "mode": "a", "at": {"path": "/x=y"}, "list": [1, 2]
    });
    assert_eq!(arguments(&all), Ok(object));
    assert_eq!(arguments(&[]), Ok(json!({})));
    // The server refuses what it does not know.
    assert_eq!(arguments(&["colour=red", "depth=3"]), Ok(json!({"colour": "red", "depth": 3})));
}

#[test]
fn words_that_cannot_be_are_refused() {
    for (pair, says) in [
        ("device", "KEY=VALUE"),
        ("size=much", "a number"),
        ("force=perhaps", "true or false"),
        ("list=1,2", "JSON"),
    ] {
        let error = arguments(&[pair]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    assert!(arguments(&["device=a", "device.b=c"]).is_err());
}
