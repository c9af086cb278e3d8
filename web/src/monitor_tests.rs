use std::path::PathBuf;
use std::sync::mpsc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Monitor, MonitorError, next};
use crate::connector::tests::connector;

/// A listener that plays a machine.
fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

/// Greets a client and reads its first command, then replies to that.
async fn greet(listener: &UnixListener) -> BufReader<UnixStream> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
    let id = command(&mut stream).await;
    reply(&mut stream, &json!({"return": {}, "id": id})).await;
    stream
}

async fn command(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    serde_json::from_str::<Value>(&line).unwrap()["id"].take()
}

async fn reply(stream: &mut BufReader<UnixStream>, message: &Value) {
    stream.get_mut().write_all(format!("{message}\r\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn replies_reach_their_commands_in_any_order_and_events_the_listener() {
    let (_folder, path, listener) = listener();
    let machine = async {
        let mut stream = greet(&listener).await;
        let (first, second) = (command(&mut stream).await, command(&mut stream).await);
        reply(&mut stream, &json!({"event": "STOP"})).await;
        reply(&mut stream, &json!({"return": 2, "id": second})).await;
        reply(&mut stream, &json!({"error": {"desc": "no"}, "id": first})).await;
        stream
    };
    let (sender, events) = mpsc::channel();
    let client = async {
        let monitor = Monitor::connect(&connector(vec![path]), 0, move |event| sender.send(event).unwrap())
            .await
            .unwrap();
        let null = json!({});
        tokio::join!(monitor.execute("one", &null), monitor.execute("two", &null))
    };
    let (_stream, (one, two)) = tokio::join!(machine, client);
    assert_eq!(one.unwrap()["error"]["desc"], "no");
    assert_eq!(two.unwrap()["return"], 2);
    assert_eq!(events.recv().unwrap()["event"], "STOP");
}

#[tokio::test]
async fn a_machine_that_ends_fails_the_commands_that_wait_and_all_after_them() {
    let (_folder, path, listener) = listener();
    let machine = async {
        let mut stream = greet(&listener).await;
        command(&mut stream).await;
    };
    let client = async {
        let monitor = Monitor::connect(&connector(vec![path]), 0, |_| ()).await.unwrap();
        let waited = monitor.execute("one", &json!({})).await;
        (waited, monitor.execute("two", &json!({})).await)
    };
    let ((), (one, two)) = tokio::join!(machine, client);
    assert!(matches!(one, Err(MonitorError::Closed)), "{one:?}");
    assert!(matches!(two, Err(MonitorError::Closed | MonitorError::Io(_))), "{two:?}");
}

#[tokio::test]
async fn what_is_not_a_monitor_is_refused() {
    let (_folder, path, listener) = listener();
    let machine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
    };
    let connector = connector(vec![path.clone(), path.with_extension("none")]);
    let (_, connected) = tokio::join!(machine, Monitor::connect(&connector, 0, |_| ()));
    assert!(matches!(connected.err(), Some(MonitorError::Io(_))));
    assert!(Monitor::connect(&connector, 1, |_| ()).await.is_err());
}

#[tokio::test]
async fn a_message_is_a_line_of_limited_length() {
    let mut text: &[u8] = b"\r\n{\"a\": 1}\r\n{\"b\": 2}";
    assert_eq!(next(&mut text).await.unwrap(), Some(json!({"a": 1})));
    assert_eq!(next(&mut text).await.unwrap(), Some(json!({"b": 2})));
    assert_eq!(next(&mut text).await.unwrap(), None);
    assert!(next(&mut &b"{\n"[..]).await.is_err());
    let long = vec![b' '; super::LONGEST + 1];
    assert!(next(&mut &long[..]).await.is_err());
}
