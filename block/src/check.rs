//! Checks and repairs an image's metadata, like `qemu-img check`.

use crate::chain::Opener;
use crate::format::{Kind, qcow2, qed};
use crate::storage::Lock;
use crate::{Error, ErrorKind, Result};

/// Maximum number of problems that are described; further ones are only counted.
const TOLD: usize = 1000;

/// The changes that a repair may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Lowers refcounts that are too high; truncates a QED file behind its last cluster in use. Safe on
    /// any image.
    Leaks,
    /// Also rewrites the refcounts if some are too low, makes flags match them, and gives entries that
    /// contradict themselves one meaning. In QED, a reference to a place where no cluster can be becomes
    /// absent, and a second reference to a cluster gets a copy.
    All,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of errors in the metadata: data is in danger, or already lost.
    pub corruptions: u64,
    /// Number of clusters that are allocated but not referenced.
    pub leaks: u64,
    /// Number of corruptions that a repair fixed.
    pub corruptions_fixed: u64,
    /// Number of leaks that a repair fixed.
    pub leaks_fixed: u64,
    /// Number of clusters of the disk.
    pub total_clusters: u64,
    /// Number of clusters with data.
    pub allocated_clusters: u64,
    /// Number of clusters that do not follow the one before in the file; all compressed ones count.
    pub fragmented_clusters: u64,
    /// Number of compressed clusters.
    pub compressed_clusters: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end: u64,
    /// Descriptions of the problems, one line each; if there are many, the first ones.
    pub problems: Vec<String>,
}

impl Report {
    pub(crate) fn tell(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < TOLD {
            self.problems.push(problem());
        }
    }

    pub(crate) fn corruption(&mut self, problem: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.tell(problem);
    }
}

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
    if kind == Kind::Raw {
        let text = format!("{name}: the format {kind} does not support checks");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let storage = opener.open(name, repair.is_some()).await?;
    storage.lock(lock)?;
    let checked = match kind {
        Kind::Qed => qed::check::check(&*storage, repair).await,
        _ => qcow2::check::check(&storage, repair).await,
    };
    checked.map_err(|e| match e.kind() {
        ErrorKind::Io | ErrorKind::NoSpace => e,
        _ => e.context(name),
    })
}
