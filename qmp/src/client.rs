//! A blocking client, for tests, the demo and programs that control a machine.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use socket2::Socket;

use crate::address::Address;
use crate::command::{Request, to_value};
use crate::error::Error;
use crate::event::Event;
use crate::monitor::Answer;
use crate::output::EventMessage;
use crate::stream::Splitter;
use crate::types::{VersionInfo, VersionTriple};

/// The time limit for an answer, unless [`Client::set_timeout`] sets another.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most events kept until they are taken; beyond that the oldest are dropped.
const MAX_EVENTS: usize = 1 << 16;
/// The pause between two attempts to connect while the server is not there yet.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);
const READ_SIZE: usize = 32 << 10;

/// The reason why a client's call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server returned an error.
    #[error("{command}: {error}")]
    Command {
        /// The command.
        command: String,
        /// The server's error.
        error: Error,
    },
    /// Nothing came in time.
    #[error("no {0} in time")]
    Timeout(String),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent something that QMP does not allow here.
    #[error("not QMP: {0}")]
    Protocol(String),
    /// The connection failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation that failed.
        context: String,
        /// The reason.
        source: io::Error,
    },
}

impl ClientError {
    /// Returns the server's error, if this is one.
    pub fn command_error(&self) -> Option<&Error> {
        match self {
            ClientError::Command { error, .. } => Some(error),
            _ => None,
        }
    }
}

fn io_error(context: &str, source: io::Error) -> ClientError {
    ClientError::Io { context: context.to_owned(), source }
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Deserialize)]
struct GreetingBody {
    version: VersionInfo,
}

/// A connection whose negotiation has ended.
pub struct Client {
    socket: Socket,
    splitter: Splitter,
    events: VecDeque<EventMessage>,
    version: VersionInfo,
    timeout: Duration,
    last_id: u64,
}

impl Client {
    /// Connects and negotiates within `time`; waits for a server that does not listen yet.
    ///
    /// # Errors
    /// Fails if there is no QMP server at that address in time.
    pub fn connect(address: &Address, time: Duration) -> Result<Self, ClientError> {
        let deadline = Instant::now() + time;
        loop {
            match address.connect() {
                Ok(socket) => return Self::negotiate(socket, deadline),
                Err(e) if not_yet(&e) && Instant::now() < deadline => std::thread::sleep(CONNECT_AGAIN),
                Err(e) => return Err(io_error(&format!("connecting to {address}"), e)),
            }
        }
    }

