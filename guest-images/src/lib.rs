//! Guest kernel, initramfs, guest agent and disks, and the lab that gives a host without KVM a real one.
//!
//! The order in which a test or a tool meets them: [`lab::enter_if_needed`] makes sure there is a KVM,
//! [`kernel::find`] and [`initramfs::guest`] give what a VMM boots, and [`agent::Agent`] talks to the
//! guest that came up. What the guest and the host must agree on ([`pattern`], [`wire`], [`frames`]), and
//! what both do ([`interface`]), is compiled into both sides; everything else needs the `host` feature, which
//! the guest's own agent lacks.

pub mod frames;
pub mod interface;
pub mod pattern;
pub mod wire;

#[cfg(feature = "host")]
pub mod agent;
#[cfg(feature = "host")]
pub mod agent_binary;
#[cfg(feature = "host")]
pub mod boot;
#[cfg(feature = "host")]
pub mod cache;
#[cfg(feature = "host")]
pub mod compression;
#[cfg(feature = "host")]
pub mod cpio;
#[cfg(feature = "host")]
pub mod debian;
#[cfg(feature = "host")]
mod error;
#[cfg(feature = "host")]
pub mod initramfs;
#[cfg(feature = "host")]
pub mod kernel;
#[cfg(feature = "host")]
pub mod lab;
#[cfg(feature = "host")]
pub mod libraries;
#[cfg(feature = "host")]
pub mod modules;
#[cfg(feature = "host")]
pub mod packages;
#[cfg(feature = "host")]
pub mod vmlinux;

#[cfg(feature = "host")]
pub use error::{Error, Result};
