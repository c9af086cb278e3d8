//! The server: connections, the negotiation, and the commands that the monitor serves itself.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event as Signal;
use executor::{AsyncFd, JoinHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use socket2::Socket;

use crate::address::Listener;
use crate::command::{self, Command, Handler, Request, commands, own, to_value};
use crate::error::{Error, Result};
use crate::output::{Events, Outbox, line};
use crate::stream::Splitter;
use crate::types::{CommandName, VersionInfo, VersionTriple};
use crate::{hmp, introspect};

/// Bytes read at once.
const READ_SIZE: usize = 32 << 10;
/// The time that a client that sends nothing more has to read its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The pause after a failed accept: the host is out of descriptors or memory, and the listener stays
/// readable, so that trying at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// An answer as it stands on the wire (QMP specification, 2.4): `return` or `error`, and the `id`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Error>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Value>,
}

/// [`Handler`] as a trait object. `Handler` itself cannot be one, since its methods are asynchronous.
trait Dispatch {
    fn dispatch(&self, command: Command) -> Pin<Box<dyn Future<Output = Result<Value>> + '_>>;
}

impl<H: Handler> Dispatch for H {
    fn dispatch(&self, command: Command) -> Pin<Box<dyn Future<Output = Result<Value>> + '_>> {
        Box::pin(command::dispatch(self, command))
    }
}

struct Inner {
    handler: Rc<dyn Dispatch>,
    events: Events,
    listeners: RefCell<Vec<JoinHandle<()>>>,
    /// The number of commands that are being served.
    busy: Cell<usize>,
    idle: Signal,
    closing: Cell<bool>,
}

/// The monitor of a machine. It lives on one executor; clones are the same monitor.
#[derive(Clone)]
pub struct Monitor {
    inner: Rc<Inner>,
}

