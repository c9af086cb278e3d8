//! Lines over a byte stream. Each wait has a deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longer lines are cut, so that a guest cannot make the host buffer without limit.
const MAX_LINE: usize = 64 << 10;

/// A byte stream to a serial port, with time-outs.
pub trait Link: Read + Write {
    /// Sets the longest time that later reads and writes may block. `timeout` is never zero.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;
}

impl Link for UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Link for TcpStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

pub(super) struct Lines<L> {
    link: L,
    received: Vec<u8>,
}

impl<L: Link> Lines<L> {
    pub(super) fn new(link: L) -> Self {
        Lines { link, received: Vec::new() }
    }

    /// Sends all of `bytes`. Fails with `TimedOut` after the deadline.
    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.arm(deadline)?;
            match self.link.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => check(error)?,
            }
        }
        Ok(())
    }

    /// Returns the next line without its end. Fails with `TimedOut` after the deadline, and with
    /// `UnexpectedEof` if the guest is gone.
    pub(super) fn next(&mut self, deadline: Instant) -> io::Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim().to_owned());
            }
            if self.received.len() > MAX_LINE {
                self.received.clear();
            }
            self.arm(deadline)?;
            let mut chunk = [0; 4096];
            match self.link.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) => check(error)?,
            }
        }
    }

    fn arm(&self, deadline: Instant) -> io::Result<()> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            self.link.set_timeout(remaining)
        }
    }
}

/// A socket reports a time-out as `WouldBlock`; the caller's deadline decides whether to continue.
fn check(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
