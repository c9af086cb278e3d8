//! QEMU's storage daemon, for comparisons, and a plain connection to either program's monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Failure, STEP, check, wait_for};
use serde_json::Value;

/// QEMU's storage daemon. It is killed when this value is dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts a daemon with its monitor at `socket` and these block nodes (`--blockdev`).
    pub fn start(socket: &Path, nodes: &[Value]) -> Result<Self, Failure> {
        let mut command = Command::new("qemu-storage-daemon");
        command
            .args(["--chardev", &format!("socket,path={},server=on,wait=off,id=c", socket.display())])
            .args(["--monitor", "chardev=c"]);
        for node in nodes {
            command.args(["--blockdev", &node.to_string()]);
        }
        let child = command.stdout(Stdio::null()).spawn();
        Ok(Daemon(child.map_err(|e| format!("qemu-storage-daemon: {e}: install the package qemu-utils"))?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
