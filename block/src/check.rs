//! Whether an image's metadata is sound, and its repair: `qemu-img check` in our words.

use crate::chain::Opener;
use crate::format::{Kind, qcow2, qed};
use crate::storage::Lock;
use crate::{Error, ErrorKind, Result};

/// Problems that are told one by one; the rest is only counted.
const TOLD: usize = 1000;

/// What may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Refcounts that are too high are lowered; a QED file is cut off behind what is in use. Safe on any
    /// image.
    Leaks,
    /// Refcounts are written anew where some are too low, flags are made to fit them, and entries that
    /// contradict themselves are made to mean one thing. In QED, what refers to a place where no cluster
    /// can be becomes absent, and a second reference to one gets a copy.
    All,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Metadata that is wrong: data is in danger, or already lost.
    pub corruptions: u64,
    /// Clusters that are kept for nobody.
    pub leaks: u64,
    /// Corruptions that a repair took away.
    pub corruptions_fixed: u64,
    /// Leaks that a repair took away.
    pub leaks_fixed: u64,
    /// Clusters that the disk has.
    pub total_clusters: u64,
    /// Those with data.
    pub allocated_clusters: u64,
    /// Those that do not follow the one before; compressed ones all count.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end: u64,
    /// What is wrong, one line each; of many, the first ones.
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

/// Checks an image, and repairs it where asked. The report is about the image as it is at the end.
///
/// # Errors
/// `Unsupported` for formats without metadata to check; `Corrupt` where it cannot be checked at all;
/// `Locked` where it is in use.
pub async fn check(opener: &dyn Opener, name: &str, kind: Kind, repair: Option<Repair>) -> Result<Report> {
    let lock = if repair.is_some() { Lock::Leaf } else { Lock::Backing };
    check_under(opener, name, kind, repair, lock).await
}

/// Checks an image that another process may be writing: it may be found half changed.
///
/// # Errors
/// As [`check`], but for `Locked`.
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
