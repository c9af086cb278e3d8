//! Image files: creates them, and returns information about them.

use crate::format::qcow2::create::{self as qcow2_create, Options, preallocate};
use crate::format::{Kind, Summary, qed_create};
use crate::storage::in_use::Use;
use crate::storage::{Opener, Storage};
use crate::{Buf, Error, ErrorKind, Result};

pub mod chain;
pub mod check;
pub(crate) mod copy;
mod grow;
mod info;
pub(crate) mod lookup;
pub mod map;
pub mod node;
mod waits;

pub use crate::format::qcow2::create::{Options as Qcow2Options, Preallocation};
pub use info::{Bitmap, Info, Qcow2Info, Recorded, Snapshot, info, info_in_use};
pub use waits::Waits;

/// Options for creating an image.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Size of the disk in bytes; the backing file's size if `None`.
    pub size: Option<u64>,
    /// The backing file as it will be recorded, and its format.
    pub backing: Option<(String, Kind)>,
    /// Allocation unit in bytes.
    pub cluster_size: Option<u64>,
    /// True if presence is recorded per subcluster.
    pub extended_l2: Option<bool>,
    /// Width of a refcount in bits.
    pub refcount_bits: Option<u32>,
    /// qcow2's version: 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: Option<u32>,
    /// Allows other programs to leave refcounts stale while they have the image open.
    pub lazy_refcounts: Option<bool>,
    /// True if clusters are compressed with zstd instead of zlib.
    pub zstd: Option<bool>,
    /// Space that is allocated at creation.
    pub preallocation: Preallocation,
    /// Size of QED's tables in clusters.
    pub table_size: Option<u64>,
}

impl Create {
    /// Fails if there are options that the format does not support.
    fn check(&self, kind: Kind) -> Result<()> {
        let for_qcow2 = self.extended_l2.is_some()
            || self.refcount_bits.is_some()
            || self.version.is_some()
            || self.lazy_refcounts.is_some()
            || self.zstd.is_some();
        let for_qed = self.table_size.is_some();
        let for_both = self.backing.is_some() || self.cluster_size.is_some();
        let refused = match kind {
            Kind::Raw if for_both || for_qcow2 || for_qed => {
                "a raw image has a size, preallocation=falloc or full, and no other options"
            }
            Kind::Raw if self.preallocation == Preallocation::Metadata => {
                "a raw image has no metadata: preallocation is off, falloc or full"
            }
            Kind::Qcow2 if for_qed => "table_size is an option of QED",
            Kind::Qed if for_qcow2 => {
                "extended_l2, refcount_bits, compat, compression_type and lazy_refcounts are options of qcow2"
            }
            Kind::Qed if self.preallocation != Preallocation::Off => "QED has no preallocation",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Invalid, refused))
    }

    /// Returns the layout of the image for a disk of `size` bytes.
    fn plan(&self, kind: Kind, size: u64) -> Result<Plan> {
        Ok(match kind {
            Kind::Raw => {
                let rounded = size.checked_next_multiple_of(512).filter(|size| *size <= i64::MAX as u64);
                let too_large = || Error::new(ErrorKind::Invalid, "the size is over 8 EiB");
                Plan::Raw(rounded.ok_or_else(too_large)?, self.preallocation)
            }
            Kind::Qcow2 => {
                let mut options = Options::new(size);
                options.backing = self.backing.clone().map(|(name, format)| (name, format.name().to_owned()));
                options.cluster_size = self.cluster_size.unwrap_or(options.cluster_size);
                options.version = self.version.unwrap_or(options.version);
                options.lazy_refcounts = self.lazy_refcounts.unwrap_or(false);
                options.zstd = self.zstd.unwrap_or(false);
                options.preallocation = self.preallocation;
                // Subclusters need clusters of at least 16 KiB: a smaller cluster size turns them off by
                // default.
                let subclusters = options.cluster_size >= 16 << 10 && options.version > 2;
                options.extended_l2 = self.extended_l2.unwrap_or(subclusters);
                options.refcount_bits = self.refcount_bits.unwrap_or(options.refcount_bits);
                Plan::Qcow2(qcow2_create::plan(&options)?)
            }
            Kind::Qed => {
                let mut options = qed_create::Options::new(size);
                options.backing = self.backing.clone();
                options.cluster_size = self.cluster_size.unwrap_or(options.cluster_size);
                options.table_size = self.table_size.unwrap_or(options.table_size);
                Plan::Qed(qed_create::plan(&options)?)
            }
        })
    }
}

