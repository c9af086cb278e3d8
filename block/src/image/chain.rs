//! Chains: an image and its backing files, each found by the name that the image above it records.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::format::{Backing, Format, Kind, Summary};
use crate::image::node::Node;
use crate::storage::in_use::Use;
use crate::storage::name::{self, Name};
use crate::storage::protocol::Protocol;
use crate::storage::{self, Identity, Lock, Opener, Storage};
use crate::{Error, ErrorKind, Result};

/// The maximum number of images in a chain, leaf included. Each takes a descriptor and some memory while
/// it is open, and longer chains are mistakes, or loops by other names.
pub const LONGEST: usize = 1024;
/// Time for which the locks of a process that has ended may remain.
const LINGER: Duration = Duration::from_secs(1);

/// Returns the image with this node name in the chain of `leaf`.
pub fn find(leaf: &Rc<Node>, node_name: &str) -> Option<Rc<Node>> {
    std::iter::successors(Some(leaf.clone()), |node| node.backing())
        .find(|node| node.node_name() == node_name)
}

/// A backing file's name, seen from the image that records it: relative names are relative to it, and
/// URIs are absolute. What follows `file:` is taken as it stands.
///
/// # Errors
/// `Invalid` or `Unsupported` if `backing` is not a valid name of an image (see the module `name`);
/// `Unsupported` for a name relative to a URI, and for a protocol whose names must not be recorded.
pub fn resolve(image: &str, backing: &str) -> Result<String> {
    let blame = |e: Error| e.context(format!("{image}: backing file"));
    let path = match Name::parse(backing).map_err(blame)? {
        Name::Uri(protocol, uri) => return recordable(protocol, uri).map_err(blame),
        // A path after 'file:'.
        Name::File(path) if path.len() < backing.len() => return Ok(name::of_file(path)),
        Name::File(path) => path,
    };
    if storage::is_uri(image) && !path.starts_with('/') {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{image}: backing file '{backing}': a URI has no folder; record an absolute name"),
        ));
    }
    match Path::new(image).parent() {
        Some(folder) if !path.starts_with('/') => Ok(folder.join(path).to_string_lossy().into_owned()),
        _ => Ok(path.to_owned()),
    }
}

/// Returns a URI as it may be recorded in an image.
fn recordable(protocol: &dyn Protocol, uri: &str) -> Result<String> {
    if protocol.can_be_recorded() {
        return Ok(uri.to_owned());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("'{uri}': no image may record such a backing file")))
}

/// Returns the name by which `image` should record `backing`, so that [`resolve`] finds it again. Both
/// are the names by which the images were opened.
pub(crate) fn name_for(image: &str, backing: &str) -> Result<String> {
    let path = match Name::parse(backing)? {
        Name::Uri(protocol, uri) => return recordable(protocol, uri),
        Name::File(path) if path.starts_with('/') => return Ok(path.to_owned()),
        Name::File(path) => path,
    };
    let image = match Name::parse(image)? {
        Name::Uri(_, uri) => uri,
        Name::File(path) => path,
    };
    let folder = Path::new(image).parent().unwrap_or(Path::new(""));
    let name = match Path::new(path).strip_prefix(folder) {
        Ok(name) => name.to_owned(),
        Err(_) => std::path::absolute(path).map_err(|e| Error::io(path, &e))?,
    };
    Ok(name::of_file(&name.to_string_lossy()))
}

/// Opens an image with its chain: the leaf for writing if `writable`, all others for reading.
pub async fn open(opener: &dyn Opener, name: &str, kind: Kind, writable: bool) -> Result<Rc<Node>> {
    open_at(opener, name, kind, if writable { Access::Write } else { Access::Read }).await
}

/// Opens an image with its chain, to inspect its metadata. With `share`, another process may be writing
/// it, and the metadata may be half changed.
///
/// # Errors
/// `Locked` if another process is writing one of the images and `share` is false. Raw images have no
/// metadata, so others may write them.
pub async fn look(opener: &dyn Opener, name: &str, kind: Kind, share: bool) -> Result<Rc<Node>> {
    open_at(opener, name, kind, Access::Look { share }).await
}

/// The purpose for which images are opened.
#[derive(Clone, Copy)]
enum Access {
    /// The leaf for writing, the others for reading.
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
            Access::Look { share } if share || !kind.has_metadata() => Lock::Look,
            Access::Read | Access::Look { .. } => Lock::Backing,
        }
    }

    /// Begins to use an image. `None` for an inspection, which conflicts with no other use.
    fn begin(self, storage: &dyn Storage) -> Result<Option<Use>> {
        match self {
            Access::Look { .. } => Ok(None),
            Access::Write | Access::Read => Use::begin(storage, matches!(self, Access::Write)).map(Some),
        }
    }

    /// Returns the access for the backing file.
    fn behind(self) -> Access {
        if let Access::Write = self { Access::Read } else { self }
    }
}

