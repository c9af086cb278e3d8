//! Disks over chains of images, switched, populated and copied live on one I/O thread each.

pub mod chain;
pub mod check;
mod copy_on_read;
pub mod disk;
mod error;
pub mod format;
pub mod host;
pub mod image;
mod in_use;
pub mod io;
pub mod job;
pub mod map;
mod name;
pub mod node;
mod populate;
pub mod ranges;
mod resize;
pub mod sim;
pub mod stats;
pub mod step;
pub mod storage;
pub mod stream;
pub mod switch;
pub mod tray;
mod turns;

pub use ::buf::{self, Buf};
pub use disk::{Disk, DiskEvent, DiskHandle, Ticket};
pub use error::{Error, ErrorKind, Result};
pub use format::Kind;
pub use job::Job;

#[cfg(test)]
mod tests;
