//! The files that this process has open, so that no file has two writers, or a writer and readers.
//!
//! The locks of [`crate::storage::Lock`] keep other processes away. They do not help if the storage has no
//! locks (an NBD export, a file system without locks) or while one node hands its lock to another, and they
//! do not say whether the holder is this process itself. So every open node is also counted here, by the
//! identity of its storage, whatever its name. Disks on different threads share no other data structure.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::storage::{Identity, Storage};
use crate::{Error, ErrorKind, Result};

#[derive(Clone, Copy, Default)]
struct Users {
    readers: usize,
    writer: bool,
}

static USERS: Mutex<BTreeMap<(u64, u64), Users>> = Mutex::new(BTreeMap::new());

/// Locks the table. The guard is held for a few instructions, never across an `.await`.
fn users() -> MutexGuard<'static, BTreeMap<(u64, u64), Users>> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(identity: Identity) -> (u64, u64) {
    (identity.device, identity.inode)
}

/// The use of an image by a node. Ends on drop.
pub(crate) struct Use {
    /// Identity of the storage, if it is known.
    identity: Option<Identity>,
    writes: Cell<bool>,
}

impl Use {
    /// Begins to use the object behind `storage`: for writing if `writes`, else for reading.
    ///
    /// # Errors
    /// `Locked` if that conflicts with another use by this process.
    pub(crate) fn begin(storage: &dyn Storage, writes: bool) -> Result<Self> {
        let identity = storage.identity();
        if let Some(identity) = identity {
            let mut all = users();
            let users = all.get(&key(identity)).copied().unwrap_or_default();
            refuse(storage.name(), users, writes)?;
            let readers = users.readers + usize::from(!writes);
            all.insert(key(identity), Users { readers, writer: writes });
        }
        Ok(Use { identity, writes: Cell::new(writes) })
    }

    /// Fails with `Locked` if this process uses the object behind `storage`.
    pub(crate) fn refuse_any(storage: &dyn Storage) -> Result<()> {
        let Some(identity) = storage.identity() else { return Ok(()) };
        let users = users().get(&key(identity)).copied().unwrap_or_default();
        refuse(storage.name(), users, true)
    }

    /// Turns a reader into the writer.
    ///
    /// # Errors
    /// `Locked` if it is the writer already, or not the only reader. Then nothing changes.
    pub(crate) fn begin_writing(&self, name: &str) -> Result<()> {
        if let Some(identity) = self.identity {
            let mut all = users();
            let others = all.entry(key(identity)).or_default();
            let without = Users { readers: others.readers - usize::from(!self.writes.get()), ..*others };
            refuse(name, without, true)?;
            *others = Users { readers: 0, writer: true };
        }
        self.writes.set(true);
        Ok(())
    }

    /// Turns the writer into a reader.
    pub(crate) fn end_writing(&self) {
        if self.writes.replace(false)
            && let Some(identity) = self.identity
        {
            users().insert(key(identity), Users { readers: 1, writer: false });
        }
    }
}

fn refuse(name: &str, users: Users, writes: bool) -> Result<()> {
    let how = match users {
        Users { writer: true, .. } => "as the image of a disk that is written",
        Users { readers: 1.., .. } if writes => "as a backing file, or as the image of a read-only disk",
        _ => return Ok(()),
    };
    let text = format!("{name}: this program has the image open already, {how}");
    Err(Error::new(ErrorKind::Locked, text))
}

impl Drop for Use {
    fn drop(&mut self) {
        let Some(identity) = self.identity else { return };
        let mut all = users();
        let Some(users) = all.get_mut(&key(identity)) else { return };
        if self.writes.get() {
            users.writer = false;
        } else {
            users.readers -= 1;
        }
        if users.readers == 0 && !users.writer {
            all.remove(&key(identity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimFile;

    #[test]
    fn a_file_has_readers_or_one_writer() {
        executor::Executor::simulated(1).block_on(async {
            let (file, other) = (SimFile::new("one", Vec::new()), SimFile::new("other", Vec::new()));
            let begin = |writes| Use::begin(&*file, writes);
            let first = begin(false).unwrap();
            let second = begin(false).unwrap();
            let error = begin(true).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Locked);
            assert_eq!(
                error.to_string(),
                "one: this program has the image open already, as a backing file, or as the image of a read-only disk"
            );
            assert!(first.begin_writing("one").is_err() && Use::refuse_any(&*file).is_err());
            drop(second);
            first.begin_writing("one").unwrap();
            assert!(first.begin_writing("one").is_err(), "a second writer");
            assert!(begin(false).is_err() && begin(true).is_err());
            let _other = Use::begin(&*other, true).unwrap();
            first.end_writing();
            drop(begin(false).unwrap());
            assert!(begin(true).is_err());
            drop(first);
            Use::refuse_any(&*file).unwrap();
            drop(begin(true).unwrap());
        });
    }
}
