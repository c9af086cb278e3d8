//! The images that the command line allows to be opened.

use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use block::storage::Opener;
use block::storage::file::FileOpener;
use block::storage::{Identity, Storage, nbd};
use block::{Error, ErrorKind, Result};

use super::options::Run;

/// The NBD exports that may be opened; `None` allows all.
#[derive(Clone, Default)]
pub(super) struct Exports(Option<Arc<[Identity]>>);

impl Exports {
    /// Returns the exports that the command line allows: all of them without `--allow-dir` and
    /// `--allow-uri`, otherwise those that `--drive`, `--cdrom` and `--allow-uri` name.
    ///
    /// # Errors
    /// Fails if one of these names is not the URI of an export.
    pub(super) fn of(options: &Run) -> Result<Self> {
        if options.allow_dir.is_empty() && options.allow_uri.is_empty() {
            return Ok(Exports(None));
        }
        let named = options.drive.iter().chain(&options.cdrom).map(|drive| &drive.file);
        let named = named.filter(|file| nbd::is_uri(file)).chain(&options.allow_uri);
        let allowed = named.map(|uri| nbd::identity(uri)).collect::<Result<_>>()?;
        Ok(Exports(Some(allowed)))
    }

    fn check(&self, name: &str) -> Result<()> {
        let Some(allowed) = self.0.as_ref().filter(|_| nbd::is_uri(name)) else { return Ok(()) };
        if allowed.contains(&nbd::identity(name)?) {
            return Ok(());
        }
        let text = format!("{name}: this NBD export is not allowed: name it with --allow-uri");
        Err(Error::new(ErrorKind::Invalid, text))
    }
}

/// Opens files, which Landlock restricts, and the NBD exports that are allowed.
pub(super) struct Allowed {
    pub files: FileOpener,
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

    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        self.files.identity(name).await
    }

    fn absolute(&self, name: &str) -> Result<String> {
        self.files.absolute(name)
    }
}
