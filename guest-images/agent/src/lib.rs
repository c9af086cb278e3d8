//! The agent inside a test's guest, and the host's client for it.
//!
//! The modules that guest and host must agree on ([`pattern`], [`wire`], [`frames`]), and the one that
//! both need ([`interface`]), are compiled into both sides. [`client`], the host's side, needs the
//! feature of that name; the guest's own binary is built without it.
//!
//! # Modules, in reading order
//!
//! - [`wire`]: the line protocol between a test and the agent
//! - [`pattern`]: the content that the guest writes, which tells every kind of damage apart
//! - [`client`]: the host's side of the protocol
//! - [`frames`]: the protocol of the emulated host's init
//! - [`interface`]: network interfaces, without any tools
//! - `src/bin/guest-agent/`: the static binary that is `/init`; `main.rs` selects its role, `serve.rs`
//!   serves the line protocol
//!
//! # Example
//!
//! ```
//! # use std::io::{self, BufRead, BufReader, Write};
//! # use std::{error::Error, os::unix::net::UnixStream, time::Duration};
//! use guest_agent::pattern::{self, BLOCK, Found, Stamp};
//! use guest_agent::{client::Agent, wire::Request};
//!
//! # fn main() -> Result<(), Box<dyn Error>> {
//! let (host, mut guest) = UnixStream::pair()?;
//! // In place of the guest's serial line. The agent serves it with real disks.
//! std::thread::spawn(move || -> io::Result<()> {
//!     for line in BufReader::new(guest.try_clone()?).lines() {
//!         let Some(request) = Request::parse(&line?) else { continue };
//!         let reply = match request.verb.as_str() {
//!             "hello" => "ok version=1 boot=a",
//!             "size" => "ok bytes=65536",
//!             _ => "err unknown request",
//!         };
//!         writeln!(guest, "{} {reply}", request.id)?;
//!     }
//!     Ok(())
//! });
//! let console = Box::new(|| "its console, for errors".to_owned());
//! let mut agent = Agent::connect(host, Duration::from_secs(20), console)?;
//! assert_eq!(agent.size("/dev/vda")?, 65536);
//!
//! // A block says where it belongs and which write it is.
//! let mut block = [0; BLOCK];
//! pattern::write(&mut block, Stamp { offset: 8192, seq: 3, seed: 1 });
//! assert_eq!(pattern::read(&block, 8192, 1), Found::Written { seq: 3 });
//! assert_eq!(pattern::read(&block, 4096, 1), Found::Misplaced { from: 8192 });
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`); `serve_tests.rs` of the binary drives the whole agent through its
//! client, with files instead of devices.

#[cfg(feature = "client")]
pub mod client;
pub mod frames;
pub mod interface;
pub mod pattern;
pub mod wire;
