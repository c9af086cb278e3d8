//! The protocols that a name can begin with, and the table of them.

use std::rc::Rc;

use async_trait::async_trait;

use super::{HostOpener, Identity, Storage, file, nbd, null};
use crate::{Error, ErrorKind, Result};

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

/// The protocol of names without another one.
pub(super) static FILE: &dyn Protocol = &file::Files;

/// All protocols.
static PROTOCOLS: &[&dyn Protocol] = &[FILE, &nbd::Nbd, &null::Null];

/// Returns the protocol of a URI, `SCHEME://...`; `None` for the name of a file, and for an unknown scheme.
pub(crate) fn of_uri(name: &str) -> Option<&'static dyn Protocol> {
    let (scheme, _) = name.split_once("://")?;
    let others = PROTOCOLS.iter().copied().filter(|protocol| *protocol != FILE);
    others.into_iter().find(|protocol| protocol.schemes().contains(&scheme))
}

/// Returns true if a name is a URI of a known protocol. Such names are absolute wherever they are recorded.
pub fn is_uri(name: &str) -> bool {
    of_uri(name).is_some()
}

/// Returns the identity of what a name reaches outside of this program and its files, without connecting: its
/// server's address and its name there. `None` for the name of a file, and for `null:`.
///
/// # Errors
/// `Invalid` if it is a malformed URI.
pub fn outside(name: &str) -> Result<Option<Identity>> {
    of_uri(name).map_or(Ok(None), |protocol| protocol.outside(name))
}
