//! The monitor through its sockets.

mod clients;
mod common;
mod wire;
