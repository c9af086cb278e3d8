//! Images in the middle of a chain that are written for a while.

use std::rc::Rc;

use crate::disk::Disk;
use crate::disk::switch::DEADLINE;
use crate::image::node::Node;
use crate::storage::in_use::Use;
use crate::storage::{Lock, Storage};
use crate::{Error, ErrorKind, Result};

impl Disk {
    /// Opens an image of the chain that is not the leaf for writing, and replaces its node in the chain.
    /// On any error the chain is unchanged.
    ///
    /// # Errors
    /// Fails if the image was written before and cannot be turned into a backing file: some of its changes
    /// are only in memory, and a second node over its file would not know of them. Errors of finishing a
    /// former leaf, and of opening the image.
    pub(in crate::job) async fn open_inner(self: &Rc<Self>, old: &Rc<Node>) -> Result<Rc<Node>> {
        let name = old.name();
        self.end_old().await?;
        if old.is_writable() {
            let text = format!("{name}: is still being written");
            return Err(Error::new(ErrorKind::InUse, text));
        }
        let storage = self.opener.open(name, true).await?;
        if storage.identity() != old.storage().identity() {
            let text = format!("{name}: is no longer the file that the disk runs on");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let using = old.take_use();
        let opened = self.reopen(old, &storage, &using).await;
        match &opened {
            Ok(new) => new.give_use(using),
            Err(_) => {
                if let Some(using) = &using {
                    using.end_writing();
                }
                old.give_use(using);
                if let Err(e) = old.storage().lock_after(&*storage, Lock::Backing) {
                    executor::limited!(warn, "{name}: cannot lock it as a backing file again: {e}");
                }
            }
        }
        opened
    }

    async fn reopen(
        self: &Rc<Self>,
        old: &Rc<Node>,
        storage: &Rc<dyn Storage>,
        using: &Option<Use>,
    ) -> Result<Rc<Node>> {
        if let Some(using) = using {
            using.begin_writing(old.name())?;
        }
        storage.lock_after(&**old.storage(), Lock::Leaf)?;
        let format = old.kind().open(storage.clone(), true).await?;
        let new = Node::new(format, storage.clone(), None, None, true);
        new.set_node_name(&old.node_name());
        // Reads through the old node must end first: it does not notice changes to the file.
        let Some(_closed) = self.drain(DEADLINE).await else {
            let text = format!("{}: requests in flight did not end within {DEADLINE:?}", self.name());
            return Err(Error::new(ErrorKind::TimedOut, text));
        };
        // Found only now: another job may have changed the chain above and below meanwhile.
        let mut parent = self.leaf();
        while let Some(node) = parent.backing().filter(|node| !Rc::ptr_eq(node, old)) {
            parent = node;
        }
        new.set_backing(old.backing());
        parent.set_backing(Some(new.clone()));
        Ok(new)
    }

    /// Turns an image in the middle of a chain into a backing file again.
    pub(in crate::job) async fn close_inner(&self, image: &Rc<Node>) {
        self.retire_flushed(image);
        if let Err(e) = self.end_old().await {
            executor::limited!(warn, "{}: cannot finish {} after its job: {e}", self.name(), image.name());
        }
    }
}