/// Opens an image that records `running` as its backing file, on top of that node instead of opening the
/// file again. `None` if it does not record that file.
pub(crate) async fn open_over(
    opener: &dyn Opener,
    name: &str,
    kind: Kind,
    running: &Rc<Node>,
) -> Result<Option<Rc<Node>>> {
    if !kind.has_backing() {
        return Ok(None);
    }
    let storage = opener.open(name, true).await?;
    let using = Use::begin(&*storage, true)?;
    take_lock(&*storage, Lock::Leaf).await?;
    let image = kind.open(storage.clone(), true).await?;
    let Some(backing) = image.backing() else { return Ok(None) };
    if !is_same(opener, name, &backing.name, running).await? {
        return Ok(None);
    }
    refuse_longer(name, running.depth() + 1)?;
    let recorded = match &backing.format {
        Some(format) if format != running.kind().name() => format,
        None if kind.driver().records_only_raw() && running.kind() == Kind::Raw => "not raw",
        _ => return Ok(Some(Node::new(image, storage, Some(running.clone()), Some(using), true))),
    };
    let text = format!("{name}: records its backing file as {recorded}, but it runs as {}", running.kind());
    Err(Error::new(ErrorKind::Invalid, text))
}

/// Returns true if the backing file that an image records is the file of `running`, by whatever name.
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

/// Locks an image that is being opened, and retries for [`LINGER`]. The kernel ends the io_uring of a killed
/// process, and thereby its locks, a little after the process; a restart right after that must not fail.
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

/// Fails if `images` are too many for a chain. `name` is an image of that chain, for the error.
pub(crate) fn refuse_longer(name: &str, images: usize) -> Result<()> {
    if images <= LONGEST {
        return Ok(());
    }
    let text = format!("{name}: the chain of backing files is longer than {LONGEST} images");
    Err(Error::new(ErrorKind::Invalid, text))
}

/// Fails if an image `name` over the image at `path` would make its chain too long to be opened again.
/// `behind` is the backing file that the image at `path` records. Opens no chain; stops without an error
/// at an image that it cannot inspect.
pub(crate) async fn refuse_over(
    opener: &dyn Opener,
    name: &str,
    path: &str,
    kind: Kind,
    behind: Option<Backing>,
) -> Result<()> {
    let (mut path, mut kind, mut behind) = (path.to_owned(), kind, behind);
    for images in 2.. {
        refuse_longer(name, images)?;
        let Some(record) = behind else { break };
        // An unreachable server may be slow to fail, so nothing is opened there.
        let Ok(next) = resolve(&path, &record.name) else { break };
        if storage::is_uri(&next) {
            break;
        }
        let Ok(format) = backing_kind(opener, &path, kind, &record, &next).await else { break };
        let Ok(storage) = opener.open(&next, false).await else { break };
        let Ok(summary) = Summary::read(&*storage, format).await else { break };
        (path, kind, behind) = (next, format, summary.backing);
    }
    Ok(())
}

/// An image of a chain that is being opened.
struct Opened {
    name: String,
    format: Rc<dyn Format>,
    using: Option<Use>,
    storage: Rc<dyn Storage>,
}

/// Opens the images from the leaf to the bottom, one after the other, and joins them.
async fn open_at(opener: &dyn Opener, name: &str, kind: Kind, access: Access) -> Result<Rc<Node>> {
    let mut opened: Vec<Opened> = Vec::new();
    let mut seen: Vec<Identity> = Vec::new();
    let mut next = Some((name.to_owned(), kind));
    while let Some((name, kind)) = next.take() {
        let blame = |e: Error| match opened.last() {
            Some(Opened { name, .. }) => e.context(format!("backing file of {name}")),
            None => e,
        };
        let access = if opened.is_empty() { access } else { access.behind() };
        let writable = matches!(access, Access::Write);
        refuse_longer(&name, opened.len() + 1)?;
        let storage = opener.open(&name, writable).await.map_err(blame)?;
        if let Some(identity) = storage.identity() {
            if seen.contains(&identity) {
                let text = format!("{name}: the chain of backing files is a loop");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            seen.push(identity);
        }
        let using = access.begin(&*storage)?;
        take_lock(&*storage, access.lock(kind)).await?;
        let format = kind.open(storage.clone(), writable).await.map_err(blame)?;
        if let Some(record) = format.backing() {
            let path = resolve(&name, &record.name)?;
            let kind = backing_kind(opener, &name, kind, &record, &path).await?;
            next = Some((path, kind));
        }
        opened.push(Opened { name, format, using, storage });
    }
    let mut behind = None;
    for (above, Opened { format, using, storage, .. }) in opened.into_iter().enumerate().rev() {
        let writable = above == 0 && matches!(access, Access::Write);
        behind = Some(Node::new(format, storage, behind, using, writable));
    }
    behind.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{name}: no image was opened")))
}

/// Returns the format of the backing file at `path`, as image `name` of format `kind` records it.
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
        None if kind.driver().records_only_raw() => {
            let storage = opener.open(path, false).await.map_err(blame)?;
            Kind::probe(&*storage).await.map_err(blame)?.ok_or_else(|| {
                let text = format!("{name}: its backing file {path} is neither qcow2 nor QED, and the image does not record it as raw");
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
