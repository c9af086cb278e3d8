//! The images that the command line allows to be opened.

use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use block::storage::{self, HostOpener, Identity, Opener, Storage};
use block::{Error, ErrorKind, Result};

use super::options::Run;

/// The objects on servers that may be opened, as NBD exports; `None` allows all.
#[derive(Clone, Default)]
pub(super) struct Exports(Option<Arc<[Identity]>>);

impl Exports {
    /// Returns the exports that the command line allows: all of them without `--allow-dir` and
    /// `--allow-uri`, otherwise those that `--drive`, `--cdrom` and `--allow-uri` name.
    ///
    /// # Errors
    /// Fails if one of these names is a malformed URI, or one of `--allow-uri` is not a URI.
    pub(super) fn of(options: &Run) -> Result<Self> {
        if options.allow_dir.is_empty() && options.allow_uri.is_empty() {
            return Ok(Exports(None));
        }
        if let Some(name) = options.allow_uri.iter().find(|name| !storage::is_uri(name)) {
            let text =
                format!("--allow-uri {name}: use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let drives = options.drive.iter().chain(&options.cdrom).map(|drive| &drive.file);
        let named = drives.chain(&options.allow_uri).map(|name| storage::outside(name));
        let allowed = named.filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok(Exports(Some(allowed)))
    }

    /// Fails if a name reaches what is not allowed. One that reaches nothing outside, as `null://1G`, always
    /// may be opened.
    fn check(&self, name: &str) -> Result<()> {
        let Some(allowed) = &self.0 else { return Ok(()) };
        match storage::outside(name)? {
            Some(export) if !allowed.contains(&export) => {
                let text = format!("{name}: this NBD export is not allowed: name it with --allow-uri");
                Err(Error::new(ErrorKind::Invalid, text))
            }
            _ => Ok(()),
        }
    }
}

/// Opens files, which Landlock restricts, and the NBD exports that are allowed.
pub(super) struct Allowed {
    pub files: HostOpener,
    pub exports: Exports,
}

#[async_trait(?Send)]
impl Opener for Allowed {
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        self.exports.check(name)?;
        self.files.open(name, writable).await
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        self.files.create(name).await
    }

    async fn open_record(&self, name: &str, new: bool) -> Result<Rc<dyn Storage>> {
        self.files.open_record(name, new).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.files.remove(name).await
    }

    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        self.files.identity(name).await
    }

    fn absolute(&self, name: &str) -> Result<String> {
        self.files.absolute(name)
    }
}
