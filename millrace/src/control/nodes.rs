//! `blockdev-add`: images that a client describes before a job opens them.
//!
//! A node of the block layer lives on a disk's thread, and which disk will use an image is not known when it
//! is described. So only the description is kept here. The image is inspected when it is added, so that a
//! wrong name or format is found then, and opened when a job names it as its target.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::rc::Rc;

use block::image::Info;
use block::job::JobKind;
use block::storage;
use block::{ErrorKind, Kind};
use qmp::command::{BlockdevAdd, BlockdevDel, NodeCommands};
use qmp::types::*;
use qmp::{Error, Result};

use super::{Control, Drive, check_node_name, generic, no_device_or_node};

/// The file or export of an image.
#[derive(Clone)]
struct Object {
    driver: BlockdevDriver,
    /// Its name, as the block layer takes it.
    name: String,
    /// The caching that it must have, if the client has said so.
    direct: Option<bool>,
}

/// An image, or the file of one, that a client has described.
pub(super) struct Node {
    pub name: String,
    driver: BlockdevDriver,
    object: Object,
    /// The name of the node of its file, if the client has given it one.
    file: Option<String>,
    /// True if `blockdev-add` has named it, false if it was described inside of another one: such a node goes
    /// with the last one that uses it.
    is_owned: bool,
    read_only: bool,
    info: Info,
    /// The number of the job that it is the target of, or was.
    job: Cell<Option<u64>>,
    /// A command has taken it.
    taken: Cell<bool>,
}

/// A node that a command has taken, to use or to remove it: no other command can meanwhile.
pub(super) struct Taken(Rc<Node>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.set(false);
    }
}

impl Deref for Taken {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Taken {
    /// Records the number of the job that has it as its target from now on.
    pub(super) fn becomes_target_of(self, job: u64) {
        self.0.job.set(Some(job));
    }
}

/// QEMU's error for a node that a disk runs on, a job writes to, or a command has taken.
pub(super) fn in_use(name: &str) -> Error {
    Error::generic(format!("Node {name} is in use"))
}

/// QEMU's error for a node that is the backing file of another one, or of a disk's leaf.
pub(super) fn behind(name: &str, above: &str) -> Error {
    Error::generic(format!("Node '{name}' is busy: node is used as backing hd of '{above}'"))
}

/// The images that are described.
#[derive(Default)]
pub(super) struct Nodes {
    all: RefCell<Vec<Rc<Node>>>,
    /// The number of nodes without a name of their own so far.
    unnamed: Cell<u64>,
}

impl Nodes {
    pub(super) fn find(&self, name: &str) -> Option<Rc<Node>> {
        self.all.borrow().iter().find(|node| node.name == name).cloned()
    }

    /// Removes a node, and those that were described inside of others and that nothing uses any more.
    fn remove(&self, name: &str) {
        let mut all = self.all.borrow_mut();
        all.retain(|node| node.name != name);
        let used: BTreeSet<_> = all.iter().filter_map(|node| node.file.clone()).collect();
        all.retain(|node| node.is_owned || used.contains(&node.name));
    }
}

impl Node {
    /// The format in which a disk opens it.
    pub(super) fn kind(&self) -> Kind {
        kind(self.driver)
    }

    /// The name of its file or export, as the block layer takes it.
    pub(super) fn object(&self) -> &str {
        &self.object.name
    }

    /// Fails if the node cannot be written by a job on this drive.
    pub(super) fn check_target_of(&self, drive: &Drive) -> Result<()> {
        if self.read_only {
            return Err(Error::generic("Block node is read-only"));
        }
        let direct = drive.options.direct;
        if self.object.direct.is_some_and(|wanted| wanted != direct) {
            let cache = |direct| if direct { "with" } else { "without" };
            let text = format!(
                "Node '{}' is described {} cache.direct, but the disk '{}' opens its images {} it",
                self.name,
                cache(!direct),
                drive.options.id,
                cache(direct)
            );
            return Err(Error::generic(text));
        }
        Ok(())
    }

    fn describe(&self) -> BlockDeviceInfo {
        let info = &self.info;
        let is_format = self.is_format();
        let size = if is_format { info.virtual_size } else { info.file_len };
        let image = ImageInfo {
            actual_size: info.space,
            cluster_size: info.cluster_size.filter(|_| is_format),
            backing_filename: info.backing.clone(),
            full_backing_filename: info.full_backing.clone(),
            backing_filename_format: info.backing_format.clone(),
            ..ImageInfo::new(info.name.clone(), self.driver.as_str().into(), size)
        };
        BlockDeviceInfo {
            node_name: Some(self.name.clone()),
            ro: self.read_only,
            backing_file: info.full_backing.clone(),
            ..BlockDeviceInfo::new(info.name.clone(), image, self.object.direct.unwrap_or(false))
        }
    }

