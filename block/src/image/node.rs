//! One image of a chain: its format over its storage, and its backing file.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use executor::sync::Semaphore;

use super::Waits;
use crate::Result;
use crate::buf::Pool;
use crate::format::{Format, Kind};
use crate::storage::changes::Changes;
use crate::storage::in_use::Use;
use crate::storage::ranges::{RangeGuard, RangeLocks};
use crate::storage::{Lock, Storage};

mod read;
mod write;

/// Limit on the memory in which an image's allocating writes hold the old data around them, in bytes. A
/// single cluster may exceed it: one without subclusters is filled as a whole, and may have 64 MiB.
const FILLING: u64 = 32 << 20;

/// A boxed future that stays on this thread.
pub(crate) type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// An image of a chain.
pub struct Node {
    /// See [`Node::node_name`].
    node_name: RefCell<String>,
    format: Rc<dyn Format>,
    backing: RefCell<Option<Rc<Node>>>,
    /// Locks on clusters that are being allocated, populated or zeroed. Requests in place take none.
    locks: Rc<RangeLocks>,
    /// Memory for the old data around allocating writes, in bytes.
    filling: Rc<Semaphore>,
    /// Requests that waited for a job's lock while this was the leaf.
    pub(crate) waits: Waits,
    pub(crate) pool: Pool,
    writable: Cell<bool>,
    /// `None` if the image is only inspected, and after the disk was closed. Declared before `storage`,
    /// so that it is dropped first.
    using: RefCell<Option<Use>>,
    storage: Rc<dyn Storage>,
}

impl Node {
    pub(crate) fn new(
        format: Rc<dyn Format>,
        storage: Rc<dyn Storage>,
        backing: Option<Rc<Node>>,
        using: Option<Use>,
        writable: bool,
    ) -> Rc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Rc::new(Node {
            node_name: RefCell::new(format!("#block{number:03}")),
            format,
            storage,
            backing: RefCell::new(backing),
            locks: RangeLocks::new(),
            filling: Semaphore::new(FILLING),
            waits: Waits::default(),
            pool: Pool::default(),
            writable: Cell::new(writable),
            using: RefCell::new(using),
        })
    }

    /// Returns the name of the image: a path, or the URI of an NBD export.
    pub fn name(&self) -> &str {
        self.storage.name()
    }

    /// Returns the name by which the monitor knows the image. It is unique in the process. A generated
    /// name begins with '#', which a chosen name must not.
    pub fn node_name(&self) -> String {
        self.node_name.borrow().clone()
    }

    /// Sets the node name, which is not checked.
    pub fn set_node_name(&self, name: &str) {
        name.clone_into(&mut self.node_name.borrow_mut());
    }

    /// Returns the image's format.
    pub fn kind(&self) -> Kind {
        self.format.kind()
    }

    /// Returns the size of this image's disk in bytes.
    pub fn size(&self) -> u64 {
        self.format.size()
    }

    /// Returns the allocation unit in bytes; 1 for formats without allocation.
    pub fn cluster_size(&self) -> u64 {
        self.format.cluster_size()
    }

    /// Returns the backing file.
    pub fn backing(&self) -> Option<Rc<Node>> {
        self.backing.borrow().clone()
    }

    /// Returns true if the image is open for writing.
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    pub(crate) fn storage(&self) -> &Rc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn format(&self) -> &dyn Format {
        &*self.format
    }

    pub(crate) fn set_backing(&self, backing: Option<Rc<Node>>) {
        *self.backing.borrow_mut() = backing;
    }

    /// Turns a leaf into a backing file: it is not written any more, and gets the lock of a backing
    /// file. That lock holds and denies less than a leaf's, so no other process can refuse it.
    pub(crate) fn demote(&self) {
        self.writable.set(false);
        if let Some(using) = &*self.using.borrow() {
            using.end_writing();
        }
        if let Err(e) = self.storage.lock(Lock::Backing) {
            executor::limited!(warn, "{}: cannot change to the lock of a backing file: {e}", self.name());
        }
    }

    /// Takes the use of the image, to hand it to another node over the same file.
    pub(crate) fn take_use(&self) -> Option<Use> {
        self.using.take()
    }

    /// Ends the use of the image when the disk is closed: others may use it.
    pub(crate) fn end_use(&self) {
        self.using.take();
    }

    /// Sets the use that [`Node::take_use`] returned.
    pub(crate) fn give_use(&self, using: Option<Use>) {
        self.using.replace(using);
    }

    /// Returns the number of images in the chain from this one on.
    pub(crate) fn depth(&self) -> usize {
        1 + std::iter::successors(self.backing(), |node| node.backing()).count()
    }

    /// Returns the range, widened to whole clusters.
    fn clusters(&self, range: Range<u64>) -> Range<u64> {
        let cluster = self.cluster_size();
        range.start - range.start % cluster..range.end.next_multiple_of(cluster)
    }

    /// Locks the clusters of a range for a request. Counts a wait for a job.
    pub(crate) async fn lock(&self, range: Range<u64>) -> RangeGuard {
        let range = self.clusters(range);
        if !self.locks.is_with_job(&range) {
            return self.locks.lock(range).await;
        }
        let start = executor::now();
        let guard = self.locks.lock(range).await;
        self.waits.record(executor::now().saturating_sub(start));
        guard
    }

    /// Locks the clusters of a range for a job.
    pub(crate) async fn lock_for_job(&self, range: Range<u64>) -> RangeGuard {
        self.locks.lock_for_job(self.clusters(range)).await
    }

    /// Returns the length of the first part of a range, at most `len`, and true if a job is working on all of
    /// it, false if no job is on any of it.
    pub(crate) fn first_with_job(&self, at: u64, len: u64) -> (u64, bool) {
        self.locks.first_with_job(at, len)
    }

    /// Has `watcher` note each range whose mapping may change, except for writes in place; `None` ends that.
    pub(crate) fn watch(&self, watcher: Option<Rc<Changes>>) {
        self.locks.watch(watcher);
    }

    /// Makes every write to this image that completed before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.format.flush().await
    }

    /// Flushes the image and trims its file. Nothing may be in flight.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.writable.get() { self.format.close().await } else { Ok(()) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A recursive drop of a long chain would overflow the stack.
        let mut next = self.backing.take();
        while let Some(node) = next {
            next = Rc::into_inner(node).and_then(|node| node.backing.take());
        }
    }
}
