//! A small NBD client with several requests in flight, for loads and models.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Failure;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Data, by length.
    Read(u32),
    /// To write the same bytes that are handed over with it, by their length.
    Write(u32),
    /// To make durable what was answered before.
    Flush,
}

/// A connection to an export, in its transmission phase.
pub struct Nbd {
    stream: UnixStream,
    size: u64,
    next: u64,
    in_flight: HashMap<u64, Command>,
}

/// The answer to a request.
pub struct Reply {
    /// The request, as [`Nbd::send`] named it.
    pub cookie: u64,
    /// What it was.
    pub command: Command,
    /// The server's error number; 0 where it succeeded.
    pub error: u32,
}

impl Nbd {
    /// Connects to the export `name` behind a unix socket; answers may take `time`.
    ///
    /// # Errors
    /// Where there is no such export.
    pub fn connect(socket: &Path, name: &str, time: Duration) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(time))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err("not an NBD server".into());
        }
        // Our flags: fixed newstyle, no zeroes. Then EXPORT_NAME, which answers size and flags at once.
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

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Requests without an answer so far.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request; `data` goes with a write and is empty otherwise. The number names its answer.
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

    /// Waits for the next answer, of whichever request; what was read goes to `data`.
    ///
    /// # Errors
    /// Where the server hung up or broke the protocol.
    pub fn receive(&mut self, data: &mut Vec<u8>) -> Result<Reply, Failure> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let (magic, rest) = head.split_at(4);
        let (error, cookie) = rest.split_at(4);
        if magic != 0x6744_6698_u32.to_be_bytes() {
            return Err("not an answer of an NBD server".into());
        }
        let (error, cookie) = (u32::from_be_bytes(error.try_into()?), u64::from_be_bytes(cookie.try_into()?));
        let command = self.in_flight.remove(&cookie).ok_or("an answer to no request")?;
        data.clear();
        if let (Command::Read(len), 0) = (command, error) {
            data.resize(usize::try_from(len)?, 0);
            self.stream.read_exact(data)?;
        }
        Ok(Reply { cookie, command, error })
    }
}
