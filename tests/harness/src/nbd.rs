//! A small NBD client with several requests in flight, for workloads and for tests against a model.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Failure;

/// A request of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Reads data of this length.
    Read(u32),
    /// Writes data of this length; the data itself is passed separately.
    Write(u32),
    /// Makes all writes durable that the server replied to before.
    Flush,
}

/// A connection to an export, in its transmission phase.
pub struct Nbd {
    stream: UnixStream,
    size: u64,
    next: u64,
    in_flight: HashMap<u64, Command>,
}

/// The server's reply to a request.
pub struct Reply {
    /// The request's number, as returned by [`Nbd::send`].
    pub cookie: u64,
    /// The request.
    pub command: Command,
    /// The server's error number; 0 on success.
    pub error: u32,
}

impl Nbd {
    /// Connects to the export `name` at a Unix socket. `time` is the time-out of each reply.
    ///
    /// # Errors
    /// If there is no such export.
    pub fn connect(socket: &Path, name: &str, time: Duration) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(time))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err("not an NBD server".into());
        }
        // The client's flags: fixed newstyle, no zeroes. Then EXPORT_NAME, whose reply is size and
        // flags.
        let mut hello = vec![0, 0, 0, 3];
        hello.extend(b"IHAVEOPT\0\0\0\x01");
        hello.extend(u32::try_from(name.len())?.to_be_bytes());
        hello.extend(name.as_bytes());
        stream.write_all(&hello)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        let (size, _) = answer.split_at(8);
        let size = u64::from_be_bytes(size.try_into()?);
        Ok(Nbd { stream, size, next: 0, in_flight: HashMap::new() })
    }

    /// The size of the disk, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of requests without a reply so far.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request; `data` is the data of a write, and empty otherwise. Returns the request's
    /// number.
    pub fn send(&mut self, command: Command, offset: u64, data: &[u8]) -> Result<u64, Failure> {
        let (number, len) = match command {
            Command::Read(len) => (0_u16, len),
            Command::Write(len) => (1, len),
            Command::Flush => (3, 0),
        };
        let cookie = self.next;
        self.next += 1;
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend(0x2560_9513_u32.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(number.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes)?;
        self.in_flight.insert(cookie, command);
        Ok(cookie)
    }

    /// Waits for the next reply, to any request. The data of a read goes to `data`.
    ///
    /// # Errors
    /// If the server hangs up or breaks the protocol.
    pub fn receive(&mut self, data: &mut Vec<u8>) -> Result<Reply, Failure> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let (magic, rest) = head.split_at(4);
        let (error, cookie) = rest.split_at(4);
        if magic != 0x6744_6698_u32.to_be_bytes() {
            return Err("not a reply of an NBD server".into());
        }
        let (error, cookie) = (u32::from_be_bytes(error.try_into()?), u64::from_be_bytes(cookie.try_into()?));
        let command = self.in_flight.remove(&cookie).ok_or("a reply to an unknown request")?;
        data.clear();
        if let (Command::Read(len), 0) = (command, error) {
            data.resize(usize::try_from(len)?, 0);
            self.stream.read_exact(data)?;
        }
        Ok(Reply { cookie, command, error })
    }
}