/// The layout of a new image. Creating one detects all invalid options.
enum Plan {
    Raw(u64, Preallocation),
    Qcow2(qcow2_create::Plan),
    Qed(qed_create::Plan),
}

impl Plan {
    async fn write(&self, storage: &dyn Storage) -> Result<()> {
        match self {
            Plan::Raw(size, preallocation) => create_raw(storage, *size, *preallocation).await,
            Plan::Qcow2(plan) => plan.write(storage).await,
            Plan::Qed(plan) => plan.write(storage).await,
        }
    }
}

/// Creates an image and makes it durable, its name included. A block device is used as it is.
///
/// # Errors
/// `Invalid` if the options are incomplete or contradict each other; errors of opening the backing file;
/// errors of the file system. After the first two, a file of that name is unchanged.
pub async fn create(opener: &dyn Opener, name: &str, kind: Kind, options: &Create) -> Result<()> {
    create_over(opener, name, kind, options, None).await
}

/// Like [`create`], over a chain of `images`, if their number is known.
pub(crate) async fn create_over(
    opener: &dyn Opener,
    name: &str,
    kind: Kind,
    options: &Create,
    images: Option<usize>,
) -> Result<()> {
    let named = |e: Error| e.context(format!("creating {name}"));
    options.check(kind).map_err(named)?;
    let backing_size = match &options.backing {
        None => None,
        Some((backing, format)) => {
            let path = chain::resolve(name, backing)?;
            refuse_itself(opener, name, &path).await?;
            let behind = summary(opener, &path, *format).await.map_err(|e| e.context("backing file"))?;
            let size = behind.size;
            match images {
                Some(images) => chain::refuse_longer(name, images + 1)?,
                None => {
                    chain::refuse_over(opener, name, &path, *format, behind.backing).await.map_err(named)?
                }
            }
            Some(size)
        }
    };
    let size = options.size.or(backing_size).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{name}: a new image without a backing file needs a size"))
    })?;
    let plan = options.plan(kind, size).map_err(named)?;
    let storage = opener.create(name).await?;
    let _using = Use::begin(&*storage, true)?;
    plan.write(&*storage).await.map_err(named)
}

/// Fails if the image would be its own backing file, which creating it would empty.
async fn refuse_itself(opener: &dyn Opener, name: &str, backing: &str) -> Result<()> {
    let Ok(old) = opener.open(name, false).await else { return Ok(()) };
    let below = opener.identity(backing).await.map_err(|e| e.context("backing file"))?;
    match old.identity() {
        Some(identity) if below == Some(identity) => {
            let text = format!("{name}: an image cannot be its own backing file");
            Err(Error::new(ErrorKind::Invalid, text))
        }
        _ => Ok(()),
    }
}

async fn create_raw(storage: &dyn Storage, size: u64, preallocation: Preallocation) -> Result<()> {
    storage.truncate(size).await?;
    if storage.is_fixed() && size > 0 {
        // The device must not be taken for the image that it held before.
        storage.write(0, Buf::new(size.min(512) as usize)).await?;
    }
    preallocate::raw(storage, size, preallocation).await?;
    storage.sync().await?;
    storage.sync_name().await
}

/// Reads an image's header, without opening the chain or locking anything.
async fn summary(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Summary> {
    let storage = opener.open(name, false).await?;
    Summary::read(&*storage, kind).await
}
