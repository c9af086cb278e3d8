//! The requests that the server answers: files of the page, and WebSockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::timeout;

use crate::access::{Access, PROTOCOL};
use crate::connector::Connector;
use crate::console::Consoles;
use crate::listener::Keep;
use crate::machine::Machine;
use crate::options::Control;
use crate::pipes::{self, Pipe, SCREEN, Tickets};
use crate::{assets, permit};

/// The most WebSockets at once.
const SOCKETS: usize = 32;
/// The longest message of a page, in bytes.
const LONGEST: usize = 1 << 20;
/// The most commands of a page without a reply.
const COMMANDS: usize = 64;
/// The time that a page has to take what is sent to it.
const STALLED: Duration = Duration::from_secs(60);

/// Headers of every response. Scripts are only files of this server; styles may be inline, because xterm.js
/// makes some; nothing may be fetched from, sent to or embedded by anybody else.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
         img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];

/// The server's state.
pub struct Server {
    /// Who may use it.
    pub access: Access,
    /// The machines that it shows.
    pub machines: Vec<Arc<Machine>>,
    /// The commands that a page may send; `None` if it may only look.
    pub control: Option<Control>,
    /// Permissions to open a pipe, each for one.
    pub tickets: Tickets,
    consoles: Consoles,
    connector: Connector,
    sockets: Arc<Semaphore>,
}

impl Server {
    /// Creates a server that nobody uses yet.
    pub fn new(
        access: Access,
        machines: Vec<Arc<Machine>>,
        control: Option<Control>,
        connector: Connector,
    ) -> Arc<Self> {
        let sockets = Arc::new(Semaphore::new(SOCKETS));
        let (tickets, consoles) = (Tickets::default(), Consoles::default());
        Arc::new(Server { access, machines, control, tickets, consoles, connector, sockets })
    }

    /// Returns the service of all requests.
    pub fn service(self: &Arc<Self>) -> IntoMakeServiceWithConnectInfo<Router, Keep> {
        let file =
            |Path(path): Path<String>, headers: HeaderMap| async move { assets::serve(&path, &headers) };
        Router::new()
            .route("/ws", get(watch))
            .route("/pipe", get(pipe))
            .route("/", get(|headers| async move { assets::serve("index.html", &headers) }))
            .route("/{*path}", get(file))
            .layer(middleware::from_fn_with_state(Arc::clone(self), guard))
            .with_state(Arc::clone(self))
            .into_make_service_with_connect_info()
    }

