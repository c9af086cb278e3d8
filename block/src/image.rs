//! Image files: creates them, and returns information about them.

use crate::format::{Kind, Summary};
use crate::storage::Opener;
use crate::storage::in_use::Use;
use crate::{Error, ErrorKind, Result};

pub mod chain;
pub mod check;
pub(crate) mod copy;
mod grow;
mod info;
pub(crate) mod lookup;
pub mod map;
pub mod node;
mod waits;

pub use crate::format::{Create, Preallocation};
pub use info::{Bitmap, Info, Qcow2Info, Recorded, Snapshot, info, info_in_use};
pub use lookup::Run;
pub use waits::Waits;

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
    options.refuse_foreign(kind).map_err(named)?;
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

/// Reads an image's header, without opening the chain or locking anything.
async fn summary(opener: &dyn Opener, name: &str, kind: Kind) -> Result<Summary> {
    let storage = opener.open(name, false).await?;
    Summary::read(&*storage, kind).await
}
