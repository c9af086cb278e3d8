//! A plain connection to a monitor, of our program or of QEMU's storage daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use harness::{Failure, STEP, check, wait_for};
use serde_json::Value;

/// A connection to a monitor, of our program or of QEMU's.
pub struct Wire {
    socket: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
    /// The events that arrived before the replies so far.
    pub events: Vec<Value>,
}

impl Wire {
    /// Connects and negotiates capabilities.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        wait_for("the monitor", STEP, || Ok(UnixStream::connect(path).is_ok()))?;
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(STEP))?;
        let lines = BufReader::new(socket.try_clone()?).lines();
        let mut wire = Wire { lines, socket, events: Vec::new() };
        wire.answer()?;
        check(wire.ask("{'execute': 'qmp_capabilities'}")?.get("return").is_some(), "the negotiation ends")?;
        Ok(wire)
    }

    /// The next message that is not an event.
    fn answer(&mut self) -> Result<Value, Failure> {
        loop {
            let message: Value = serde_json::from_str(&self.lines.next().ok_or("the connection ended")??)?;
            if message.get("event").is_none() {
                return Ok(message);
            }
            self.events.push(message);
        }
    }

    /// Sends a request and returns the reply.
    pub fn ask(&mut self, request: &str) -> Result<Value, Failure> {
        writeln!(self.socket, "{request}")?;
        self.answer()
    }
}
