//! Checks and repairs an image's metadata, like `qemu-img check`.

use crate::format::Kind;
pub use crate::format::{Repair, Report};
use crate::storage::{Lock, Opener};
use crate::{Error, ErrorKind, Result};

/// Checks an image, and repairs it if `repair` is given. The report describes the image after the repair.
///
/// # Errors
/// `Unsupported` for formats without metadata to check; `Corrupt` if it cannot be checked at all;
/// `Locked` if it is in use.
pub async fn check(opener: &dyn Opener, name: &str, kind: Kind, repair: Option<Repair>) -> Result<Report> {
    let lock = if repair.is_some() { Lock::Leaf } else { Lock::Backing };
    check_under(opener, name, kind, repair, lock).await
}

/// Checks an image that another process may be writing, so it may be half changed.
///
/// # Errors
/// As [`check`], except for `Locked`.
pub async fn check_in_use(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Report> {
    check_under(opener, name, kind, None, Lock::Look).await
}

async fn check_under(
    opener: &dyn Opener,
    name: &str,
    kind: Kind,
    repair: Option<Repair>,
    lock: Lock,
) -> Result<Report> {
    if !kind.has_metadata() {
        let text = format!("{name}: the format {kind} does not support checks");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let storage = opener.open(name, repair.is_some()).await?;
    storage.lock(lock)?;
    kind.driver().check(&storage, repair).await.map_err(|e| match e.kind() {
        ErrorKind::Io | ErrorKind::NoSpace => e,
        _ => e.context(name),
    })
}
