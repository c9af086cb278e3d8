//! The interface of a protocol: a way to reach storage. The table of protocols is in `name.rs`.

use std::rc::Rc;

use async_trait::async_trait;

use super::{Identity, Storage};
use crate::io::Engine;
use crate::{Error, ErrorKind, Result};

/// Opens the files of this host, and whatever else the table of protocols has.
pub struct HostOpener {
    /// The I/O engine for all operations on files.
    pub engine: Engine,
    /// True to bypass the host's page cache (O_DIRECT).
    pub direct: bool,
}

/// A way to reach storage, chosen by what stands before the colon of a name.
#[async_trait(?Send)]
pub(crate) trait Protocol: Sync {
    /// The words that its names begin with, as `nbd` of `nbd://host/export`.
    fn schemes(&self) -> &'static [&'static str];

    /// Opens an existing object. `name` is a whole URI, or for files the path alone.
    async fn open(&self, opener: &HostOpener, name: &str, writable: bool) -> Result<Rc<dyn Storage>>;

    /// Creates an empty object, or empties an existing one.
    async fn create(&self, _opener: &HostOpener, name: &str) -> Result<Rc<dyn Storage>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{name}: images cannot be created there")))
    }

    /// Returns the identity of the object outside of this program that a URI reaches, without connecting.
    /// `None` if it reaches nothing, as `null:`; then the URI is also allowed under `--allow-uri`.
    ///
    /// # Errors
    /// `Invalid` if the URI is malformed.
    fn outside(&self, uri: &str) -> Result<Option<Identity>>;

    /// Returns true if an image may record its names as its backing file.
    fn can_be_recorded(&self) -> bool {
        true
    }
}

impl PartialEq for dyn Protocol {
    fn eq(&self, other: &Self) -> bool {
        self.schemes() == other.schemes()
    }
}

impl Eq for dyn Protocol {}

impl std::fmt::Debug for dyn Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.schemes().fmt(f)
    }
}