impl Monitor {
    /// Creates a monitor whose commands are served by `handler` and whose clients get `events`.
    pub fn new<H: Handler + 'static>(handler: Rc<H>, events: Events) -> Self {
        let inner = Inner {
            handler,
            events,
            listeners: RefCell::default(),
            busy: Cell::new(0),
            idle: Signal::new(),
            closing: Cell::new(false),
        };
        Monitor { inner: Rc::new(inner) }
    }

    /// Accepts clients until [`Monitor::shutdown`].
    ///
    /// # Errors
    /// Fails if the event loop does not accept the listener.
    pub fn listen(&self, listener: Listener) -> io::Result<()> {
        let listener = AsyncFd::new(listener)?;
        let monitor = self.clone();
        let task = executor::spawn(async move {
            loop {
                let accepted = listener.read_io(Listener::accept).await;
                if let Err(e) = accepted.and_then(|socket| monitor.serve(socket)) {
                    executor::limited!(warn, "accepting a monitor client: {e}");
                    executor::sleep(ACCEPT_AGAIN).await;
                }
            }
        });
        self.keep(task);
        Ok(())
    }

    /// Keeps a task that accepts clients until [`Monitor::shutdown`].
    pub(crate) fn keep(&self, task: JoinHandle<()>) {
        self.inner.listeners.borrow_mut().push(task);
    }

    /// Counts a command as running while the returned guard lives.
    pub(crate) fn busy(&self) -> Busy<'_> {
        Busy::new(&self.inner)
    }

    /// Serves one connected stream socket.
    ///
    /// # Errors
    /// Fails if the event loop does not accept the socket.
    pub fn serve(&self, socket: impl Into<Socket>) -> io::Result<()> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        let from_network = socket.local_addr()?.as_socket().is_some();
        let socket = Rc::new(AsyncFd::new(socket)?);
        let outbox = Rc::new(Outbox::default());
        self.inner.events.add(&outbox);
        executor::spawn(send(socket.clone(), outbox.clone()));
        executor::spawn(self.clone().session(socket, outbox, from_network));
        Ok(())
    }

    /// Stops listening, removes the socket files, and waits until the running commands have ended and
    /// all clients have read what was sent to them, for at most `time`. Must not be awaited by a
    /// command's method, whose end it waits for.
    pub async fn shutdown(&self, time: Duration) {
        self.inner.closing.set(true);
        for listener in self.inner.listeners.take() {
            listener.cancel();
        }
        let inner = self.inner.clone();
        executor::timeout(time, async move {
            while inner.busy.get() > 0 {
                inner.idle.wait().await;
            }
            for client in inner.events.clients() {
                client.drained().await;
            }
        })
        .await;
    }

    /// Serves one command, like a command of a client that has ended the negotiation.
    ///
    /// # Errors
    /// The command's error.
    pub async fn execute(&self, command: Command) -> Result<Value> {
        match command {
            Command::Own(own) => match own {
                own::Command::QmpCapabilities(_) => Err(Error::command_not_found(
                    "Capabilities negotiation is already complete, command ignored",
                )),
                own::Command::XEvents(_) => Err(Error::generic("x-events works only on a QMP connection")),
                own::Command::QueryVersion(_) => Ok(to_value(&version())),
                own::Command::QueryCommands(_) => {
                    let name = |command: &command::CommandInfo| CommandName { name: command.name.to_owned() };
                    Ok(to_value(&commands().map(name).collect::<Vec<_>>()))
                }
                own::Command::QueryQmpSchema(_) => Ok(to_value(&introspect::schema())),
                // Boxed, since a line of HMP calls this function again.
                own::Command::HumanMonitorCommand(arguments) => {
                    let text = Box::pin(hmp::execute(self, &arguments.command_line)).await;
                    Ok(text.replace('\n', "\r\n").into())
                }
            },
            other => self.inner.handler.dispatch(other).await,
        }
    }

    /// Serves one typed command.
    ///
    /// # Errors
    /// The command's error.
    pub async fn request<R: Request>(&self, request: R) -> Result<R::Answer> {
        let value = self.execute(request.into()).await?;
        serde_json::from_value(value).map_err(|e| Error::generic(e.to_string()))
    }

    async fn session(self, socket: Rc<AsyncFd<Socket>>, outbox: Rc<Outbox>, from_network: bool) {
        outbox.answer(line(&json!({"QMP": {"version": version(), "capabilities": []}})));
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; READ_SIZE];
        loop {
            match socket.read_io(|socket| (&mut &*socket).read(&mut buffer)).await {
                Ok(0) => splitter.finish(),
                Ok(length) => splitter.feed(&buffer[..length]),
                Err(_) => outbox.close(),
            }
            let ended = splitter.is_ended();
            while let Some(message) = splitter.next_value() {
                if outbox.is_closed() || self.inner.closing.get() {
                    break;
                }
                // A web page can make a browser send anything to a TCP port of this host, after a
                // request line and headers. Data from a page must not get as far as a command.
                if from_network && !outbox.is_negotiated() && !matches!(message, Ok(Value::Object(_))) {
                    tracing::info!("closing a TCP monitor connection that does not begin with QMP");
                    return hang_up(&socket, &outbox);
                }
                self.serve_message(message, &outbox).await;
                outbox.room().await;
                executor::yield_now().await;
            }
            if ended || outbox.is_closed() {
                break;
            }
        }
        executor::timeout(LAST_ANSWERS, outbox.drained()).await;
        hang_up(&socket, &outbox);
    }

    async fn serve_message(&self, message: Result<Value>, outbox: &Outbox) {
        let mut id = None;
        let result = match message.and_then(|message| request(message, &mut id)) {
            Ok((name, arguments)) if outbox.is_negotiated() => {
                let _busy = Busy::new(&self.inner);
                match Command::parse(&name, arguments) {
                    // Served here and not in `execute`, since it concerns the connection.
                    Ok(Command::Own(own::Command::XEvents(command::XEvents { enable }))) => {
                        outbox.set_extra(enable);
                        Ok(json!({}))
                    }
                    Ok(command) => {
                        let result = self.execute(command).await;
                        // Queued before `_busy` is dropped: `shutdown` waits for both.
                        return outbox.answer(answer(result, id));
                    }
                    Err(e) => Err(e),
                }
            }
            Ok((name, arguments)) => negotiate(&name, arguments, outbox),
            Err(e) => Err(e),
        };
        outbox.answer(answer(result, id));
    }
}

