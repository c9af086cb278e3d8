//! The NBD protocol, client and server sides, over any byte stream.
//!
//! A server runs in two places. [`handshake`] runs on the thread that accepts connections: it lets the
//! client choose among [`Exports`] and returns the choice. [`serve`] then runs on the thread of the
//! chosen [`Export`], which may be another one, and performs the client's requests there, so that data
//! never cross threads. Both use one [`Connection`], a descriptor that they share and that either may
//! [hang up](Connection::hang_up).
//!
//! The protocol is `doc/proto.md` of the NetworkBlockDevice project; sections named in this crate are
//! sections of it. Only fixed newstyle negotiation is supported, on the server side with TLS if
//! required, and without extended headers.
//!
//! Nothing that a client sends is trusted: an option has at most [`MAX_OPTION`] bytes, a request's data
//! at most [`MAX_REQUEST`], and one connection has at most [`MAX_REQUESTS`] requests and
//! [`MAX_IN_FLIGHT`] bytes of data at a time; beyond that nothing more is read from it. A client that
//! does not read its replies holds only the memory and the descriptor of its own connection: a request
//! has ended in its export before its reply is sent.

pub mod client;
mod connection;
mod export;
mod handshake;
mod link;
mod proto;
mod reply;
mod serve;
#[cfg(test)]
mod testing;
pub mod tls;
mod uri;

pub use connection::{Connection, Disconnect};
pub use export::{Errno, Error, Export, Extent, Result};
pub use handshake::{Exports, Info, MAX_OPTION, Session, handshake};
pub use proto::{StringError, check_string};
pub use serve::{MAX_IN_FLIGHT, MAX_REQUEST, MAX_REQUESTS, serve};
pub use uri::{Address, Uri, UriError};
