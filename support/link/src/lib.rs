//! Stream connections on an executor, as the NBD and RFB protocols use them: in the clear or below TLS.
//!
//! A [`Connection`] is a connected socket that several threads may hold. A [`Link`] reads and writes it on
//! one executor, and can [leave](Link::leave) it to a link on another one. A link may be used by one task
//! that reads and by one at a time that writes.
//!
//! # Modules, in reading order
//!
//! - `connection`: a socket that two threads share
//! - `link`: reading in large steps, and writing
//! - `outbox`: messages that are sent together
//! - `tls`: a server's credentials, in files with QEMU's names
//!
//! # Example
//!
//! ```
//! # use std::os::unix::net::UnixStream;
//! use link::{Carried, Connection, Link};
//!
//! # async fn example() -> std::io::Result<()> {
//! let (ours, theirs) = UnixStream::pair()?;
//! let peer = Link::new(&Connection::new(theirs)?, Carried::default())?;
//! peer.send(b"hello").await?;
//! let link = Link::new(&Connection::new(ours)?, Carried::default())?;
//! let mut greeting = [0; 5];
//! link.fill(&mut greeting).await?;
//! assert_eq!(&greeting, b"hello");
//! # Ok(())
//! # }
//! # executor::Executor::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! # Tests
//!
//! The protocols test it: `nbd/src/*_tests.rs` and `support/rfb/src/server_tests.rs`, and with TLS the latter
//! and `tests/e2e/tests/nbd/tls.rs`.

mod connection;
mod link;
mod outbox;
mod tls;

pub use connection::Connection;
pub use link::{Carried, Link};
pub use outbox::{Message, Outbox};
pub use tls::{Credentials, CredentialsError};