    /// Like [`Client::connect`], but fails at once if no server listens at that address.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_now(address: &Address, time: Duration) -> Result<Self, ClientError> {
        match address.connect() {
            Ok(socket) => Self::negotiate(socket, Instant::now() + time),
            Err(e) => Err(io_error(&format!("connecting to {address}"), e)),
        }
    }

    /// Negotiates on a connected stream socket, such as one end of a pair.
    ///
    /// # Errors
    /// Fails if the other end is not a QMP server.
    pub fn from_socket(socket: impl Into<Socket>) -> Result<Self, ClientError> {
        Self::negotiate(socket.into(), Instant::now() + TIMEOUT)
    }

    fn negotiate(socket: Socket, deadline: Instant) -> Result<Self, ClientError> {
        socket.set_nonblocking(false).map_err(|e| io_error("configuring the socket", e))?;
        let mut client = Client {
            socket,
            splitter: Splitter::default(),
            events: VecDeque::new(),
            version: VersionInfo {
                qemu: VersionTriple { major: 0, minor: 0, micro: 0 },
                package: String::new(),
            },
            timeout: TIMEOUT,
            last_id: 0,
        };
        let greeting = client.read(deadline, "greeting")?;
        let greeting = Greeting::deserialize(greeting).map_err(|e| ClientError::Protocol(e.to_string()))?;
        client.version = greeting.qmp.version;
        client.call("qmp_capabilities", None, deadline)?;
        Ok(client)
    }

    /// The version in the server's greeting.
    pub fn version(&self) -> &VersionInfo {
        &self.version
    }

    /// Sets the time limit for an answer; it is 30 s by default.
    pub fn set_timeout(&mut self, time: Duration) {
        self.timeout = time;
    }

    /// Runs a typed command.
    ///
    /// # Errors
    /// [`ClientError::Command`] with the server's error; others if the connection fails.
    pub fn execute<R: Request>(&mut self, request: &R) -> Result<R::Answer, ClientError> {
        let answer = self.call(R::NAME, Some(to_value(request)), Instant::now() + self.timeout)?;
        serde_json::from_value(answer).map_err(|e| ClientError::Protocol(format!("{}: {e}", R::NAME)))
    }

    /// Runs any command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_json(&mut self, command: &str, arguments: Value) -> Result<Value, ClientError> {
        let arguments = Some(arguments).filter(|arguments| !arguments.is_null());
        self.call(command, arguments, Instant::now() + self.timeout)
    }

    fn call(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        deadline: Instant,
    ) -> Result<Value, ClientError> {
        self.last_id += 1;
        let id = json!(self.last_id);
        let mut message = Map::new();
        message.insert("execute".into(), command.into());
        message.insert("id".into(), id.clone());
        message.extend(arguments.map(|arguments| ("arguments".into(), arguments)));
        self.write(&Value::Object(message), deadline)?;
        loop {
            let message = self.read(deadline, &format!("answer to {command}"))?;
            if let Some(message) = self.keep_event(message)? {
                let answer =
                    Answer::deserialize(message).map_err(|e| ClientError::Protocol(e.to_string()))?;
                match answer {
                    // A late answer to a command that timed out.
                    Answer { id: Some(other), .. } if other != id => {}
                    Answer { error: Some(error), .. } => {
                        return Err(ClientError::Command { command: command.to_owned(), error });
                    }
                    Answer { value, .. } => return Ok(value.unwrap_or_default()),
                }
            }
        }
    }

    /// Waits for an event of that name. Returns at once if one came earlier and was not taken. Other
    /// events stay in the queue.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] at the deadline; others if the connection fails.
    pub fn wait_event(&mut self, name: &str, deadline: Instant) -> Result<EventMessage, ClientError> {
        loop {
            let position = self.events.iter().position(|event| event.event == name);
            if let Some(event) = position.and_then(|position| self.events.remove(position)) {
                return Ok(event);
            }
            let message = self.read(deadline, name)?;
            self.keep_event(message)?;
        }
    }

    /// Waits for an event and returns its data. See [`Client::wait_event`].
    ///
    /// # Errors
    /// As [`Client::wait_event`].
    pub fn wait<E: Event>(&mut self, deadline: Instant) -> Result<E, ClientError> {
        let mut event = self.wait_event(E::NAME, deadline)?;
        if event.data.is_null() {
            event.data = json!({});
        }
        serde_json::from_value(event.data).map_err(|e| ClientError::Protocol(format!("{}: {e}", E::NAME)))
    }

    /// Waits for the next event, of any name.
    ///
    /// # Errors
    /// As [`Client::wait_event`].
    pub fn next_event(&mut self, deadline: Instant) -> Result<EventMessage, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let message = self.read(deadline, "event")?;
            self.keep_event(message)?;
        }
    }

    /// Takes all events that have come, without waiting.
    pub fn events(&mut self) -> Vec<EventMessage> {
        // A connection that fails here fails in the next call too, which reports it.
        while let Ok(message) = self.read(Instant::now(), "event") {
            if self.keep_event(message).is_err() {
                break;
            }
        }
        self.events.drain(..).collect()
    }

    /// Queues an event; returns any other message.
    fn keep_event(&mut self, message: Value) -> Result<Option<Value>, ClientError> {
        if message.get("event").is_none() {
            return Ok(Some(message));
        }
        let event = EventMessage::deserialize(message).map_err(|e| ClientError::Protocol(e.to_string()))?;
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
        Ok(None)
    }

    fn write(&mut self, message: &Value, deadline: Instant) -> Result<(), ClientError> {
        let text = format!("{message}\n");
        // Zero would mean no limit.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket
            .set_write_timeout(Some(left))
            .and_then(|()| self.socket.write_all(text.as_bytes()))
            .map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
                _ => io_error("sending a command", e),
            })
    }

    /// Returns the next message. One that is there already is returned even after the deadline.
    fn read(&mut self, deadline: Instant, wanted: &str) -> Result<Value, ClientError> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            if let Some(message) = self.splitter.next_value() {
                return message.map_err(|e| ClientError::Protocol(e.desc));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Set for each read, since a time limit of zero would mean none.
            self.socket
                .set_nonblocking(left.is_zero())
                .and_then(|()| self.socket.set_read_timeout(Some(left).filter(|left| !left.is_zero())))
                .map_err(|e| io_error("configuring the socket", e))?;
            let read = self.socket.read(&mut buffer);
            self.socket.set_nonblocking(false).map_err(|e| io_error("configuring the socket", e))?;
            match read {
                Ok(0) => return Err(ClientError::Closed),
                Ok(length) => self.splitter.feed(&buffer[..length]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ClientError::Timeout(wanted.to_owned()));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                Err(e) => return Err(io_error("reading from the server", e)),
            }
        }
    }
}

/// Returns true if the server may still be starting.
fn not_yet(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
