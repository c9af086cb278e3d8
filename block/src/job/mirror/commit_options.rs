//! The options of a commit, and the images that they mean.

use std::rc::Rc;

use crate::disk::{Disk, Needs};
use crate::image::chain;
use crate::image::node::Node;
use crate::{Error, ErrorKind, Result};

/// An image of a chain, as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// By its file name, as the image above records it or as it was opened.
    File(String),
    /// By its node name.
    Node(String),
}

/// The part of a chain that is committed.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The first image that is committed; the leaf if `None`.
    pub top: Option<Named>,
    /// The image that they are committed into; the last of the chain if `None`.
    pub base: Option<Named>,
    /// The name by which the overlay records the base; its own name if `None`. Only without the leaf.
    pub backing_file: Option<String>,
    /// Name of the file that says durably which image owns the disk, as for
    /// [`Disk::start_mirror`]. Only with the leaf.
    pub witness: Option<String>,
}

/// The part of a chain that options mean.
pub(super) struct Part {
    /// The image above the top; `None` if the top is the leaf.
    pub overlay: Option<Rc<Node>>,
    pub top: Rc<Node>,
    pub base: Rc<Node>,
    /// Number of images from the top on that are above the base.
    pub above: usize,
    /// The images that the job claims.
    pub needs: Needs,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text.into())
}

fn no_node(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("Cannot find device='' nor node-name='{name}'"))
}

/// Returns the image behind `from` with this file name.
fn behind(from: &Rc<Node>, name: &str) -> Option<Rc<Node>> {
    let mut above = from.clone();
    while let Some(node) = above.backing() {
        if above.format().backing().is_some_and(|backing| backing.name == name) || node.name() == name {
            return Some(node);
        }
        above = node;
    }
    None
}

impl Disk {
    /// Checks that these options mean a part of the disk's chain that is free.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` if they do not; `InUse` if a job or another command has a part of it. All with
    /// QEMU's texts, and in its order.
    pub fn check_commit(&self, commit: &CommitOptions) -> Result<()> {
        self.find_commit(commit).map(drop)
    }

    pub(super) fn find_commit(&self, commit: &CommitOptions) -> Result<Part> {
        let leaf = self.leaf();
        let top = match &commit.top {
            None => leaf.clone(),
            Some(Named::Node(name)) => chain::find(&leaf, name).ok_or_else(|| no_node(name))?,
            Some(Named::File(name)) if leaf.name() == name => leaf.clone(),
            Some(Named::File(name)) => {
                behind(&leaf, name).ok_or_else(|| invalid(format!("Top image file {name} not found")))?
            }
        };
        let base = match &commit.base {
            None => {
                let last = std::iter::successors(Some(top.clone()), |node| node.backing()).last();
                last.unwrap_or_else(|| top.clone())
            }
            Some(Named::Node(name)) => {
                let found = chain::find(&leaf, name).ok_or_else(|| no_node(name))?;
                let is_behind = chain::find(&top, name).is_some();
                let text = || invalid(format!("'{name}' is not in this backing file chain"));
                is_behind.then_some(found).ok_or_else(text)?
            }
            Some(Named::File(name)) => behind(&top, name)
                .ok_or_else(|| invalid(format!("Can't find '{name}' in the backing chain")))?,
        };
        let images = std::iter::successors(Some(top.clone()), |node| node.backing());
        let above: Vec<_> = images.take_while(|node| !Rc::ptr_eq(node, &base)).collect();
        let is_leaf = Rc::ptr_eq(&top, &leaf);
        let overlay = std::iter::successors(Some(leaf.clone()), |node| node.backing())
            .find(|node| node.backing().is_some_and(|behind| Rc::ptr_eq(&behind, &top)));
        let one = |node: &Rc<Node>| Needs::Images([node.node_name()].into());
        for node in above.iter().chain([&base]) {
            self.check_unclaimed(&one(node), &node.node_name())?;
        }
        if above.is_empty() {
            return Err(invalid("cannot commit an image into itself"));
        }
        if is_leaf && commit.backing_file.is_some() {
            return Err(invalid("'backing-file' specified, but 'top' is the active layer"));
        }
        if !is_leaf && commit.witness.is_some() {
            return Err(invalid("'x-witness' specified, but 'top' is not the active layer"));
        }
        let needs = match &overlay {
            None => Needs::Disk,
            Some(overlay) => {
                self.check_unclaimed(&one(overlay), &overlay.node_name())?;
                let all = above.iter().chain([&base, overlay]);
                Needs::Images(all.map(|node| node.node_name()).collect())
            }
        };
        self.check_unclaimed(&needs, self.name())?;
        Ok(Part { overlay, top, base, above: above.len(), needs })
    }
}
