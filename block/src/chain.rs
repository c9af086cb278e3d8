//! Chains: an image and, through what each records, the images behind it.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use crate::format::{Backing, Format, Kind};
use crate::name::{self, Name};
use crate::node::{LocalFuture, Node};
use crate::storage::{Identity, Lock, Storage, nbd};
use crate::{Error, ErrorKind, Result};

/// The longest chain: deeper ones are loops by other names, or mistakes.
const MAX_DEPTH: usize = 64;
/// How long an image may still be locked by a process that is gone.
const LINGER: Duration = Duration::from_secs(1);

/// Finds storage by name. The only place where names become files.
#[async_trait(?Send)]
pub trait Opener {
    /// Opens what exists.
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>>;

    /// Creates a file that is empty.
    ///
    /// # Errors
    /// `Locked` where another process holds an image of this name open.
    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>>;

    /// Which object a name means.
    async fn identity(&self, name: &str) -> Result<Option<Identity>> {
        Ok(self.open(name, false).await?.identity())
    }

    /// A name for the same that does not depend on where the program runs, to be recorded in images.
    fn absolute(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }
}

/// A backing file's name, seen from the image that records it: relative names are relative to it, and
/// the URI of an NBD export is absolute. What follows `file:` is taken as it stands.
///
/// # Errors
/// `Invalid` and `Unsupported` for what is no name of an image (see the module `name`), and for a name relative to
/// an export.
pub fn resolve(image: &str, backing: &str) -> Result<String> {
    let blame = |e: Error| e.context(format!("{image}: backing file"));
    let path = match Name::parse(backing).map_err(blame)? {
        Name::Export(uri) => return Ok(uri.to_owned()),
        // Behind 'file:'.
        Name::File(path) if path.len() < backing.len() => return Ok(name::of_file(path)),
        Name::File(path) => path,
    };
    if nbd::is_uri(image) && !path.starts_with('/') {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{image}: backing file '{backing}': an export has no folder; record an absolute name"),
        ));
    }
    match Path::new(image).parent() {
        Some(folder) if !path.starts_with('/') => Ok(folder.join(path).to_string_lossy().into_owned()),
        _ => Ok(path.to_owned()),
    }
}

/// How `image` is to record `backing`, both names as they were opened, so that [`resolve`] finds it again.
pub(crate) fn name_for(image: &str, backing: &str) -> Result<String> {
    let path = match Name::parse(backing)? {
        Name::Export(uri) => return Ok(uri.to_owned()),
        Name::File(path) if path.starts_with('/') => return Ok(path.to_owned()),
        Name::File(path) => path,
    };
    let image = match Name::parse(image)? {
        Name::Export(uri) => uri,
        Name::File(path) => path,
    };
    let folder = Path::new(image).parent().unwrap_or(Path::new(""));
    let name = match Path::new(path).strip_prefix(folder) {
        Ok(name) => name.to_owned(),
        Err(_) => std::path::absolute(path).map_err(|e| Error::io(path, &e))?,
    };
    Ok(name::of_file(&name.to_string_lossy()))
}

/// Opens an image with its chain: the leaf for writing where asked, all others for reading.
pub async fn open(opener: &dyn Opener, name: &str, kind: Kind, writable: bool) -> Result<Rc<Node>> {
    open_at(opener, name, kind, if writable { Access::Write } else { Access::Read }, Vec::new(), None).await
}

/// Opens an image with its chain, to look at its metadata. `share` looks at one that another process
/// writes, too, and at what may be half changed then.
///
/// # Errors
/// `Locked` where another process writes one of the images, and `share` is not given; but raw images have
/// no metadata, and may be written by anybody.
pub async fn look(opener: &dyn Opener, name: &str, kind: Kind, share: bool) -> Result<Rc<Node>> {
    open_at(opener, name, kind, Access::Look { share }, Vec::new(), None).await
}

/// What images are opened for.
#[derive(Clone, Copy)]
enum Access {
    /// The leaf to be written, the others to be read.
    Write,
    Read,
    Look {
        share: bool,
    },
}

impl Access {
    fn lock(self, kind: Kind) -> Lock {
        match self {
            Access::Write => Lock::Leaf,
            Access::Look { share } if share || kind == Kind::Raw => Lock::Look,
            Access::Read | Access::Look { .. } => Lock::Backing,
        }
    }

    /// The same for the image behind.
    fn behind(self) -> Access {
        if let Access::Write = self { Access::Read } else { self }
    }
}

