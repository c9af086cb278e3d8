//! The server: its configuration, its clients, and the events of their lives.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use executor::{AsyncFd, JoinHandle};
use link::{Carried, Connection, Credentials, Link};
use socket2::{SockAddr, Socket};

use crate::display::Display;
use crate::failures::{Failures, Peer};
use crate::keyboard::Keyboard;
use crate::login::{Ended, Terms, login};
use crate::password::Password;
use crate::screen::{Input, Screen};
use crate::session;

/// The configuration of a server.
#[derive(Clone, Default)]
pub struct Config {
    /// The name of the desktop, which clients show as their window's title.
    pub name: String,
    /// The password that clients must know; without one, everybody who reaches the server gets in.
    pub password: Option<Password>,
    /// The credentials of TLS. With them, only clients that use TLS (VeNCrypt) get in: everybody who does,
    /// unless the credentials verify the peer or there is a password.
    pub credentials: Option<Credentials>,
}

/// The reason why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither a password nor certificates of clients, on an address that other machines may reach.
    #[error(
        "{0} can be reached from other machines: it needs a password, or TLS credentials with verify-peer=on"
    )]
    Open(SocketAddr),
    /// The socket cannot be used.
    #[error("the listening socket: {0}")]
    Io(#[from] std::io::Error),
}

/// One end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A Unix socket, with its path if it has one: the socket of a client has none.
    Unix(Option<PathBuf>),
    /// An address of TCP.
    Ip(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(None) => f.write_str("on a Unix socket"),
            Endpoint::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Endpoint::Ip(address) => address.fmt(f),
        }
    }
}

/// The way in which clients prove who they are. [`Security::name`] is QEMU's name of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// Not at all.
    None,
    /// By a password, in the clear (VncAuth).
    Vnc,
    /// Over TLS (VeNCrypt, X509None). With `verify-peer` the client's certificate proves it.
    TlsNone,
    /// By a password over TLS (VeNCrypt, X509Vnc).
    TlsVnc,
}

impl Security {
    /// The name in QEMU's `query-vnc` (`auth` of `VncInfo`, and of the server in `VNC_*` events).
    pub fn name(self) -> &'static str {
        match self {
            Security::None => "none",
            Security::Vnc => "vnc",
            Security::TlsNone => "vencrypt+x509+none",
            Security::TlsVnc => "vencrypt+x509+vnc",
        }
    }
}

/// A client, as `query-vnc` and the `VNC_*` events describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientInfo {
    /// A number of its own, never used again by this server.
    pub id: u64,
    /// Our end of the connection.
    pub server: Endpoint,
    /// The client's end of the connection.
    pub peer: Endpoint,
    /// The server's security.
    pub security: Security,
}

/// A step in the life of a client. Each client has them in this order, and each one ends with
/// [`Event::Disconnected`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It connected (`VNC_CONNECTED`).
    Connected(ClientInfo),
    /// It proved who it is, and sees the screen now (`VNC_INITIALIZED`).
    Initialized(ClientInfo),
    /// It is gone (`VNC_DISCONNECTED`).
    Disconnected(ClientInfo),
}

/// The most clients that see the screen at once.
pub const MAX_CLIENTS: usize = 32;
/// The most clients that are logging in at once, with those whose attempts wait for their judgement. Then one
/// of those with the same address as most others has to go.
pub const MAX_LOGINS: usize = 64;
/// The pause after a failed accept: the host is out of descriptors, and retrying at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A running server, on the executor that made it.
///
/// It lives until [`Server::stop`]. Other threads reach it by an [`executor::Handle`].
///
/// Its thread makes these system calls for it: `accept4`, those of the event loop, `readv` and `recvfrom`,
/// `sendmsg` and `sendto` without an address, `getsockname`, `fcntl` and `setsockopt` (keep-alive with its
/// idle time, and `TCP_NODELAY`) on new connections, `shutdown`, `close` and `getrandom`.
pub struct Server {
    config: Config,
    security: Security,
    endpoint: Endpoint,
    display: Rc<Display>,
    input: Rc<dyn Input>,
    caps_lock: Rc<Cell<bool>>,
    failures: Failures,
    events: Box<dyn Fn(Event)>,
    clients: RefCell<BTreeMap<u64, Client>>,
    next_id: Cell<u64>,
    accepting: RefCell<Option<JoinHandle<()>>>,
}

struct Client {
    info: ClientInfo,
    connection: Connection,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is logging in.
    Login,
    /// It was hung up on, to make room.
    Leaving,
    /// It has logged in, and may have got the screen's size.
    Session { initialized: bool },
}

impl Server {
    /// Starts a server on a socket that is bound and listens: a Unix or TCP socket. It accepts clients until
    /// [`Server::stop`].
    ///
    /// `events` is called on this thread, and must not block.
    ///
    /// # Errors
    /// [`ConfigError`].
    ///
    /// # Panics
    /// Outside a task of a real executor.
    pub fn start(
        listener: impl Into<OwnedFd>,
        config: Config,
        screen: Rc<dyn Screen>,
        input: Rc<dyn Input>,
        events: impl Fn(Event) + 'static,
    ) -> Result<Rc<Self>, ConfigError> {
        let listener = Socket::from(listener.into());
        listener.set_nonblocking(true)?;
        let endpoint = endpoint(&listener.local_addr()?);
        let security = match (&config.credentials, &config.password) {
            (None, None) => Security::None,
            (None, Some(_)) => Security::Vnc,
            (Some(_), None) => Security::TlsNone,
            (Some(_), Some(_)) => Security::TlsVnc,
        };
        let verifies_peer = config.credentials.as_ref().is_some_and(Credentials::verifies_peer);
        if let (None, false, Endpoint::Ip(address)) = (&config.password, verifies_peer, &endpoint)
            && !address.ip().to_canonical().is_loopback()
        {
            return Err(ConfigError::Open(*address));
        }
        let listener = AsyncFd::for_reading(listener)?;
        let server = Rc::new(Server {
            config,
            security,
            endpoint,
            display: Rc::new(Display::new(screen, input.clone())),
            input,
            caps_lock: Rc::default(),
            failures: Failures::default(),
            events: Box::new(events),
            clients: RefCell::default(),
            next_id: Cell::new(0),
            accepting: RefCell::default(),
        });
        let display = server.display.clone();
        executor::spawn(async move { display.run().await });
        let accepting = executor::spawn(server.clone().accept(listener));
        *server.accepting.borrow_mut() = Some(accepting);
        Ok(server)
    }

