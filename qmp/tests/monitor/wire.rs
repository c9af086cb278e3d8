//! The protocol byte by byte, against a fake machine: the answers are those of QEMU 10.0.

use crate::common::Server;
use serde_json::{Value, json};

fn error(class: &str, desc: &str) -> Value {
    json!({"error": {"class": class, "desc": desc}})
}

#[test]
fn capabilities_come_first_and_once() {
    let server = Server::start();
    let mut wire = server.connect();
    let expecting = error("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'");
    assert_eq!(wire.ask(json!({"execute": "query-status"})), expecting);
    assert_eq!(wire.ask(json!({"execute": "no-such"})), expecting);
    assert_eq!(
        wire.ask(json!({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})),
        error("GenericError", "Capability oob not available")
    );
    assert_eq!(wire.ask(json!({"execute": "query-status"})), expecting);
    assert_eq!(
        wire.ask(json!({"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": 1})),
        json!({"return": {}, "id": 1})
    );
    assert_eq!(
        wire.ask(json!({"execute": "qmp_capabilities"})),
        error("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
    );
}

#[test]
fn malformed_requests_are_told_apart() {
    let server = Server::start();
    let mut wire = server.negotiated();
    for (request, desc) in [
        (json!(null), "QMP input must be a JSON object"),
        (json!([]), "QMP input must be a JSON object"),
        (json!({}), "QMP input lacks member 'execute'"),
        (json!({"execute": 1}), "QMP input member 'execute' must be a string"),
        (json!({"execute": "stop", "arguments": []}), "QMP input member 'arguments' must be an object"),
        (json!({"execute": "stop", "extra": 1}), "QMP input member 'extra' is unexpected"),
        (json!({"exec-oob": "stop"}), "QMP input member 'exec-oob' is unexpected"),
        (json!({"execute": "block_stream"}), "Parameter 'device' is missing"),
        (json!({"execute": "stop", "arguments": {"x": 1}}), "Parameter 'x' is unexpected"),
    ] {
        wire.send(format!("{request}\n"));
        assert_eq!(wire.receive(), error("GenericError", desc), "{request}");
    }
    assert_eq!(
        wire.ask(json!({"execute": "no-such"})),
        error("CommandNotFound", "The command no-such has not been found")
    );
    assert_eq!(
        wire.ask(json!({"execute": "query-jobs"})),
        error("CommandNotFound", "Command query-jobs has been disabled")
    );
}

#[test]
fn any_id_comes_back_with_answers_and_errors() {
    let server = Server::start();
    let mut wire = server.negotiated();
    for id in [json!(1), json!("a\u{e9}\n"), json!(null), json!({"a": [1, {}]}), json!([]), json!(1.5)] {
        let answer = wire.ask(json!({"execute": "query-name", "id": id}));
        assert_eq!(answer, json!({"return": {"name": "0"}, "id": id}));
        let answer = wire.ask(json!({"execute": "x", "id": id}));
        assert_eq!(answer.get("id"), Some(&id));
        assert!(answer.get("error").is_some());
    }
    assert_eq!(wire.ask(json!({"id": 3, "execute": 1}))["id"], 3);
}

#[test]
fn commands_share_packets_and_are_answered_in_order() {
    let server = Server::start();
    let mut wire = server.connect();
    let mut text = String::from("{'execute': 'qmp_capabilities'}");
    for id in 0..200 {
        text +=
            &format!("\r\n {{'execute': 'block_stream', 'arguments': {{'device': 'virtio0'}}, 'id': {id}}}");
    }
    wire.send(&text);
    assert_eq!(wire.receive(), json!({"return": {}}));
    for id in 0..200 {
        let progress = json!({"device": "virtio0", "len": 1 << 30, "offset": 65536});
        assert_eq!(wire.receive(), json!({"return": progress, "id": id}));
    }
}

#[test]
fn a_command_may_come_byte_by_byte() {
    let server = Server::start();
    let mut wire = server.negotiated();
    for byte in br#"{"execute": "query-status", "id": "\u00e9\"}"}"# {
        wire.send([*byte]);
    }
    let status = json!({"running": true, "status": "running"});
    assert_eq!(wire.receive(), json!({"return": status, "id": "\u{e9}\"}"}));
}