/// Opens an image whose recorded backing file is `running`, which is adopted instead of opened again.
/// `None` where it records another one.
pub(crate) async fn open_over(
    opener: &dyn Opener,
    name: &str,
    kind: Kind,
    running: &Rc<Node>,
) -> Result<Option<Rc<Node>>> {
    let storage = opener.open(name, true).await?;
    take_lock(&*storage, Lock::Leaf).await?;
    if kind == Kind::Raw {
        return Ok(None);
    }
    let image = Format::open(storage.clone(), kind, true).await?;
    let Some(backing) = image.backing() else { return Ok(None) };
    if !is_same(opener, name, &backing.name, running).await? {
        return Ok(None);
    }
    let recorded = match &backing.format {
        Some(format) if format != running.kind().name() => format,
        // QED says whether it is raw or not, and no more.
        None if kind == Kind::Qed && running.kind() == Kind::Raw => "not raw",
        _ => return Ok(Some(Node::new(image, storage, Some(running.clone()), true))),
    };
    let text = format!("{name}: records its backing file as {recorded}, but it runs as {}", running.kind());
    Err(Error::new(ErrorKind::Invalid, text))
}

/// Whether an image's recorded backing file is the file of `running`, by whatever name.
pub(crate) async fn is_same(opener: &dyn Opener, image: &str, backing: &str, running: &Node) -> Result<bool> {
    let path = resolve(image, backing)?;
    let Some(identity) = running.storage().identity() else { return Ok(false) };
    match opener.identity(&path).await {
        Ok(found) => Ok(found == Some(identity)),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, format!("{image}: its backing file {path} does not exist")))
        }
        Err(e) => Err(e),
    }
}

/// Locks an image that is being opened. The kernel ends the ring of a process that was killed, and its locks
/// with it, a little after the process itself: whoever starts again at once must not be refused for that.
async fn take_lock(storage: &dyn Storage, lock: Lock) -> Result<()> {
    let deadline = executor::now() + LINGER;
    loop {
        match storage.lock(lock) {
            Err(e) if e.kind() == ErrorKind::Locked && executor::now() < deadline => {
                executor::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

fn open_at<'a>(
    opener: &'a dyn Opener,
    name: &'a str,
    kind: Kind,
    access: Access,
    mut above: Vec<Identity>,
    recorded_by: Option<&'a str>,
) -> LocalFuture<'a, Result<Rc<Node>>> {
    Box::pin(async move {
        let blame = |e: Error| match recorded_by {
            Some(image) => e.context(format!("backing file of {image}")),
            None => e,
        };
        let writable = matches!(access, Access::Write);
        let storage = opener.open(name, writable).await.map_err(blame)?;
        if let Some(identity) = storage.identity() {
            if above.contains(&identity) {
                let text = format!("{name}: the chain of backing files is a loop");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            above.push(identity);
        }
        if above.len() > MAX_DEPTH {
            let text = format!("{name}: the chain of backing files is longer than {MAX_DEPTH}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        take_lock(&*storage, access.lock(kind)).await?;
        let image = Format::open(storage.clone(), kind, writable).await.map_err(blame)?;
        let backing = match image.backing() {
            None => None,
            Some(record) => {
                let path = resolve(name, &record.name)?;
                let format = backing_kind(opener, name, kind, &record, &path).await?;
                Some(open_at(opener, &path, format, access.behind(), above, Some(name)).await?)
            }
        };
        Ok(Node::new(image, storage, backing, writable))
    })
}

/// The format of the backing file at `path`, as image `name` of format `kind` records it.
async fn backing_kind(
    opener: &dyn Opener,
    name: &str,
    kind: Kind,
    record: &Backing,
    path: &str,
) -> Result<Kind> {
    let blame = |e: Error| e.context(format!("backing file of {name}"));
    match &record.format {
        Some(format) => format.parse().map_err(blame),
        None if kind == Kind::Qed => {
            let storage = opener.open(path, false).await.map_err(blame)?;
            Kind::probe(&*storage).await.map_err(blame)?.ok_or_else(|| {
                let text = format!("{name}: its backing file {path} is neither qcow2 nor QED, and raw only where the image says so");
                Error::new(ErrorKind::Invalid, text)
            })
        }
        None => {
            let text = format!(
                "{name}: records no format for its backing file; 'qemu-img rebase -u -b FILE -F FORMAT' sets it"
            );
            Err(Error::new(ErrorKind::Invalid, text))
        }
    }
}
