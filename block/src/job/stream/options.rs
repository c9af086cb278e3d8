//! The options of a stream, and the part of a chain that they mean.

use std::rc::Rc;
use std::time::Duration;

use crate::disk::{Disk, Needs};
use crate::image::chain;
use crate::image::node::Node;
use crate::job::copier::order::Order;
use crate::{Error, ErrorKind, Result};

/// Settings of how a stream copies.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// The order of its copies.
    pub order: Order,
    /// The latency that 99 of 100 reads and writes of the disk should not exceed: the stream slows down
    /// for that.
    pub max_latency: Option<Duration>,
    /// Name of the file to record the guest's reads in while the stream runs, for [`Order::Trace`].
    pub record: Option<String>,
}

/// The end of a stream, going down the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// Above the image with this file name, which becomes the backing file.
    File(String),
    /// Above the image with this node name, which becomes the backing file.
    Node(String),
    /// Below the image with this node name, the last one that is streamed; its backing file becomes the
    /// backing file.
    Bottom(String),
}

/// The part of a chain that is streamed, and how. The default is everything, into the leaf.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// The node name of the image that is populated; the leaf if `None`.
    pub image: Option<String>,
    /// The end of the stream; the whole chain if `None`.
    pub base: Option<Base>,
    /// The name by which the base is recorded as the backing file; its own name if `None`.
    pub backing_file: Option<String>,
    /// The settings of the stream.
    pub tuning: Tuning,
}

/// The part of a chain that options mean.
pub(super) struct Part {
    /// The image that is populated.
    pub image: Rc<Node>,
    /// The image that becomes its backing file.
    pub base: Option<Rc<Node>>,
    /// Number of images between the two, or behind the image.
    pub between: usize,
    /// The image and those between.
    pub needs: Needs,
}

impl StreamOptions {
    /// The name by which the caller means the image that is populated.
    fn name<'a>(&'a self, disk: &'a Disk) -> &'a str {
        self.image.as_deref().unwrap_or(disk.name())
    }

    /// Finds the part of the disk's chain.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` if it is not in the chain, with QEMU's texts.
    pub(super) fn find(&self, disk: &Disk) -> Result<Part> {
        let leaf = disk.leaf();
        let image = match &self.image {
            Some(name) => chain::find(&leaf, name).ok_or_else(|| no_node(name))?,
            None => leaf.clone(),
        };
        let base = match &self.base {
            Some(base) => base.find(&leaf, &image, self.name(disk))?,
            None => None,
        };
        let is_base = |node: &Rc<Node>| base.as_ref().is_some_and(|base| Rc::ptr_eq(node, base));
        let behind = std::iter::successors(image.backing(), |node| node.backing());
        let between: Vec<_> = behind.take_while(|node| !is_base(node)).map(|node| node.node_name()).collect();
        let count = between.len();
        let needs = Needs::Images(between.into_iter().chain([image.node_name()]).collect());
        Ok(Part { image, base, between: count, needs })
    }

    /// Claims nothing yet, but fails as claiming `part` would.
    fn check(&self, disk: &Disk) -> Result<()> {
        disk.check_unclaimed(&self.find(disk)?.needs, self.name(disk))
    }
}

impl Disk {
    /// Checks that these options mean a part of the disk's chain that is free.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` if they do not; `InUse` if a job or another command has a part of it. All with
    /// QEMU's texts, and in its order.
    pub fn check_stream(&self, options: &StreamOptions) -> Result<()> {
        options.check(self)
    }
}

impl Base {
    /// Returns the image that becomes the backing file of `image`. `top` is the name that the caller used for
    /// `image`.
    fn find(&self, leaf: &Rc<Node>, image: &Rc<Node>, top: &str) -> Result<Option<Rc<Node>>> {
        let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
        let named = |name: &str| chain::find(leaf, name).ok_or_else(|| no_node(name));
        match self {
            Base::File(name) => {
                let mut above = image.clone();
                loop {
                    let Some(node) = above.backing() else {
                        return Err(invalid(format!("Can't find '{name}' in the backing chain")));
                    };
                    let recorded = above.format().backing().is_some_and(|backing| backing.name == *name);
                    if recorded || node.name() == name {
                        return Ok(Some(node));
                    }
                    above = node;
                }
            }
            Base::Node(name) => {
                let node = named(name)?;
                if Rc::ptr_eq(&node, image) || chain::find(image, name).is_none() {
                    return Err(invalid(format!("Node '{name}' is not a backing image of '{top}'")));
                }
                Ok(Some(node))
            }
            Base::Bottom(name) => {
                let node = named(name)?;
                if chain::find(image, name).is_none() {
                    return Err(invalid(format!("Node '{name}' is not in a chain starting from '{top}'")));
                }
                Ok(node.backing())
            }
        }
    }
}

fn no_node(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("Cannot find device='' nor node-name='{name}'"))
}
