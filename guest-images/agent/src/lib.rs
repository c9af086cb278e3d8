//! The agent inside a test's guest, and the host's client for it.
//!
//! The modules that guest and host must agree on ([`pattern`], [`wire`], [`frames`]), and the one that
//! both need ([`interface`]), are compiled into both sides. [`client`], the host's side, needs the
//! feature of that name; the guest's own binary is built without it.

#[cfg(feature = "client")]
pub mod client;
pub mod frames;
pub mod interface;
pub mod pattern;
pub mod wire;
