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
//!
//! # Modules, in reading order
//!
//! - `proto`: numbers and headers of the wire
//! - `export`: the trait of what is served, its errors and extents
//! - `handshake`: a client chooses an export, by TLS below the protocol if that is required (crate [`link`])
//! - `disconnect`: the reason why a connection ended
//! - `serve`: the requests of one connection
//! - `reply`: replies as they stand on the wire
//! - [`client`]: the other side, its negotiation and its requests
//! - `uri`: addresses of servers and their exports
//!
//! # Example
//!
//! ```
//! # use std::{cell::RefCell, os::unix::net::UnixStream, rc::Rc, time::Duration};
//! use buf::Buf;
//! use nbd::client::{Client, negotiate};
//! use nbd::{Connection, Export, Exports, Extent, Info, handshake, serve};
//!
//! /// An [`Export`] in memory, and the only one of its [`Exports`], named "disk".
//! #[derive(Clone)]
//! struct Memory(Rc<RefCell<Vec<u8>>>);
//! # impl Export for Memory {
//! #     fn size(&self) -> u64 {
//! #         self.0.borrow().len() as u64
//! #     }
//! #     async fn read(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
//! #         buf.copy_from(&self.0.borrow()[offset as usize..][..buf.len()]);
//! #         Ok(())
//! #     }
//! #     async fn write(&self, offset: u64, buf: Buf) -> nbd::Result<()> {
//! #         buf.copy_to(&mut self.0.borrow_mut()[offset as usize..][..buf.len()]);
//! #         Ok(())
//! #     }
//! #     async fn flush(&self) -> nbd::Result<()> {
//! #         Ok(())
//! #     }
//! #     async fn trim(&self, _: u64, _: u64) -> nbd::Result<()> {
//! #         Ok(())
//! #     }
//! #     async fn write_zeroes(&self, _: u64, _: u64, _: bool) -> nbd::Result<()> {
//! #         Ok(())
//! #     }
//! #     async fn block_status(&self, _: u64, len: u64) -> nbd::Result<Extent> {
//! #         Ok(Extent { len, data: true, depth: 1 })
//! #     }
//! # }
//! # impl Exports for Memory {
//! #     type Found = Memory;
//! #     fn names(&self) -> Vec<String> {
//! #         vec!["disk".into()]
//! #     }
//! #     async fn find(&self, name: &str) -> Option<(Info, Memory)> {
//! #         (name == "disk").then(|| (Info { size: self.size(), ..Info::default() }, self.clone()))
//! #     }
//! # }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (ours, theirs) = UnixStream::pair()?;
//! let server = executor::spawn(async move {
//!     let (connection, exports) = (Connection::new(theirs)?, Memory(Rc::new(vec![0; 4096].into())));
//!     match handshake(&connection, &exports, None).await? {
//!         Some((session, export)) => serve(&connection, session, export).await,
//!         None => Ok(()),
//!     }
//! });
//! let connection = Connection::new(ours)?;
//! let offer = negotiate(&connection, "disk").await?;
//! let client = Client::new(&connection, offer, Duration::from_secs(20))?;
//! client.write(512, Buf::from_bytes(b"data")).await?;
//! let read = Buf::new(4);
//! client.read(512, read.clone()).await?;
//! assert_eq!(read.to_vec(), b"data");
//! # drop(client);
//! # server.await.ok_or("the server was cancelled")??;
//! # Ok(())
//! # }
//! # executor::Executor::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`) or inside them; `testing` is a server with a fake export and a client
//! that sees every byte. Clients and servers by other authors are tested in `tests/e2e/tests/nbd/`, and
//! hostile ones in `tests/hostile`.

pub mod client;
mod disconnect;
mod export;
mod handshake;
mod proto;
mod reply;
mod serve;
#[cfg(test)]
mod testing;
mod uri;

pub use disconnect::Disconnect;
pub use export::{Errno, Error, Export, Extent, Result};
pub use handshake::{Exports, Info, MAX_OPTION, Session, handshake};
pub use link::{Connection, Credentials};
pub use proto::{StringError, check_string};
pub use serve::{MAX_IN_FLIGHT, MAX_REQUEST, MAX_REQUESTS, serve};
pub use uri::{Address, Uri, UriError};
