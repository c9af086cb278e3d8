//! Leaves of the past: images that the disk has written and does not run on any more.

use std::cell::Cell;
use std::rc::Rc;

use super::Disk;
use crate::Result;
use crate::image::node::Node;

/// A leaf of the past. A guest's flush reaches it until it is `flushed`; then it is closed, and made a
/// backing file.
pub(super) struct Old {
    node: Rc<Node>,
    /// It holds what a guest has written and may not have flushed.
    is_guests: bool,
    flushed: Cell<bool>,
}

impl Disk {
    /// Flushes leaves of the past. Nobody writes to them any more, so once is enough. Returns the first
    /// error, after all have been tried.
    pub(crate) async fn flush_old(&self) -> Result<()> {
        let all: Vec<_> = self.old.borrow().iter().filter(|old| !old.flushed.get()).cloned().collect();
        let mut outcome = Ok(());
        for old in all {
            match old.node.flush().await {
                Ok(()) => old.flushed.set(true),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// Ends the life of leaves of the past as leaves: flushes and closes them, and makes them backing files.
    /// The next call tries again what failed.
    ///
    /// # Errors
    /// The first error of an image that holds what a guest has written, after all have been tried. One of an
    /// image that was retired as flushed is only logged: nobody misses what it could not finish, and it must
    /// not stand in the way of other images.
    pub(crate) async fn end_old(&self) -> Result<()> {
        // Several jobs of a disk may end at once, and an image is closed once.
        let _one = self.ending_old.acquire(1).await;
        let mut outcome = self.flush_old().await;
        let flushed: Vec<_> = self.old.borrow().iter().filter(|old| old.flushed.get()).cloned().collect();
        for old in flushed {
            match old.node.close().await {
                Ok(()) => {
                    old.node.demote();
                    self.old.borrow_mut().retain(|other| !Rc::ptr_eq(other, &old));
                }
                Err(e) if old.is_guests => outcome = outcome.and(Err(e)),
                Err(e) => {
                    executor::limited!(warn, "{}: cannot finish {}: {e}", self.name(), old.node.name());
                }
            }
        }
        outcome
    }

    /// Has `node`, which was written and is not any more, flushed by the guest's flushes and ended by
    /// [`Disk::end_old`].
    pub(crate) fn retire(&self, node: &Rc<Node>) {
        self.keep_old(node, false);
    }

    /// As [`Disk::retire`], for a node that holds nothing that a guest has written: only [`Disk::end_old`]
    /// ends it, and no guest's flush fails for it.
    pub(crate) fn retire_flushed(&self, node: &Rc<Node>) {
        self.keep_old(node, true);
    }

    fn keep_old(&self, node: &Rc<Node>, flushed: bool) {
        if node.is_writable() {
            let (is_guests, flushed) = (!flushed, Cell::new(flushed));
            self.old.borrow_mut().push(Rc::new(Old { node: node.clone(), is_guests, flushed }));
        }
    }

    /// Puts a new leaf in the place of the old one, which it returns. The disk must be drained.
    pub(crate) fn swap(&self, leaf: Rc<Node>) -> Rc<Node> {
        let old = self.replace_leaf(leaf);
        self.retire(&old);
        old
    }

    /// As [`Disk::swap`], for a leaf that holds everything that the old one does: no guest's flush
    /// concerns the old one any more.
    pub(crate) fn swap_to_copy(&self, leaf: Rc<Node>) {
        let old = self.replace_leaf(leaf);
        self.retire_flushed(&old);
    }

    /// Puts `leaf`, which [`Disk::swap`] or [`Disk::swap_to_copy`] has replaced, in its place again. Nothing
    /// must have been written since; reads may be in flight.
    pub(crate) fn swap_back(&self, leaf: Rc<Node>) {
        self.old.borrow_mut().retain(|old| !Rc::ptr_eq(&old.node, &leaf));
        self.replace_leaf(leaf);
    }

    fn replace_leaf(&self, leaf: Rc<Node>) -> Rc<Node> {
        let old = self.leaf.replace(leaf);
        self.stats.waits.add(&old.waits);
        old.waits.take();
        self.flight.switched(executor::now());
        self.clusters.switched();
        self.cursor.set(0);
        old
    }
}
