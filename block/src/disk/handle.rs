//! The way to a disk from other threads.

use std::rc::Rc;

use executor::Gone;
use executor::Handle;

use super::Disk;
use crate::{Error, ErrorKind};

/// A handle for using a disk from other threads.
pub type DiskHandle = Handle<Disk>;

impl Disk {
    /// Returns a handle for other threads.
    pub fn handle(self: &Rc<Self>) -> DiskHandle {
        Handle::new(self)
    }
}

impl From<Gone> for Error {
    fn from(_: Gone) -> Self {
        Error::new(ErrorKind::NotFound, "the disk is gone")
    }
}
