//! The monitor: wire protocol, typed commands and events, HMP, server and client.
//!
//! A machine implements [`Handler`], a trait for each group of commands, and sends [`event`]s through
//! [`Events`]. A [`Monitor`] made of both serves QMP on any number of [`Listener`]s, on the machine's
//! executor. The protocol is QEMU's (`docs/interop/qmp-spec`), its texts those of QEMU 10.0. Out-of-band
//! execution is not offered.
//!
//! # Modules, in reading order
//!
//! - [`schema`]: the macros that turn one entry into a type, its strict parser and its description
//! - [`types`]: types of answers and events, named as in QEMU's QAPI
//! - [`command`], [`event`]: one entry for each command and event
//! - `error`: the error of a command, with its class
//! - [`id`]: the names that users may give
//! - `stream`: bytes to JSON values, with QEMU's extensions and recovery
//! - `output`: lines that wait for one client, and the events that all get
//! - `monitor`: the server, with its connections and their negotiation
//! - [`hmp`]: lines of the text monitor, which run as typed commands; `text`: their connections
//! - `introspect`: `query-qmp-schema`
//! - `address`: the addresses that a server listens on
//! - `client`: the blocking client
//!
//! # Example
//!
//! ```
//! # use std::{os::unix::net::UnixStream, rc::Rc, time::{Duration, Instant}};
//! # use qmp::types::{Empty, RunState, StatusInfo};
//! use qmp::{Client, Events, Monitor, command, event};
//!
//! struct Machine(Events);
//!
//! impl command::MachineCommands for Machine {
//!     async fn query_status(&self, _: command::QueryStatus) -> qmp::Result<StatusInfo> {
//!         Ok(StatusInfo { running: true, status: RunState::Running })
//!     }
//!     async fn stop(&self, _: command::Stop) -> qmp::Result<Empty> {
//!         self.0.emit(&event::Stopped {});
//!         Ok(Empty {})
//!     }
//! }
//! # impl command::DiskCommands for Machine {}
//! # impl command::TrayCommands for Machine {}
//! # impl command::SnapshotCommands for Machine {}
//! # impl command::JobCommands for Machine {}
//! # impl command::NodeCommands for Machine {}
//! # impl command::CopyCommands for Machine {}
//! # impl command::WatchCommands for Machine {}
//! # impl command::ExportCommands for Machine {}
//! # impl command::ScreenCommands for Machine {}
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (ours, theirs) = UnixStream::pair()?;
//! let server = executor::Thread::start("monitor", move || async move {
//!     let events = Events::new();
//!     let monitor = Monitor::new(Rc::new(Machine(events.clone())), events);
//!     monitor.serve(theirs).expect("serves the connection");
//!     std::future::pending().await
//! })?;
//! let mut client = Client::from_socket(ours)?;
//! assert!(client.execute(&command::QueryStatus {})?.running);
//! client.execute(&command::Stop {})?;
//! client.wait::<event::Stopped>(Instant::now() + Duration::from_secs(20))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! Beside the files (`*_tests.rs`), and in `tests/monitor/`, through sockets, byte by byte. The commands as
//! the real program performs them are tested in `tests/e2e/tests/monitor/`, against QEMU's own programs.

mod address;
mod client;
#[macro_use]
mod command_table;
pub mod command;
mod error;
pub mod event;
pub mod hmp;
pub mod id;
mod introspect;
mod monitor;
mod output;
pub mod schema;
mod stream;
mod text;
pub mod types;

pub use address::{Address, AddressError, Listener, give_sockets, remove_sockets};
pub use client::{Client, ClientError};
pub use command::{Command, Handler, Request};
pub use error::{Error, ErrorClass, Result};
pub use event::Event;
pub use monitor::{Monitor, read_commands};
pub use output::{EventMessage, Events, MAX_EVENT_BYTES, Timestamp};
pub use stream::{MAX_MESSAGE, MAX_NESTING};
pub use text::PROMPT;