#[test]
fn a_client_may_vanish_at_any_byte() {
    let server = Server::start();
    let text = br#"{"execute": "qmp_capabilities"}{"execute": "query-name", "id": "}"}"#;
    for length in 0..=text.len() {
        server.connect().send(&text[..length]);
    }
    let mut wire = server.negotiated();
    assert_eq!(wire.ask(json!({"execute": "query-name"})), json!({"return": {"name": "0"}}));
}

#[test]
fn a_client_that_ends_its_side_still_gets_its_answers() {
    let server = Server::start();
    let mut wire = server.connect();
    wire.send("{'execute': 'qmp_capabilities'} {'execute': 'query-name'} 1");
    wire.end();
    assert_eq!(wire.receive(), json!({"return": {}}));
    assert_eq!(wire.receive(), json!({"return": {"name": "0"}}));
    assert_eq!(wire.receive(), error("GenericError", "QMP input must be a JSON object"));
    assert_eq!(wire.try_receive(), None);
}

#[test]
fn the_stream_recovers_after_broken_json() {
    let server = Server::start();
    let mut wire = server.negotiated();
    for (broken, desc) in [
        (&b"{\"execute\": \"\xc3\x28\"}"[..], "JSON parse error, invalid UTF-8 sequence in string"),
        (b"{\"execute\": }", "JSON parse error, expecting value"),
        (b"{'execute': 'stop\n", "JSON parse error, stray '\\n'"),
        (b"{\xff", "JSON parse error, stray '\\u{ff}'"),
    ] {
        wire.send(broken);
        assert_eq!(wire.receive(), error("GenericError", desc));
        assert_eq!(wire.ask(json!({"execute": "query-name"})), json!({"return": {"name": "0"}}));
    }
}

#[test]
fn large_messages_pass_and_larger_ones_end_the_connection() {
    let server = Server::start();
    let mut wire = server.negotiated();
    let id = "x".repeat(10 << 20);
    let mut reader = server.negotiated();
    let writer = std::thread::spawn({
        let text = json!({"execute": "query-name", "id": id}).to_string();
        move || {
            wire.send(text);
            wire
        }
    });
    // Others are served meanwhile.
    assert_eq!(reader.ask(json!({"execute": "query-name"})), json!({"return": {"name": "0"}}));
    let mut wire = writer.join().unwrap();
    assert_eq!(wire.receive()["id"], id);

    wire.send("\"");
    let chunk = vec![b'x'; 1 << 20];
    let sent = (0..64).take_while(|_| std::io::Write::write_all(&mut wire.stream, &chunk).is_ok());
    assert!(sent.count() < 64, "64 MiB were taken");
    // The answer may be lost with what was still being sent.
    if let Some(answer) = wire.try_receive() {
        assert_eq!(answer, error("GenericError", "JSON token size limit exceeded"));
        assert_eq!(wire.try_receive(), None);
    }
}

#[test]
fn deep_nesting_is_one_error() {
    let server = Server::start();
    let mut wire = server.negotiated();
    for depth in [200, 100_000] {
        wire.send(["[".repeat(depth), "]".repeat(depth)].concat());
        assert_eq!(wire.receive(), error("GenericError", "JSON nesting depth limit exceeded"));
    }
    assert_eq!(wire.ask(json!({"execute": "query-name"})), json!({"return": {"name": "0"}}));
}

#[test]
fn the_monitor_lists_its_commands() {
    let server = Server::start();
    let mut wire = server.negotiated();
    let answer = wire.ask(json!({"execute": "query-commands"}));
    let names: Vec<_> = answer["return"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    for name in ["block_stream", "query-block-stream", "change", "query-commands", "qmp_capabilities"] {
        assert!(names.contains(&&json!(name)), "{name}");
    }
    let version = wire.ask(json!({"execute": "query-version"}));
    assert_eq!(version["return"]["qemu"], json!({"major": 10, "minor": 0, "micro": 0}));
    assert_eq!(version["return"]["package"], concat!("millrace ", env!("CARGO_PKG_VERSION")));
}
