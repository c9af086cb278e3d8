//! Clients that mean no good: with the token and without. Other pages and the machine go on.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Failure, STEP, check, wait_for};
use serde_json::{Value, json};

use crate::{MIB, Stage, Web};

/// A WebSocket by hand (RFC 6455), which may break every rule.
struct Socket(TcpStream);

impl Socket {
    fn open(web: &Web) -> Result<Self, Failure> {
        let mut stream = TcpStream::connect(("127.0.0.1", web.port))?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        let own = format!("127.0.0.1:{}", web.port);
        write!(
            stream,
            "GET /ws HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: millrace.v1, t.{}\r\n\r\n",
            web.token()
        )?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        check(head.starts_with(b"HTTP/1.1 101 "), String::from_utf8_lossy(&head))?;
        Ok(Socket(stream))
    }

    /// A frame of a text message, masked with zeros.
    fn frame(text: &str) -> Vec<u8> {
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut frame = vec![0x81];
        match len {
            0..126 => frame.push(0x80 | len as u8),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(len.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.bytes());
        frame
    }

    /// Receives the next message.
    fn next(&mut self) -> Result<Value, Failure> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut long = [0; 8];
        let len = match head[1] & 127 {
            126 => {
                self.0.read_exact(&mut long[6..])?;
                u64::from_be_bytes(long)
            }
            127 => {
                self.0.read_exact(&mut long)?;
                u64::from_be_bytes(long)
            }
            short => u64::from(short),
        };
        let mut text = vec![0; usize::try_from(len)?];
        self.0.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Sends a command and waits for its reply, past any news.
    fn execute(&mut self, command: &str) -> Result<Value, Failure> {
        self.0.write_all(&Self::frame(&json!({"m": 0, "execute": command, "id": "own"}).to_string()))?;
        loop {
            let message = self.next()?;
            if message["id"] == "own" {
                return Ok(message);
            }
        }
    }
}

#[test]
fn clients_that_flood_stall_or_die_hold_up_nobody() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.machine(16 * MIB)?;
    let web = Web::start(&stage, &["--control", "full"])?;
    let mut good = Socket::open(&web)?;
    let query = Socket::frame(&json!({"m": 0, "execute": "query-block", "id": 1}).to_string());

    // Floods with commands and reads nothing, until it cannot send any more; and stays.
    let mut flooding = Socket::open(&web)?;
    flooding.0.set_write_timeout(Some(Duration::from_secs(2)))?;
    let full = loop {
        if let Err(e) = flooding.0.write_all(&query) {
            break e;
        }
    };
    check(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), format!("it waits: {full}"))?;
    // Never reads, never sends.
    let stalled = Socket::open(&web)?;
    // Dies with commands in flight; breaks the protocol; sends nonsense and what is too long.
    for bytes in [
        query.repeat(100),
        vec![0xff; 4096],
        vec![0x01, 0x00],
        Socket::frame("[[[["),
        Socket::frame("{\"m\": 99, \"execute\": \"quit\"}"),
        Socket::frame("{\"m\": 0, \"execute\": {}, \"arguments\": 3}"),
        Socket::frame("{\"m\": -1, \"pipe\": \"../../etc/passwd\"}"),
        // A message of 2^40 bytes.
        [&[0x81, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat(),
    ] {
        let mut dying = Socket::open(&web)?;
        dying.0.write_all(&bytes)?;
    }
    assert!(good.execute("query-status")?["return"].is_object());
    vm.qmp.execute_json("query-status", Value::Null)?;

    // Connections without a token, which say nothing or half of something.
    let idle: Vec<_> = (0..40)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", web.port))?;
            stream.write_all(&b"GET / HTTP/1.1\r\nHost: x\r\nX: "[..n % 28])?;
            Ok::<_, Failure>(stream)
        })
        .collect::<Result<_, _>>()?;
    assert!(good.execute("query-status")?["return"].is_object());
    // They end by themselves.
    wait_for("a connection without a token to end", STEP, || {
        let mut stream = idle[0].try_clone()?;
        stream.set_read_timeout(Some(STEP))?;
        Ok(matches!(stream.read(&mut [0; 512]), Ok(0)) || stream.take_error()?.is_some())
    })?;
    assert!(good.execute("query-status")?["return"].is_object());
    drop((idle, stalled, flooding));
    assert!(good.execute("query-status")?["return"].is_object());
    vm.quit()
}

#[test]
fn the_kernel_holds_the_server_to_its_connections() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let vm = stage.machine(4 * MIB)?;
    let web = Web::start(&stage, &[])?;
    let status = |path: String, key: &str| -> Result<String, Failure> {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        Ok(line.ok_or("no such line")?.trim().to_owned())
    };
    let server = web.child.id();
    // One thread, with a filter of system calls, which has no socket(2) and no connect(2): see
    // support/sandbox.
    let threads: Vec<_> = std::fs::read_dir(format!("/proc/{server}/task"))?.collect::<Result<_, _>>()?;
    assert_eq!(threads.len(), 1);
    assert_eq!(status(format!("/proc/{server}/status"), "Seccomp:")?, "2");
    // The process that connects for it has a list of what it must not do, too, and the sockets that were
    // named.
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
    let connector = children.trim().to_owned();
    // It may still be starting.
    wait_for("the connector to be confined", STEP, || {
        Ok(status(format!("/proc/{connector}/status"), "Seccomp:")? == "2")
    })?;
    let arguments = std::fs::read(format!("/proc/{connector}/cmdline"))?;
    let named = arguments.split(|&byte| byte == 0).rfind(|argument| !argument.is_empty());
    assert_eq!(named, Some(stage.path("qmp").as_os_str().as_encoded_bytes()));
    // It ends with the server.
    drop(web);
    wait_for("the connector to end", STEP, || {
        Ok(!std::path::Path::new(&format!("/proc/{connector}")).exists())
    })?;
    vm.quit()
}
