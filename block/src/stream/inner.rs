//! An image in the middle of a chain, written for a while.

use std::rc::Rc;

use crate::disk::Disk;
use crate::format::Format;
use crate::node::Node;
use crate::storage::Lock;
use crate::switch::DEADLINE;
use crate::{Error, ErrorKind, Result};

impl Disk {
    /// Opens an image of the chain, not the leaf, for writing, and puts it in its own place. On any
    /// error the chain is as it was.
    pub(super) async fn open_inner(self: &Rc<Self>, old: &Rc<Node>) -> Result<Rc<Node>> {
        let mut parent = self.leaf();
        while let Some(node) = parent.backing().filter(|node| !Rc::ptr_eq(node, old)) {
            parent = node;
        }
        let name = old.name();
        let storage = self.opener.open(name, true).await?;
        if storage.identity() != old.storage().identity() {
            let text = format!("{name}: is not the file any more that the disk runs on");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        storage.lock_after(&**old.storage(), Lock::Leaf)?;
        let opened = self.reopen(old, storage.clone(), &parent).await;
        if opened.is_err() {
            old.storage().lock_after(&*storage, Lock::Backing)?;
        }
        opened
    }

    async fn reopen(
        self: &Rc<Self>,
        old: &Rc<Node>,
        storage: Rc<dyn crate::storage::Storage>,
        parent: &Rc<Node>,
    ) -> Result<Rc<Node>> {
        let format = Format::open(storage.clone(), old.kind(), true).await?;
        let new = Node::new(format, storage, old.backing(), true);
        new.set_node_name(&old.node_name());
        // Reads on the old one end first: it would not see what becomes of the file.
        let Some(_closed) = self.drain(DEADLINE).await else {
            let text = format!("{}: requests in flight did not end within {DEADLINE:?}", self.name());
            return Err(Error::new(ErrorKind::TimedOut, text));
        };
        parent.set_backing(Some(new.clone()));
        Ok(new)
    }

    /// Makes an image in the middle of a chain a backing file again.
    pub(super) async fn close_inner(&self, image: &Rc<Node>) {
        let closed = match image.close().await {
            Ok(()) => image.demote(),
            Err(e) => Err(e),
        };
        if let Err(e) = closed {
            executor::limited!(warn, "{}: {} after its stream: {e}", self.name(), image.name());
        }
    }
}