    fn is_format(&self) -> bool {
        matches!(self.driver, BlockdevDriver::Raw | BlockdevDriver::Qcow2 | BlockdevDriver::Qed)
    }
}

/// The format of an image that a driver has.
fn kind(driver: BlockdevDriver) -> Kind {
    match driver {
        BlockdevDriver::Qcow2 => Kind::Qcow2,
        BlockdevDriver::Qed => Kind::Qed,
        _ => Kind::Raw,
    }
}

fn missing(name: &str) -> Error {
    Error::generic(format!("Parameter '{name}' is missing"))
}

/// Returns the name of a server's export.
fn export(server: Option<SocketAddress>, export: Option<String>) -> Result<String> {
    let server = server.ok_or_else(|| missing("server"))?;
    let unexpected = |name: &str| Err(Error::generic(format!("Parameter 'server.{name}' is unexpected")));
    let need = |value: Option<String>, name: &str| value.ok_or_else(|| missing(&format!("server.{name}")));
    let address = match server.kind {
        SocketAddressType::Unix if server.host.is_some() => return unexpected("host"),
        SocketAddressType::Unix if server.port.is_some() => return unexpected("port"),
        SocketAddressType::Unix => nbd::Address::Unix(need(server.path, "path")?.into()),
        SocketAddressType::Inet if server.path.is_some() => return unexpected("path"),
        SocketAddressType::Inet => {
            let (host, port) = (need(server.host, "host")?, need(server.port, "port")?);
            let port = port.parse().map_err(|_| Error::generic(format!("'{port}' is not a port")))?;
            nbd::Address::Tcp(host, port)
        }
    };
    let export = export.unwrap_or_default();
    Ok(nbd::Uri { address, export, parameters: Vec::new() }.to_string())
}

/// Fails with QEMU's text if an argument is given that the node's driver does not have.
fn check_members(options: &BlockdevAdd) -> Result<()> {
    use BlockdevDriver::*;
    let driver = options.driver;
    let is_file = matches!(driver, File | HostDevice);
    let is_format = matches!(driver, Raw | Qcow2 | Qed);
    let given = [
        ("file", options.file.is_some(), is_format),
        ("backing", options.backing.is_some(), matches!(driver, Qcow2 | Qed)),
        ("filename", options.filename.is_some(), is_file),
        ("server", options.server.is_some(), driver == Nbd),
        ("export", options.export.is_some(), driver == Nbd),
    ];
    match given.into_iter().find(|(_, is_given, belongs)| *is_given && !belongs) {
        Some((name, ..)) => Err(Error::generic(format!("Parameter '{name}' is unexpected"))),
        None => Ok(()),
    }
}

impl Control {
    /// Describes the nodes that no disk's chain lists.
    pub(super) fn described(&self, listed: &[BlockDeviceInfo]) -> Vec<BlockDeviceInfo> {
        let is_listed = |node: &Node| listed.iter().any(|info| info.node_name.as_ref() == Some(&node.name));
        let all = self.nodes.all.borrow();
        // As in QEMU, the newest comes first.
        all.iter().rev().filter(|node| !is_listed(node)).map(|node| node.describe()).collect()
    }

    async fn add(&self, options: BlockdevAdd) -> Result<()> {
        check_members(&options)?;
        let Some(name) = options.node_name.clone() else {
            return Err(Error::generic("'node-name' must be specified for the root node"));
        };
        let mut new = Vec::new();
        // The file first, as it comes first in the list of nodes.
        if let Some(BlockdevRef::New(inner)) = &options.file {
            check_members(inner)?;
            let number = self.nodes.unnamed.replace(self.nodes.unnamed.get() + 1);
            let inner_name = inner.node_name.clone().unwrap_or_else(|| format!("#node{number:03}"));
            let inner = self.describe_node(inner_name, inner, &new).await?;
            new.push(Node { is_owned: false, ..inner });
        }
        let node = self.describe_node(name, &options, &new).await?;
        new.push(node);
        // Another client may have taken a name meanwhile.
        if let Some(node) = new.iter().find(|node| self.nodes.find(&node.name).is_some()) {
            return Err(Error::generic(format!("Duplicate nodes with node-name='{}'", node.name)));
        }
        // Or have removed the file's node.
        for file in new.iter().filter_map(|node| node.file.as_ref()) {
            if self.nodes.find(file).is_none() && !new.iter().any(|node| node.name == *file) {
                return Err(no_device_or_node(file, file));
            }
        }
        self.nodes.all.borrow_mut().extend(new.into_iter().map(Rc::new));
        Ok(())
    }

