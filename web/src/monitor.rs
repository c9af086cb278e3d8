//! A connection to a machine's monitor.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, WriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::connector::{Connector, Stream};

/// The longest message that is read, in bytes: the map of a disk with 2^20 cells fits.
const LONGEST: usize = 16 << 20;
/// The most commands of a connection that wait for their replies.
const MOST_WAITING: usize = 256;
/// The time that a machine has for its greeting, and for the reply to a query.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a command has no reply.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The connection failed.
    #[error("the monitor: {0}")]
    Io(#[from] io::Error),
    /// The machine closed the connection.
    #[error("the machine has closed its monitor")]
    Closed,
    /// The reply did not come in time.
    #[error("the monitor does not reply")]
    Silent,
    /// Too many commands wait for replies.
    #[error("too many commands wait for replies")]
    Busy,
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Value>>>>>;

/// A connection. Commands may be sent at once; replies come in any order.
pub struct Monitor {
    writer: tokio::sync::Mutex<WriteHalf<Box<dyn Stream>>>,
    /// The commands without a reply; `None` after the connection has ended.
    waiting: Waiting,
    next: Mutex<u64>,
    reader: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Monitor {
    /// Connects to the monitor of a machine, by its number, and negotiates capabilities. `on_event` is called
    /// with each event.
    ///
    /// # Errors
    /// If nobody listens there, or what listens is not a monitor.
    pub async fn connect(
        connector: &Connector,
        machine: usize,
        on_event: impl Fn(Value) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        Monitor::over(connector.connect(machine, None).await?, on_event).await
    }

    /// The same, over a connection that exists.
    ///
    /// # Errors
    /// If what is at its other end is not a monitor.
    pub async fn over(
        stream: Box<dyn Stream>,
        on_event: impl Fn(Value) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let greeting = tokio::time::timeout(PATIENCE, next(&mut reader)).await;
        let greeting = greeting.map_err(|_| MonitorError::Silent)??.ok_or(MonitorError::Closed)?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other("no greeting of QMP").into());
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let replies = Arc::clone(&waiting);
        let reader = tokio::spawn(async move {
            while let Ok(Some(message)) = next(&mut reader).await {
                if message.get("event").is_some() {
                    on_event(message);
                } else if let Some(id) = message["id"].as_u64() {
                    let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
                    let sender = replies.as_mut().and_then(|waiting| waiting.remove(&id));
                    // Whoever sent the command may have gone.
                    sender.map(|sender| sender.send(message));
                }
            }
            // Drops the senders: whoever waits gets `Closed`.
            *replies.lock().unwrap_or_else(PoisonError::into_inner) = None;
        });
        let writer = tokio::sync::Mutex::new(writer);
        let monitor = Monitor { writer, waiting, next: Mutex::new(0), reader };
        monitor.query("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Sends a command and waits for its reply, with `return` or `error`.
    ///
    /// # Errors
    /// If the connection ends before the reply.
    pub async fn execute(&self, command: &str, arguments: &Value) -> Result<Value, MonitorError> {
        let id = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = waiting.as_mut().ok_or(MonitorError::Closed)?;
            // Those whose callers have gone count no more.
            waiting.retain(|_, sender| !sender.is_closed());
            if waiting.len() >= MOST_WAITING {
                return Err(MonitorError::Busy);
            }
            waiting.insert(id, sender);
        }
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments, "id": id}));
        self.writer.lock().await.write_all(line.as_bytes()).await?;
        receiver.await.map_err(|_| MonitorError::Closed)
    }

    /// Like [`Monitor::execute`], with a time limit. Returns what the command returned, or null if it failed:
    /// a machine of another version may lack the command.
    ///
    /// # Errors
    /// As [`Monitor::execute`], and the time limit.
    pub async fn query(&self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        let reply = tokio::time::timeout(PATIENCE, self.execute(command, &arguments)).await;
        let mut reply = reply.map_err(|_| MonitorError::Silent)??;
        Ok(reply["return"].take())
    }
}

/// Reads a message. Returns `None` at the end of the stream.
pub async fn next(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Value>> {
    let mut line = Vec::new();
    loop {
        let some = reader.fill_buf().await?;
        let (end, len) = match some.iter().position(|&byte| byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (some.is_empty(), some.len()),
        };
        if line.len() + len > LONGEST {
            return Err(io::Error::other("a message is too long"));
        }
        line.extend_from_slice(&some[..len]);
        reader.consume(len);
        if end && line.iter().all(u8::is_ascii_whitespace) {
            if line.is_empty() {
                return Ok(None);
            }
            line.clear();
        } else if end {
            return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
        }
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