/// Counts a command as running while it lives.
pub(crate) struct Busy<'a>(&'a Inner);

impl<'a> Busy<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.busy.set(inner.busy.get() + 1);
        Busy(inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.idle.notify();
    }
}

async fn send(socket: Rc<AsyncFd<Socket>>, outbox: Rc<Outbox>) {
    while let Some(text) = outbox.next().await {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            match socket.write_io(|socket| (&mut &*socket).write(left)).await {
                Ok(length) => left = &left[length.min(left.len())..],
                Err(_) => return hang_up(&socket, &outbox),
            }
        }
        outbox.sent();
    }
}

/// Ends both tasks of a connection: the reader gets the end of the stream, the writer an error.
fn hang_up(socket: &AsyncFd<Socket>, outbox: &Outbox) {
    outbox.close();
    // Fails only if the client has hung up already.
    let _ = socket.get().shutdown(Shutdown::Both);
}

fn answer(result: Result<Value>, id: Option<Value>) -> Rc<str> {
    let (value, error) = match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    };
    line(&Answer { value, error, id })
}

/// Parses what a client sent as the server does. Calls `each` with every command, or with the error if
/// it is refused. For fuzzers.
pub fn read_commands(bytes: &[u8], mut each: impl FnMut(Result<Command>)) {
    let mut splitter = Splitter::default();
    for part in bytes.chunks(READ_SIZE) {
        splitter.feed(part);
        while let Some(message) = splitter.next_value() {
            let request = message.and_then(|message| request(message, &mut None));
            each(request.and_then(|(name, arguments)| Command::parse(&name, arguments)));
        }
    }
    splitter.finish();
}

/// Splits a request into its command and arguments. Sets `id` even if the request is refused.
fn request(message: Value, id: &mut Option<Value>) -> Result<(String, Map<String, Value>)> {
    let Value::Object(mut message) = message else {
        return Err(Error::generic("QMP input must be a JSON object"));
    };
    *id = message.remove("id");
    let name = match message.remove("execute") {
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(Error::generic("QMP input member 'execute' must be a string")),
        None => None,
    };
    let arguments = match message.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(Error::generic("QMP input member 'arguments' must be an object")),
        None => Map::new(),
    };
    if let Some(other) = message.keys().next() {
        return Err(Error::generic(format!("QMP input member '{other}' is unexpected")));
    }
    let name = name.ok_or_else(|| Error::generic("QMP input lacks member 'execute'"))?;
    Ok((name, arguments))
}

/// Serves the one command that exists before the negotiation has ended.
fn negotiate(name: &str, arguments: Map<String, Value>, outbox: &Outbox) -> Result<Value> {
    if name != command::QmpCapabilities::NAME {
        return Err(Error::command_not_found("Expecting capabilities negotiation with 'qmp_capabilities'"));
    }
    if let Command::Own(own::Command::QmpCapabilities(arguments)) = Command::parse(name, arguments)?
        && let Some(capability) = arguments.enable.iter().flatten().next()
    {
        return Err(Error::generic(format!("Capability {capability} not available")));
    }
    outbox.set_negotiated();
    Ok(json!({}))
}

/// Returns the version of QMP, by which clients choose their commands, and the program's name and version.
fn version() -> VersionInfo {
    VersionInfo {
        qemu: VersionTriple { major: 10, minor: 0, micro: 0 },
        package: concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}
