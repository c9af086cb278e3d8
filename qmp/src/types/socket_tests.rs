//! Both kinds parse and print as QEMU writes them, and mistakes get QEMU's texts.

use serde_json::json;

use super::*;
use crate::schema::Qapi;

#[test]
fn both_kinds_go_through_json() {
    for value in [
        json!({"type": "unix", "data": {"path": "/run/nbd"}}),
        json!({"type": "inet", "data": {"host": "::1", "port": "10809"}}),
    ] {
        let address = SocketAddressLegacy::parse("addr", value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&address).unwrap(), value);
    }
}

#[test]
fn mistakes_are_named() {
    for (value, text) in [
        (json!({"type": "bogus", "data": {}}), "Parameter 'type' does not accept value 'bogus'"),
        (json!({"type": "unix"}), "Parameter 'addr.data' is missing"),
        (
            json!({"type": "inet", "data": {"host": "", "port": 5}}),
            "Invalid parameter type for 'addr.data.port', expected: string",
        ),
        (json!({"type": "unix", "data": {"path": "/x"}, "more": 1}), "Parameter 'addr.more' is unexpected"),
    ] {
        assert_eq!(SocketAddressLegacy::parse("addr", value).unwrap_err().desc, text);
    }
}