    /// Takes a place among the sockets.
    fn place(&self) -> Result<OwnedSemaphorePermit, StatusCode> {
        Arc::clone(&self.sockets).try_acquire_owned().map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// Checks `Host` before anything else looks at a request, and sets the headers of the response.
async fn guard(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = match server.access.host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(status) => status.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Opens the WebSocket of a page: news out, commands in.
async fn watch(
    State(server): State<Arc<Server>>,
    ConnectInfo(keep): ConnectInfo<Keep>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, StatusCode> {
    server.access.origin(&headers)?;
    server.access.token_of(&headers)?;
    let place = server.place()?;
    keep.set();
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(LONGEST).max_frame_size(LONGEST);
    Ok(upgrade.on_upgrade(move |socket| async move {
        page(&server, socket).await;
        drop(place);
    }))
}

/// Opens a WebSocket that carries a serial port's or the screen's bytes.
async fn pipe(
    State(server): State<Arc<Server>>,
    ConnectInfo(keep): ConnectInfo<Keep>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, StatusCode> {
    server.access.origin(&headers)?;
    let ticket = server.access.secret(&headers, "k.")?;
    let Pipe { machine, name } = server.tickets.take(ticket).ok_or(StatusCode::UNAUTHORIZED)?;
    let place = server.place()?;
    keep.set();
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(LONGEST).max_frame_size(LONGEST);
    if name != SCREEN {
        let console = server.consoles.open(&server.connector, machine, &name).await;
        let console = console.map_err(|_| StatusCode::BAD_GATEWAY)?;
        let may_type = server.control.is_some();
        return Ok(upgrade.on_upgrade(move |socket| async move {
            pipes::show(socket, &console, may_type).await;
            drop(place);
        }));
    }
    let stream = server.connector.connect(machine, Some(&name)).await;
    let stream = stream.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        // Either side has gone.
        let _ = pipes::carry(socket, stream).await;
        drop(place);
    }))
}

/// Serves a page until it goes.
async fn page(server: &Arc<Server>, socket: WebSocket) {
    let (mut out, mut incoming) = socket.split();
    let hello = json!({"hello": {
        "version": env!("CARGO_PKG_VERSION"),
        "machines": server.machines.iter().map(|machine| machine.socket.display().to_string()).collect::<Vec<_>>(),
        "control": server.control.map(Control::name),
    }});
    let (replies, mut outbox) = mpsc::channel::<String>(COMMANDS);
    let (known, news): (Vec<_>, Vec<_>) = server.machines.iter().map(|machine| machine.watch()).unzip();
    let first = std::iter::once(hello.to_string().into()).chain(known.into_iter().flatten());
    for message in first {
        if out.send(text(&message)).await.is_err() {
            return;
        }
    }
    let mut news =
        stream::select_all(news.into_iter().map(|receiver| Box::pin(stream::unfold(receiver, next_news))));
    let running = Arc::new(Semaphore::new(COMMANDS));
    loop {
        let message = tokio::select! {
            incoming = incoming.next() => match incoming {
                Some(Ok(Message::Text(request))) => {
                    // Nothing is waited for here: replies that nobody takes would keep the commands running.
                    match Arc::clone(&running).try_acquire_owned() {
                        Ok(turn) => {
                            let (server, replies) = (Arc::clone(server), replies.clone());
                            tokio::spawn(async move {
                                let reply = command(&server, &request).await;
                                // The page may have gone.
                                let _ = replies.send(reply).await;
                                drop(turn);
                            });
                            continue;
                        }
                        Err(_) => Message::Text(busy(&request).into()),
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Binary(_))) => {
                    let frame = CloseFrame { code: 1003, reason: "messages are text".into() };
                    let _ = out.send(Message::Close(Some(frame))).await;
                    return;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            Some(reply) = outbox.recv() => Message::Text(reply.into()),
            Some(news) = news.next() => text(&news),
        };
        // A page that takes nothing any more, on a host that is gone, gives its place back.
        match timeout(STALLED, out.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn text(message: &str) -> Message {
    Message::Text(Utf8Bytes::from(message))
}

/// Returns the next piece of news. A page that reads too slowly is told to ask for everything anew.
async fn next_news(
    mut receiver: broadcast::Receiver<Arc<str>>,
) -> Option<(Arc<str>, broadcast::Receiver<Arc<str>>)> {
    match receiver.recv().await {
        Ok(news) => Some((news, receiver)),
        Err(broadcast::error::RecvError::Lagged(_)) => Some((r#"{"resync":true}"#.into(), receiver)),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

/// Runs a request of a page. Returns the reply.
async fn command(server: &Server, request: &str) -> String {
    let request: Value = serde_json::from_str(request).unwrap_or_default();
    let reply = match run(server, &request).await {
        Ok(reply) => reply,
        Err(reason) => error(&reason),
    };
    reply_to(&request, reply)
}

/// Returns the reply to a request of a page that has too many without one.
fn busy(request: &str) -> String {
    let request: Value = serde_json::from_str(request).unwrap_or_default();
    reply_to(&request, error("too many commands of this page wait for replies"))
}

fn error(reason: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": reason}})
}

/// Marks a reply with the request's number.
fn reply_to(request: &Value, mut reply: Value) -> String {
    if let Some(reply) = reply.as_object_mut() {
        reply.insert("id".to_owned(), request["id"].clone());
    }
    reply.to_string()
}

async fn run(server: &Server, request: &Value) -> Result<Value, String> {
    let machine = request["m"].as_u64().and_then(|number| server.machines.get(usize::try_from(number).ok()?));
    let machine = machine.ok_or("no such machine")?;
    if let Some(pipe) = request["pipe"].as_str() {
        // It takes keys and pointers, and nothing here could keep those out.
        if pipe == SCREEN && server.control.is_none() {
            return Err("the page is read-only".to_owned());
        }
        let reply = machine.execute(pipes::command(pipe), &json!({})).await.map_err(|e| e.to_string())?;
        pipes::peer(&reply["return"], pipe)
            .ok_or_else(|| format!("'{pipe}' is not on a socket of this host"))?;
        let pipe = Pipe { machine: machine.number, name: pipe.to_owned() };
        return Ok(json!({"return": {"ticket": server.tickets.issue(pipe).map_err(|e| e.to_string())?}}));
    }
    let command = request["execute"].as_str().ok_or("no command")?;
    if !permit::allows(server.control, command) {
        let group = server.control.map_or("--read-only", Control::name);
        return Err(format!("the page may not send '{command}' ({group})"));
    }
    let none = json!({});
    let arguments = request.get("arguments").unwrap_or(&none);
    machine.execute(command, arguments).await.map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
