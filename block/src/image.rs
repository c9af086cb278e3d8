//! Images as files: create one, and say what one is.

use std::rc::Rc;

use crate::chain::{self, Opener};
use crate::format::qcow2::create::{self as qcow2_create, Options, preallocate};
use crate::format::{Kind, Summary, qed_create};
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

pub use crate::format::qcow2::create::{Options as Qcow2Options, Preallocation};

/// A new image.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Size of the disk in bytes; without one, the backing file's.
    pub size: Option<u64>,
    /// The backing file as it will be recorded, and its format.
    pub backing: Option<(String, Kind)>,
    /// Allocation unit in bytes.
    pub cluster_size: Option<u64>,
    /// Presence by subclusters.
    pub extended_l2: Option<bool>,
    /// Width of a refcount in bits.
    pub refcount_bits: Option<u32>,
    /// qcow2's version: 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: Option<u32>,
    /// Allows other programs to leave refcounts stale while they have the image open.
    pub lazy_refcounts: Option<bool>,
    /// What is allocated from the start.
    pub preallocation: Preallocation,
    /// Size of QED's tables in clusters.
    pub table_size: Option<u64>,
}

/// Creates an image and makes it durable, its name included.
///
/// # Errors
/// `Invalid` where the wishes contradict each other or the backing file cannot be opened; what the
/// file system says.
pub async fn create(opener: &dyn Opener, name: &str, kind: Kind, wish: &Create) -> Result<()> {
    let for_qcow2 = wish.extended_l2.is_some()
        || wish.refcount_bits.is_some()
        || wish.version.is_some()
        || wish.lazy_refcounts.is_some();
    let for_qed = wish.table_size.is_some();
    let for_both = wish.backing.is_some() || wish.cluster_size.is_some();
    let refused = match kind {
        Kind::Raw if for_both || for_qcow2 || for_qed => {
            "a raw image has a size, preallocation=falloc or full, and no other options"
        }
        Kind::Qcow2 if for_qed => "table_size is an option of QED",
        Kind::Qed if for_qcow2 => {
            "extended_l2, refcount_bits, compat and lazy_refcounts are options of qcow2"
        }
        Kind::Qed if wish.preallocation != Preallocation::Off => "QED has no preallocation",
        _ => "",
    };
    if !refused.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, refused));
    }
    let backing_size = match &wish.backing {
        None => None,
        Some((backing, format)) => {
            let path = chain::resolve(name, backing)?;
            refuse_itself(opener, name, &path).await?;
            Some(image_size(opener, &path, *format).await.map_err(|e| e.context("backing file"))?)
        }
    };
    let size = wish.size.or(backing_size).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{name}: a new image without a backing file needs a size"))
    })?;
    let storage = opener.create(name).await?;
    let written = match kind {
        Kind::Raw => create_raw(&*storage, size, wish.preallocation).await,
        Kind::Qcow2 => {
            let mut options = Options::new(size);
            options.backing = wish.backing.clone().map(|(name, format)| (name, format.name().to_owned()));
            options.cluster_size = wish.cluster_size.unwrap_or(options.cluster_size);
            // Subclusters want clusters of 16 KiB; a smaller wish alone is no contradiction.
            options.version = wish.version.unwrap_or(options.version);
            options.lazy_refcounts = wish.lazy_refcounts.unwrap_or(false);
            options.preallocation = wish.preallocation;
            let subclusters = options.cluster_size >= 16 << 10 && options.version > 2;
            options.extended_l2 = wish.extended_l2.unwrap_or(subclusters);
            options.refcount_bits = wish.refcount_bits.unwrap_or(options.refcount_bits);
            qcow2_create::create(&*storage, &options).await
        }
        Kind::Qed => {
            let mut options = qed_create::Options::new(size);
            options.backing = wish.backing.clone();
            options.cluster_size = wish.cluster_size.unwrap_or(options.cluster_size);
            options.table_size = wish.table_size.unwrap_or(options.table_size);
            qed_create::create(&*storage, &options).await
        }
    };
    written.map_err(|e| e.context(format!("creating {name}")))
}

/// An image cannot be its own backing file: creating it would empty that.
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
    let size = size.next_multiple_of(512);
    storage.truncate(size).await?;
    preallocate::raw(storage, size, preallocation).await?;
    storage.sync().await?;
    storage.sync_name().await
}

/// Size of the disk in bytes, without opening the chain or locking anything.
async fn image_size(opener: &dyn Opener, name: &str, kind: Kind) -> Result<u64> {
    let storage = opener.open(name, false).await?;
    Ok(Summary::read(&*storage, kind).await?.size)
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its format.
    pub format: Kind,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Length of the file in bytes.
    pub file_len: u64,
    /// Allocation unit in bytes, where the format has one.
    pub cluster_size: Option<u64>,
    /// Whether presence is kept by subclusters.
    pub extended_l2: Option<bool>,
    /// The backing file as recorded.
    pub backing: Option<String>,
    /// Its format as recorded.
    pub backing_format: Option<String>,
}

/// Looks at an image's header; nothing is locked, so an image in use can be looked at.
pub async fn info(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Info> {
    let storage: Rc<dyn Storage> = opener.open(name, false).await?;
    let summary = Summary::read(&*storage, kind).await?;
    let (backing, backing_format) = summary.backing.map(|b| (b.name, b.format)).unzip();
    Ok(Info {
        name: name.to_owned(),
        format: kind,
        virtual_size: summary.size,
        file_len: storage.len(),
        cluster_size: summary.cluster_size,
        extended_l2: summary.extended_l2,
        backing,
        backing_format: backing_format.flatten(),
    })
}
