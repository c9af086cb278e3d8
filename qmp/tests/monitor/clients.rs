//! Several clients, slow ones, dead ones, and the client of this crate.

use std::time::Instant;

use crate::common::{PATIENCE, Server};
use qmp::types::{BlockStreamReply, ShutdownCause};
use qmp::{Client, ClientError, ErrorClass, command, event};
use serde_json::json;

#[test]
fn an_event_precedes_the_answer_of_the_command_that_caused_it() {
    let server = Server::start();
    let (mut wire, mut other) = (server.negotiated(), server.negotiated());
    wire.send("{'execute': 'stop'}");
    let event = wire.receive();
    assert_eq!(event["event"], "STOP");
    assert!(event.get("data").is_none());
    assert!(event["timestamp"]["microseconds"].as_i64() < Some(1_000_000));
    assert_eq!(wire.receive(), json!({"return": {}}));
    assert_eq!(other.receive(), event);
}

#[test]
fn events_come_after_the_negotiation_only() {
    let server = Server::start();
    let mut silent = server.connect();
    server.client().execute(&command::Stop {}).unwrap();
    assert_eq!(silent.ask(json!({"execute": "qmp_capabilities"})), json!({"return": {}}));
}

#[test]
fn a_command_that_waits_holds_up_nobody_else() {
    let server = Server::start();
    let (mut waiting, mut other) = (server.negotiated(), server.client());
    // Its own next command waits for it.
    waiting.send("{'execute': 'cont', 'id': 1} {'execute': 'query-name', 'id': 2}");
    other.wait::<event::Resumed>(Instant::now() + PATIENCE).unwrap();
    assert_eq!(other.execute(&command::QueryName {}).unwrap().name.as_deref(), Some("0"));
    other.execute(&command::SystemPowerdown {}).unwrap();
    assert_eq!(waiting.receive()["event"], "RESUME");
    assert_eq!(waiting.receive(), json!({"return": {}, "id": 1}));
    assert_eq!(waiting.receive(), json!({"return": {"name": "1"}, "id": 2}));
}

#[test]
fn a_command_outlives_its_client() {
    let server = Server::start();
    let (mut gone, mut other) = (server.negotiated(), server.client());
    gone.send("{'execute': 'cont'}");
    other.wait::<event::Resumed>(Instant::now() + PATIENCE).unwrap();
    drop(gone);
    assert_eq!(other.execute(&command::QueryName {}).unwrap().name.as_deref(), Some("0"));
    other.execute(&command::SystemPowerdown {}).unwrap();
    assert_eq!(other.execute(&command::QueryName {}).unwrap().name.as_deref(), Some("1"));
}

#[test]
fn a_flood_of_events_stalls_nobody_and_is_counted() {
    let server = Server::start();
    let (mut slow, mut other) = (server.negotiated(), server.client());
    let sent = 20_000;
    // More than a socket's buffer and the queue hold together.
    other.execute_json("block_resize", json!({"size": sent})).unwrap();
    other.execute(&command::QueryStatus {}).unwrap();
    let mut got = 0;
    loop {
        let event = slow.receive();
        match event["event"].as_str() {
            Some("BLOCK_EXPORT_DELETED") => got += 1,
            Some("EVENTS_DROPPED") => {
                assert_eq!(event["data"]["count"], sent - got);
                break;
            }
            _ => panic!("{event}"),
        }
    }
    assert!(got > 1000, "{got}");
    assert_eq!(slow.ask(json!({"execute": "query-name"})), json!({"return": {"name": "0"}}));
}

#[test]
fn a_client_that_sends_and_never_reads_stalls_nobody() {
    let server = Server::start();
    let mut deaf = server.negotiated();
    deaf.stream.set_nonblocking(true).unwrap();
    let flood = "{'execute': 'query-commands'}".repeat(100);
    // Until the server has stopped reading, because the answers have no room.
    while std::io::Write::write(&mut deaf.stream, flood.as_bytes()).is_ok() {}
    let mut other = server.client();
    for _ in 0..100 {
        other.execute(&command::QueryStatus {}).unwrap();
    }
}

#[test]
fn the_client_knows_types_and_errors() {
    let server = Server::start();
    let mut client = server.client();
    assert!(client.version().package.starts_with("millrace"));
    let stream =
        |device: &str, all| command::BlockStream { device: device.into(), all, stop: None, offset: None };
    let reply = client.execute(&stream("virtio0", None)).unwrap();
    assert!(matches!(reply, BlockStreamReply::Cluster(info) if info.offset == 65536));
    let reply = client.execute(&stream("virtio0", Some(true))).unwrap();
    assert!(matches!(reply, BlockStreamReply::Background(_)));
    let e = client.execute(&stream("sda", None)).unwrap_err();
    assert_eq!(e.command_error().unwrap().class, ErrorClass::DeviceNotFound);
    assert_eq!(e.to_string(), "block_stream: Device 'sda' not found");

    client.execute(&command::Stop {}).unwrap();
    let names: Vec<_> = client.events().into_iter().map(|event| event.event).collect();
    assert_eq!(names, ["STOP"]);
    let e = client.wait_event("STOP", Instant::now()).unwrap_err();
    assert!(matches!(e, ClientError::Timeout(_)));
    // A time-out leaves the connection in order.
    client.execute(&command::QueryStatus {}).unwrap();
}

#[test]
fn clients_come_over_tcp_too() {
    let server = Server::start();
    let mut client = Client::connect(&server.tcp, PATIENCE).unwrap();
    client.execute(&command::QueryStatus {}).unwrap();
}

#[test]
fn a_client_waits_for_the_server_to_come() {
    let directory = tempfile::tempdir().unwrap();
    let address: qmp::Address = format!("unix:{}", directory.path().join("none").display()).parse().unwrap();
    let e = Client::connect(&address, std::time::Duration::from_millis(30)).err().unwrap();
    assert!(matches!(e, ClientError::Io { .. }), "{e}");
}

#[test]
fn the_text_monitor_runs_over_qmp() {
    let server = Server::start();
    let mut client = server.client();
    let mut hmp = |line: &str| {
        client.execute(&command::HumanMonitorCommand { command_line: line.into(), cpu_index: None }).unwrap()
    };
    assert_eq!(hmp("info block-stream"), "Streaming device virtio0: Completed 65536 of 1073741824 bytes\r\n");
    assert_eq!(hmp("block_stream -s virtio0"), "Error: no stream is active on 'virtio0'\r\n");
    assert_eq!(hmp("block_stream -a virtio0"), "");
}

#[test]
fn quit_is_answered_before_the_end() {
    let mut server = Server::start();
    let mut other = server.negotiated();
    let mut client = server.client();
    client.execute(&command::Quit {}).unwrap();
    let shutdown = client.wait::<event::Shutdown>(Instant::now() + PATIENCE).unwrap();
    assert_eq!((shutdown.guest, shutdown.reason), (false, ShutdownCause::HostQmpQuit));
    server.join();
    assert!(!server.path.exists());
    assert_eq!(other.receive()["event"], "SHUTDOWN");
    assert_eq!(other.try_receive(), None);
}
