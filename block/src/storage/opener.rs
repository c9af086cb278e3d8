//! How names become storage.

use std::rc::Rc;

use async_trait::async_trait;

use super::{Identity, Storage};
use crate::Result;

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
