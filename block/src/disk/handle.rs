//! The way to a disk from other threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};

use executor::{Handle, Remote};

use super::Disk;
use crate::{Error, ErrorKind, Result};

thread_local! {
    /// The disks of this thread, by the IDs in their handles.
    static DISKS: RefCell<BTreeMap<u64, Weak<Disk>>> = const { RefCell::new(BTreeMap::new()) };
}

/// A handle for using a disk from other threads.
#[derive(Clone)]
pub struct DiskHandle {
    remote: Remote,
    id: u64,
}

impl Disk {
    /// Returns a handle for other threads.
    pub fn handle(self: &Rc<Self>) -> DiskHandle {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        DISKS.with_borrow_mut(|disks| {
            disks.retain(|_, disk| disk.strong_count() > 0);
            disks.insert(id, Rc::downgrade(self));
        });
        DiskHandle { remote: executor::remote(), id }
    }
}

impl Handle for DiskHandle {
    type Target = Disk;

    fn remote(&self) -> &Remote {
        &self.remote
    }

    fn get(&self) -> Option<Rc<Disk>> {
        DISKS.with_borrow(|disks| disks.get(&self.id).and_then(Weak::upgrade))
    }
}

impl DiskHandle {
    /// Calls `make` with the disk on the disk's thread, and awaits the returned future there.
    ///
    /// # Errors
    /// Errors of the future; `NotFound` if the disk is gone.
    pub async fn call<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        make: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::new(ErrorKind::NotFound, "the disk is gone");
        let handle = self.clone();
        let reply = self.remote.call(move || {
            let future = handle.get().map(make);
            async move {
                match future {
                    Some(future) => future.await,
                    None => Err(gone()),
                }
            }
        });
        reply.await.unwrap_or_else(|_| Err(gone()))
    }
}
