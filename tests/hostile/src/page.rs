//! Input of the page's server: what browsers and machines send.

use web::door::{HOST, TOKEN};

/// Serves a browser that sends these bytes. If the first one is odd, they follow on a sound request for a
/// page's WebSocket.
pub fn page(data: &[u8]) {
    web::door::browser(data);
}

/// Follows a machine that sends these bytes.
pub fn page_machine(data: &[u8]) {
    web::door::machine(data);
}

/// A frame of a WebSocket, masked with zeros (RFC 6455, section 5.2).
fn frame(first: u8, text: &str) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(text.len()) {
        Ok(short @ ..126) => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend((text.len() as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.bytes());
    frame
}

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

pub(crate) fn browser_corpus() -> Vec<Vec<u8>> {
    let plain = |text: String| [b"\0", text.as_bytes()].concat();
    let socket = |frames: &[Vec<u8>]| [&[1][..], &frames.concat()].concat();
    let status = r#"{"m": 0, "execute": "query-status", "arguments": {}, "id": 1}"#;
    vec![
        plain(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /app.js HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
        plain(
            "POST /ws HTTP/1.1\r\nHost: localhost:8006\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{}{}\r\n0\r\n\r\n"
                .to_owned(),
        ),
        plain(format!(
            "GET /pipe HTTP/1.1\r\nHost: {HOST}\r\nOrigin: http://{HOST}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: millrace.v1, k.{TOKEN}\r\n\r\n"
        )),
        socket(&[frame(TEXT, status), frame(PING, "alive"), frame(CLOSE, "\u{3}\u{e8}")]),
        socket(&[
            frame(TEXT, r#"{"m": 0, "pipe": "vnc", "id": 2}"#),
            frame(TEXT, r#"{"m": 0, "pipe": "serial0", "id": 18446744073709551615}"#),
            // A message in three frames.
            frame(1, r#"{"m": 0, "#),
            frame(0, r#""execute": "stop", "#),
            frame(0x80, r#""id": [[{}]]}"#),
        ]),
        socket(&[frame(TEXT, &status.repeat(8)), frame(0x82, "binary"), frame(TEXT, status)]),
    ]
}

pub(crate) fn machine_corpus() -> Vec<Vec<u8>> {
    // Replies in the order in which the server asks: capabilities, events, then the machine's state, and each
    // disk's latencies and map.
    let replies = [
        r"{}",
        r"{}",
        r#"{"status": "running", "running": true}"#,
        r#"{"name": "one"}"#,
        r#"[{"device": "virtio0", "inserted": {"image": {"filename": "a"}}}]"#,
        "[]",
        "[]",
        "[]",
        "[]",
        "[]",
        "[]",
        r#"[{"label": "serial0", "filename": "disconnected:unix:/run/console,server=on"}]"#,
        r#"{"enabled": true, "family": "ipv4", "host": "127.0.0.1", "service": "5900"}"#,
        r#"[{"device": "virtio0"}, {"device": ""}]"#,
        r#"{"interval": 100000000, "intervals": [], "next": 18446744073709551615}"#,
        r#"{"generation": 7, "size": 1048576, "runs": "AAEB", "next": 4}"#,
        r#"{"interval": 100000000, "intervals": [{}], "next": 1}"#,
        r#"{"generation": 8, "runs": "AAEB", "resync": true}"#,
    ];
    let greeting = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
    let replies = (1..).zip(replies).map(|(id, reply)| format!("{{\"return\": {reply}, \"id\": {id}}}\r\n"));
    let replies: String = replies.collect();
    let event = "{\"event\": \"STOP\", \"data\": {}, \"timestamp\": {}}\r\n";
    vec![
        format!("{greeting}\r\n{replies}").into_bytes(),
        format!("{greeting}\r\n{}{replies}", event.repeat(20)).into_bytes(),
        format!("{greeting}\r\n{event}{{\"error\": {{\"class\": \"GenericError\"}}, \"id\": 1}}\r\n")
            .into_bytes(),
        br#"[{"label": "serial0", "filename": "unix:/run/console,server=on"}]"#.to_vec(),
        br#"{"enabled": true, "family": "ipv6", "host": "::", "service": "65535"}"#.to_vec(),
    ]
}

/// A server holds messages, their parsed values, news, and buffers of both sides.
pub(crate) fn memory(input: usize) -> usize {
    (8 << 20) + 1024 * input
}
