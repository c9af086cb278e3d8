//! Disks over chains of images, switched, populated and copied live on one I/O thread each.

pub mod buf;
mod error;

pub use buf::Buf;
pub use error::{Error, ErrorKind, Result};
