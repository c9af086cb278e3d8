//! The monitor: wire protocol, typed commands and events, HMP, server and client.
pub mod command;
mod error;
pub mod event;
pub mod schema;
pub mod types;

pub use command::{Command, Handler, Request};
pub use error::{Error, ErrorClass, Result};
pub use event::Event;