    /// Returns the way in which clients prove who they are.
    pub fn security(&self) -> Security {
        self.security
    }

    /// Returns the address that the server listens on.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Returns the clients that see the screen, the oldest first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let clients = self.clients.borrow();
        let seeing = |client: &&Client| client.stage == Stage::Session { initialized: true };
        clients.values().filter(seeing).map(|client| client.info.clone()).collect()
    }

    /// Stops accepting, and disconnects every client. Their events follow.
    pub fn stop(&self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.cancel();
        }
        self.display.stop();
        self.clients.borrow().values().for_each(|client| client.connection.hang_up());
    }

    async fn accept(self: Rc<Self>, listener: AsyncFd<Socket>) {
        loop {
            let accepted = listener.read_io(|listener| listener.accept()).await;
            match accepted.and_then(|(socket, peer)| Ok((Connection::new(socket)?, peer))) {
                Ok((connection, peer)) => self.clone().welcome(connection, endpoint(&peer)),
                Err(e) => {
                    executor::limited!(warn, "accepting a VNC client: {e}");
                    executor::sleep(ACCEPT_AGAIN).await;
                }
            }
            // Somebody who connects without end must not keep the thread from others.
            executor::yield_now().await;
        }
    }

    fn welcome(self: Rc<Self>, connection: Connection, peer: Endpoint) {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let info = ClientInfo { id, server: self.local(&connection), peer, security: self.security };
        (self.events)(Event::Connected(info.clone()));
        let client = Client { info: info.clone(), connection: connection.clone(), stage: Stage::Login };
        self.clients.borrow_mut().insert(id, client);
        self.make_room();
        executor::spawn(async move {
            if let Err(e) = self.serve(&connection, &info).await {
                match e {
                    e @ (Ended::Io(_) | Ended::Stopped) => tracing::debug!("VNC client {}: {e}", info.peer),
                    e => executor::limited!(warn, "VNC client {}: {e}", info.peer),
                }
            }
            self.clients.borrow_mut().remove(&id);
            (self.events)(Event::Disconnected(info));
        });
    }

    /// Returns our end of a connection: a server on all addresses has another one for each.
    fn local(&self, connection: &Connection) -> Endpoint {
        match &self.endpoint {
            Endpoint::Ip(_) => connection.local_addr().map_or(self.endpoint(), |address| endpoint(&address)),
            Endpoint::Unix(_) => self.endpoint(),
        }
    }

    /// Hangs up on a client if too many are logging in: the oldest of those whose addresses have most of
    /// them, so that nobody can keep others out.
    fn make_room(&self) {
        let mut clients = self.clients.borrow_mut();
        let mut counts: BTreeMap<Peer, usize> = BTreeMap::new();
        for client in clients.values().filter(|client| client.stage == Stage::Login) {
            *counts.entry(Peer::of(&client.info.peer)).or_default() += 1;
        }
        if counts.values().sum::<usize>() <= MAX_LOGINS {
            return;
        }
        let most = counts.values().copied().max();
        let goes = clients.values_mut().find(|client| {
            client.stage == Stage::Login && counts.get(&Peer::of(&client.info.peer)).copied() == most
        });
        if let Some(client) = goes {
            client.stage = Stage::Leaving;
            client.connection.hang_up();
        }
    }

    /// Returns the reason why no more clients get in, if there is one.
    fn full(&self) -> Option<&'static str> {
        let clients = self.clients.borrow();
        let in_session = |client: &&Client| matches!(client.stage, Stage::Session { .. });
        let sessions = clients.values().filter(in_session).count();
        (sessions >= MAX_CLIENTS).then_some("too many clients see this screen already")
    }

    fn set_stage(&self, id: u64, stage: Stage) {
        if let Some(client) = self.clients.borrow_mut().get_mut(&id) {
            client.stage = stage;
        }
    }

    async fn serve(&self, connection: &Connection, info: &ClientInfo) -> Result<(), Ended> {
        let mut link = Link::new(connection, Carried::default())?;
        let full = || self.full();
        let terms = Terms {
            password: self.config.password.as_ref(),
            credentials: self.config.credentials.as_ref(),
            failures: &self.failures,
            peer: Peer::of(&info.peer),
            full: &full,
        };
        login(&mut link, &terms).await?;
        self.set_stage(info.id, Stage::Session { initialized: false });
        let keyboard = Keyboard::new(self.input.clone(), self.caps_lock.clone());
        let initialized = || {
            self.set_stage(info.id, Stage::Session { initialized: true });
            (self.events)(Event::Initialized(info.clone()));
        };
        session::run(link, &self.display, info.id, keyboard, &self.config.name, initialized).await
    }
}

fn endpoint(address: &SockAddr) -> Endpoint {
    match address.as_socket() {
        Some(address) => Endpoint::Ip(address),
        None => Endpoint::Unix(address.as_pathname().map(PathBuf::from)),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
