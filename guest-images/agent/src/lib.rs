//! The agent inside a test's guest, and the host's client of it.
//!
//! What the guest and the host must agree on ([`pattern`], [`wire`], [`frames`]), and what both do
//! ([`interface`]), is compiled into both sides. [`client`], the host's side, needs the feature of that name, which the
//! guest's own binary is built without.

#[cfg(feature = "client")]
pub mod client;
pub mod frames;
pub mod interface;
pub mod pattern;
pub mod wire;
