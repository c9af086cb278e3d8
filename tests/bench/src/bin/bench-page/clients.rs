//! Clients of the page's server, by hand: cheaper than a browser, which would be measured too.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use harness::{Failure, STEP, check};

/// Three WebSockets. Two take everything that comes; one never reads.
pub struct Clients {
    reading: Vec<(TcpStream, JoinHandle<u64>)>,
    _silent: TcpStream,
}

impl Clients {
    /// Connects them.
    pub fn start(port: u16, token: &str) -> Result<Self, Failure> {
        let silent = open(port, token)?;
        let reading = (0..2).map(|_| {
            let stream = open(port, token)?;
            let mut reader = stream.try_clone()?;
            let thread = std::thread::spawn(move || {
                let (mut sink, mut all) = (vec![0; 64 << 10], 0);
                while let Ok(len @ 1..) = reader.read(&mut sink) {
                    all += len as u64;
                }
                all
            });
            Ok((stream, thread))
        });
        Ok(Clients { reading: reading.collect::<Result<_, Failure>>()?, _silent: silent })
    }

    /// Hangs up. Returns the number of bytes that the slower of the two readers got.
    pub fn end(self) -> Result<u64, Failure> {
        let mut least = u64::MAX;
        for (stream, thread) in self.reading {
            stream.shutdown(Shutdown::Both)?;
            least = least.min(thread.join().map_err(|_| "a client panicked")?);
        }
        Ok(least)
    }
}

/// Opens a page's WebSocket (RFC 6455, section 4.1). Its replies are not checked any further.
fn open(port: u16, token: &str) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(STEP))?;
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: millrace.v1, t.{token}\r\n\r\n"
    )?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    check(head.starts_with(b"HTTP/1.1 101 "), String::from_utf8_lossy(&head))?;
    Ok(stream)
}
