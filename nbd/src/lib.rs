//! The NBD protocol, client and server sides, over any byte stream.
//!
//! A server has two places. [`handshake`] runs wherever connections are accepted: it lets the client
//! choose among [`Exports`] and answers the choice. [`serve`] then runs where the chosen [`Export`]
//! lives, on another thread for all that this crate knows, and does the client's requests there, so
//! that data never cross threads. Between the two goes a [`Connection`], a descriptor that both share
//! and that either may [hang up](Connection::hang_up).
//!
//! The protocol is `doc/proto.md` of the NetworkBlockDevice project; sections named in this crate are
//! its. Only fixed newstyle negotiation is spoken, on the server side with TLS where asked for, and without
//! extended headers.
//!
//! Nothing that a client sends is trusted: an option has at most [`MAX_OPTION`] bytes, a request's data
//! at most [`MAX_REQUEST`], and one connection has at most [`MAX_REQUESTS`] requests and
//! [`MAX_IN_FLIGHT`] bytes of data at a time; beyond that nothing more is read from it. A client that
//! does not read its answers keeps only its own memory and descriptor: requests are done with their
//! export before the answer is sent.

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