    /// Makes a node of its description. `inner` are the nodes that were described inside of it.
    async fn describe_node(&self, name: String, options: &BlockdevAdd, inner: &[Node]) -> Result<Node> {
        use BlockdevDriver::*;
        if options.node_name.is_some() {
            check_node_name(&name).map_err(Error::generic)?;
        }
        if self.drives.iter().any(|drive| drive.options.id == name) {
            return Err(Error::generic(format!("node-name={name} is conflicting with a device id")));
        }
        if self.is_named(&name).await? || inner.iter().any(|node| node.name == name) {
            return Err(Error::generic(format!("Duplicate nodes with node-name='{name}'")));
        }
        let cache = options.cache.as_ref();
        if cache.is_some_and(|cache| cache.no_flush == Some(true)) {
            return Err(Error::generic("'no-flush' is not supported: a disk's data would be lost"));
        }
        if options.detect_zeroes.is_some_and(|detect| detect != DetectZeroes::Off) {
            return Err(Error::generic("'detect-zeroes' is not supported: give 'off'"));
        }
        let direct = cache.and_then(|cache| cache.direct);
        let (mut file_name, driver) = (None, options.driver);
        let object = match driver {
            File | HostDevice => {
                let path = options.filename.clone().ok_or_else(|| missing("filename"))?;
                Object { driver, name: storage::of_file(&path), direct }
            }
            Nbd => Object { driver, name: export(options.server.clone(), options.export.clone())?, direct },
            Raw | Qcow2 | Qed => {
                let found = match options.file.as_ref().ok_or_else(|| missing("file"))? {
                    BlockdevRef::Name(name) => {
                        file_name = Some(name.clone());
                        let found = self.nodes.find(name);
                        found.map(|node| (node.is_format(), node.object.clone()))
                    }
                    BlockdevRef::New(_) => inner.first().map(|node| {
                        file_name = Some(node.name.clone());
                        (node.is_format(), node.object.clone())
                    }),
                };
                let name = file_name.clone().unwrap_or_default();
                let (is_format, object) = found.ok_or_else(|| no_device_or_node(&name, &name))?;
                if is_format {
                    let text = format!("Node '{name}' is an image: give the node of a file or an export");
                    return Err(Error::generic(text));
                }
                Object { direct: direct.or(object.direct), ..object }
            }
        };
        if let Some(BlockdevRefOrNull::Node(_)) = options.backing {
            let text =
                "'backing' names a node: leave it out, and the backing file that the image records is taken";
            return Err(Error::generic(text));
        }
        let read_only = options.read_only.unwrap_or(false);
        let info = self.inspect(&object, kind(driver), read_only).await?;
        let is_device = info.is_device;
        let path = &object.name;
        match object.driver {
            File if is_device => {
                return Err(Error::generic(format!("'file' driver requires '{path}' to be a regular file")));
            }
            HostDevice if !is_device => {
                let text = format!(
                    "'host_device' driver requires '{path}' to be either a character or block device"
                );
                return Err(Error::generic(text));
            }
            _ => {}
        }
        if let (Some(BlockdevRefOrNull::Null), Some(backing)) = (&options.backing, &info.backing) {
            let text =
                format!("{path}: records the backing file '{backing}', which 'backing': null would hide");
            return Err(Error::generic(text));
        }
        Ok(Node {
            name,
            driver,
            object,
            file: file_name,
            is_owned: true,
            read_only,
            info,
            job: Cell::default(),
            taken: Cell::default(),
        })
    }

    /// Reads the head of a node's image, on the thread of a disk: the main loop opens no images.
    async fn inspect(&self, object: &Object, kind: Kind, read_only: bool) -> Result<Info> {
        let Some(drive) = self.drives.first() else {
            return Err(Error::generic("there is no disk that could use a node"));
        };
        let name = object.name.clone();
        let call = drive.handle.call(move |disk| async move { disk.inspect(&name, kind, !read_only).await });
        call.await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::generic(format!("Could not open '{}': {}", object.name, e.reason()))
            }
            _ => generic(e),
        })
    }

    /// Takes a node for a command.
    ///
    /// # Errors
    /// If a job has it as its target, or is being started with it, fails with the kind of that job as far as
    /// it is known; with `None` if another command has it.
    pub(super) fn take_node(&self, node: Rc<Node>) -> std::result::Result<Taken, Option<JobKind>> {
        let jobs = &self.reports.jobs;
        if let Some(job) = node.job.get().filter(|job| jobs.is_active(*job)) {
            return Err(jobs.kind(job));
        }
        if node.taken.replace(true) {
            return Err(None);
        }
        Ok(Taken(node))
    }
}

impl NodeCommands for Control {
    async fn blockdev_add(&self, arguments: BlockdevAdd) -> Result<Empty> {
        self.add(arguments).await?;
        Ok(Empty {})
    }

    async fn blockdev_del(&self, arguments: BlockdevDel) -> Result<Empty> {
        let name = arguments.node_name;
        // Taken before the look at the chains: a job that ends meanwhile cannot move its disk there unseen.
        let taken = self.nodes.find(&name).map(|node| self.take_node(node));
        match self.node(&name).await? {
            Some((_, None)) => return Err(in_use(&name)),
            Some((_, Some(above))) => return Err(behind(&name, &above)),
            None => {}
        }
        let Some(taken) = taken else {
            return Err(Error::generic(format!("Failed to find node with node-name='{name}'")));
        };
        let node = taken.map_err(|_| in_use(&name))?;
        if !node.is_owned {
            return Err(Error::generic(format!("Node {name} is not owned by the monitor")));
        }
        if self.nodes.all.borrow().iter().any(|other| other.file.as_ref() == Some(&name)) {
            return Err(Error::generic(format!("Block device {name} is in use")));
        }
        self.nodes.remove(&name);
        Ok(Empty {})
    }
}
