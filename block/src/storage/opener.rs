//! Opening storage by name.

use std::rc::Rc;

use async_trait::async_trait;

use super::file;
use super::name::Name;
use super::protocol::HostOpener;
use super::{Identity, Storage};
use crate::{Error, ErrorKind, Result};

/// Opens storage by name. No other code turns names into files.
#[async_trait(?Send)]
pub trait Opener {
    /// Opens an existing object.
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>>;

    /// Creates an empty file, or empties an existing one. A block device is opened as it is.
    ///
    /// # Errors
    /// `Locked` if another process has an image of this name open.
    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>>;

    /// Opens a file of this host for a record that is no image, to be written through the page cache. If
    /// `new`, creates it.
    ///
    /// # Errors
    /// If `new`, fails if something of this name exists; else with `NotFound` if it does not.
    async fn open_record(&self, name: &str, new: bool) -> Result<Rc<dyn Storage>> {
        let _ = new;
        Err(Error::new(ErrorKind::Unsupported, format!("{name}: no records can be kept there")))
    }

    /// Removes a file that [`Opener::open_record`] has created.
    async fn remove(&self, name: &str) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("{name}: nothing can be removed there")))
    }

    /// Returns the identity of the object that a name refers to, if it is known.
    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        Ok(self.open(name, false).await?.identity())
    }

    /// Returns a name of the same object that does not depend on the working directory, to be recorded
    /// in images.
    fn absolute(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }
}

#[async_trait(?Send)]
impl Opener for HostOpener {
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        let name = Name::parse(name)?;
        name.protocol().open(self, name.rest(), writable).await
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        let name = Name::parse(name)?;
        name.protocol().create(self, name.rest()).await
    }

    async fn open_record(&self, name: &str, new: bool) -> Result<Rc<dyn Storage>> {
        file::open_record(self, path(name)?, new).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let path = path(name)?.to_owned();
        let removed = executor::unconfined(move || std::fs::remove_file(path)).await;
        removed.map_err(|e| Error::io(format_args!("Could not remove '{name}'"), &e))
    }

    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        match Name::parse(name)? {
            // Known without connecting: some servers serve only one client at a time.
            Name::Uri(protocol, uri) => protocol.outside(uri),
            Name::File(_) => Ok(self.open(name, false).await?.identity()),
        }
    }

    fn absolute(&self, name: &str) -> Result<String> {
        let Name::File(path) = Name::parse(name)? else { return Ok(name.to_owned()) };
        let path = std::path::absolute(path).map_err(|e| Error::io(name, &e))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// Returns the path of a file of this host.
fn path(name: &str) -> Result<&str> {
    match Name::parse(name)? {
        Name::File(path) => Ok(path),
        Name::Uri(..) => Err(Error::new(ErrorKind::Invalid, format!("{name}: give the name of a file"))),
    }
}
