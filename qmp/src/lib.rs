//! The monitor: wire protocol, typed commands and events, HMP, server and client.
//!
//! A machine implements [`Handler`], one method for each command, and sends [`event`]s through
//! [`Events`]. A [`Monitor`] made of both serves QMP on any number of [`Listener`]s, on the machine's
//! executor:
//!
//! ```no_run
//! # use std::rc::Rc;
//! # use qmp::types::{Empty, RunState, StatusInfo};
//! # use qmp::{command, event, Address, Events, Handler, Listener, Monitor};
//! struct Machine {
//!     events: Events,
//! }
//!
//! impl Handler for Machine {
//!     async fn query_status(&self, _: command::QueryStatus) -> qmp::Result<StatusInfo> {
//!         Ok(StatusInfo { running: true, status: RunState::Running })
//!     }
//!     async fn stop(&self, _: command::Stop) -> qmp::Result<Empty> {
//!         self.events.emit(&event::Stopped {});
//!         Ok(Empty {})
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::bind(&"unix:/run/machine.sock".parse::<Address>()?)?;
//! executor::Executor::new()?.block_on(async move {
//!     let events = Events::new();
//!     let monitor = Monitor::new(Rc::new(Machine { events: events.clone() }), events);
//!     monitor.listen(listener)?;
//!     std::future::pending::<std::io::Result<()>>().await
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! The protocol is QEMU's (`docs/interop/qmp-spec`), its texts those of QEMU 10.0. Out-of-band execution
//! is not offered.

mod address;
mod client;
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
