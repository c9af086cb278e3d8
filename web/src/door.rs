//! Entry points for fuzzers: any bytes from a browser, and any bytes from a machine. `tests/hostile` calls
//! them.

use std::future::pending;
use std::io;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::sync::mpsc;

use crate::access::Access;
use crate::connector::Connector;
use crate::listener::Bounded;
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::options::Control;
use crate::pipes::{self, Peer, SCREEN};
use crate::server::Server;

/// The token of [`browser`]'s server.
pub const TOKEN: &str = "c2VjcmV0c2VjcmV0c2VjcmV0";
/// The value of `Host` that [`browser`]'s server is known by.
pub const HOST: &str = "127.0.0.1:8006";

/// The bytes that either side may be ahead of the other.
const AHEAD: usize = 64 << 10;

/// Serves a browser that sends these bytes. If the first one is odd, the rest follows on a sound request for
/// a page's WebSocket, with the token. Nothing is at any machine's socket.
pub fn browser(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let opening = if first & 1 == 0 { String::new() } else { opening() };
    let sent = [opening.as_bytes(), data].concat();
    block_on(async move {
        let Ok(connector) = Connector::to_nothing() else { return };
        let Ok(address) = HOST.parse() else { return };
        let machines = vec![Machine::new(0, "monitor".into(), connector.clone())];
        let access = Access::new(Some(address), TOKEN.to_owned());
        let server = Server::new(access, machines, Some(Control::Full), connector);
        let (browser, stream) = duplex(AHEAD);
        let serving = axum::serve(Bounded::new(One(Some(stream))), server.service());
        tokio::select! {
            () = send(browser, &sent) => (),
            _ = async { serving.await } => (),
        }
    });
}

/// Returns a sound request for a page's WebSocket.
fn opening() -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nOrigin: http://{HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: millrace.v1, t.{TOKEN}\r\n\r\n"
    )
}

/// Follows a machine that sends these bytes, for a page, and looks in its replies for the addresses of its
/// console and its screen. It sends its first line at once, and after each command the lines up to the next
/// one with an id. In case that is not the command's, an empty reply follows.
///
/// # Panics
/// If the screen would be looked for on another host.
pub fn machine(data: &[u8]) {
    let sent = data.to_vec();
    block_on(async move {
        let Ok(connector) = Connector::to_nothing() else { return };
        let machine = Machine::new(0, "monitor".into(), connector);
        let (monitor, stream) = duplex(AHEAD);
        let (_state, mut news) = machine.watch();
        let reporting = async {
            let (sender, mut events) = mpsc::channel(1);
            let monitor = Monitor::over(Box::new(stream), move |event| drop(sender.try_send(event))).await;
            let Ok(monitor) = monitor else { return };
            // Until the machine has sent everything.
            let _ = machine.report(&monitor, &mut events).await;
        };
        tokio::join!(reply(monitor, &sent), reporting);
        while news.try_recv().is_ok() {}
        for line in sent.split(|byte| *byte == b'\n') {
            let reply = serde_json::from_slice(line).unwrap_or(json!(null));
            for pipe in ["serial0", SCREEN] {
                if let Some(Peer::Tcp(address)) = pipes::peer(&reply, pipe) {
                    assert!(address.ip().is_loopback(), "{reply}");
                }
            }
        }
    });
}

fn block_on(work: impl Future<Output = ()>) {
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        runtime.block_on(work);
    }
}

/// Plays the machine of [`machine`], until it has said everything or the other side has gone.
async fn reply(stream: DuplexStream, bytes: &[u8]) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut commands = BufReader::new(reader).lines();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
    // With an end in any case: the other side would wait for it.
    let greeting = [lines.next().unwrap_or_default(), b"\n"].concat();
    let mut said = writer.write_all(&greeting).await;
    for id in 1_u64.. {
        // Ends behind its last line, without waiting for a command: the next one may take a while.
        if said.is_err() || lines.peek().is_none() || !matches!(commands.next_line().await, Ok(Some(_))) {
            return;
        }
        let mut next = Vec::new();
        for line in lines.by_ref() {
            next.extend(line);
            if line.windows(4).any(|part| part == b"\"id\"") {
                break;
            }
        }
        next.extend(format!("\n{{\"return\": {{}}, \"id\": {id}}}\n").bytes());
        said = writer.write_all(&next).await;
    }
}

/// Sends bytes, ends the stream for writing, and drops what comes until the other side ends it too.
async fn send(stream: DuplexStream, bytes: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        // The other side may have had enough.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let receiving = async {
        let mut sink = vec![0; AHEAD];
        while matches!(reader.read(&mut sink).await, Ok(1..)) {}
    };
    tokio::join!(sending, receiving);
}

/// A listener with one connection.
struct One(Option<DuplexStream>);

impl axum::serve::Listener for One {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
