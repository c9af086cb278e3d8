//! The end of a connection that its client did not ask for.

use std::io;

/// The reason why a connection ended without its client's request.
#[derive(Debug, thiserror::Error)]
pub enum Disconnect {
    /// The peer hung up in the middle of something, or the host failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client broke the protocol, so that the connection cannot go on.
    #[error("the NBD client {0}")]
    Protocol(&'static str),
    /// The same for a server.
    #[error("the NBD server {0}")]
    Server(&'static str),
}
