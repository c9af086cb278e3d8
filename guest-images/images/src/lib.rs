//! Makes what a guest boots: kernels, initramfs and disks with Debian systems, from Debian's packages.
//!
//! [`kernel::find`] and [`initramfs::guest`] return what a VMM boots, [`debian::Debian`] makes a disk
//! with a whole system, and [`micro`] contains guests of a few bytes. Everything is made once and kept
//! in a cache ([`cache`]).

pub mod agent_binary;
pub mod boot;
pub mod cache;
pub mod compression;
pub mod cpio;
pub mod debian;
mod error;
pub mod initramfs;
pub mod kernel;
pub mod libraries;
pub mod micro;
pub mod modules;
pub mod packages;
pub mod vmlinux;

pub use error::{Error, Result, output, program_name};
