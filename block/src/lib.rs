//! Disks over chains of images, switched, populated and copied live on one I/O thread each.

pub mod disk;
mod error;
pub mod format;
pub mod image;
pub mod io;
pub mod job;
pub mod sim;
pub mod storage;
mod turns;

pub use ::buf::{self, Buf};
pub use disk::job::Job;
pub use disk::{Disk, DiskEvent, DiskHandle, Ticket};
pub use disk::{stats, step, switch, tray};
pub use error::{Error, ErrorKind, Result};
pub use format::Kind;
pub use image::{chain, check, map, node};
pub use job::stream;
pub use storage::host;

#[cfg(test)]
mod tests;
