//! The witness of a pivot: a file that names the image that owns the disk, whoever dies when.
//!
//! It is one JSON object. Its first 512 bytes, which a disk writes as a whole or not at all, hold the
//! `owner`; what follows never changes:
//!
//! ```json
//! {
//!   "millrace-witness": 1,
//!   "owner": "source",
//!   "device": "virtio0",
//!   "job": "move",
//!   "source": {"file": "/images/a.qcow2", "format": "qcow2", "node-name": "#block012"},
//!   "target": {"file": "/images/b.qcow2", "format": "qcow2", "node-name": "b"}
//! }
//! ```
//!
//! The file is created when the job starts, with the owner `source`, and must not exist before: so no
//! image is overwritten, no FIFO is opened, and no two jobs share one. It has its space from then on.
//!
//! | time | owner | source | target |
//! |---|---|---|---|
//! | before the swap | `source` | has everything | may have anything |
//! | after it, until the record is durable | either, after a crash | has everything flushed | the same |
//! | from then on | `target` | is old | has everything |
//!
//! In between, the guest's changes and flushes wait in a filter, so that nothing is acknowledged that one of
//! the two lacks; its reads do not wait. What an error makes of it:
//!
//! - The record cannot be written, and the file surely still says `source`, or that was made durable
//!   again: the disk moves back, what waits is done there, and the job fails.
//! - It is not known what the file says: both records are tried again each second, and the guest waits, as
//!   for an image that hangs. If the disk is closed meanwhile, what waits fails.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use executor::sync::Event;

use crate::disk::filter::{Below, Filter, Installed};
use crate::disk::job::{Job, Operation};
use crate::disk::switch::DEADLINE;
use crate::image::node::Node;
use crate::storage::{Opener, Storage};
use crate::{Buf, Disk, Error, ErrorKind, Result};

/// The bytes that a disk writes as a whole or not at all.
const SECTOR: usize = 512;
/// The time between two tries to write a record.
const AGAIN: Duration = Duration::from_secs(1);

/// The image that owns the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Source,
    Target,
}

/// The way of the requests that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It is not known yet.
    Waits,
    /// On the target.
    Ahead,
    /// On the source, which is the disk's leaf again.
    Back,
    /// They fail: the disk is being closed.
    Nowhere,
}

/// See the module.
pub(super) struct Witness {
    opener: Rc<dyn Opener>,
    name: String,
    file: RefCell<Rc<dyn Storage>>,
    /// What follows the first sector.
    rest: String,
    way: Cell<Way>,
    changed: Event,
}

/// The names of an image.
fn image(opener: &dyn Opener, node: &Node) -> Result<serde_json::Value> {
    let file = opener.absolute(node.name())?;
    Ok(serde_json::json!({"file": file, "format": node.kind().name(), "node-name": &*node.node_name()}))
}

/// The first sector.
fn head(owner: Owner) -> String {
    let owner = match owner {
        Owner::Source => "source",
        Owner::Target => "target",
    };
    let head = format!("{{\n  \"millrace-witness\": 1,\n  \"owner\": \"{owner}\",");
    format!("{head:<width$}\n", width = SECTOR - 1)
}

impl Witness {
    /// Creates the file, which says that the source is the owner, durably.
    ///
    /// # Errors
    /// Errors of creating and writing it; there is none then. One that exists is left as it is.
    pub(super) async fn create(disk: &Disk, name: &str, job: &str, target: &Node) -> Result<Rc<Self>> {
        let opener = disk.opener.clone();
        let rest = format!(
            "  \"device\": {},\n  \"job\": {},\n  \"source\": {},\n  \"target\": {}\n}}\n",
            serde_json::json!(disk.name()),
            serde_json::json!(job),
            image(&*opener, &disk.leaf())?,
            image(&*opener, target)?
        );
        let name = opener.absolute(name)?;
        let file = RefCell::new(opener.open_record(&name, true).await?);
        let (way, changed) = (Cell::new(Way::Waits), Event::new());
        let witness = Rc::new(Witness { opener, name, file, rest, way, changed });
        if let Err(failed) = witness.fill(Owner::Source).await {
            witness.remove().await;
            return Err(failed.error);
        }
        Ok(witness)
    }

    /// Removes the file of a job that does not start.
    pub(super) async fn remove(&self) {
        if let Err(e) = self.opener.remove(&self.name).await {
            executor::limited!(warn, "cannot remove the witness of a job that did not start: {e}");
        }
    }

    /// Writes the whole file, durably. Only its first sector changes.
    async fn fill(&self, owner: Owner) -> std::result::Result<(), Failed> {
        let file = self.file.borrow().clone();
        if let Err(error) = file.write(0, Buf::from_bytes((head(owner) + &self.rest).as_bytes())).await {
            // These refuse a write before it has changed anything.
            let unwritten = matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::NoSpace);
            return Err(Failed { error, unwritten });
        }
        let synced = async { file.sync().await.and(file.sync_name().await) };
        synced.await.map_err(|error| Failed { error, unwritten: false })
    }

    /// Makes durable who the owner is.
    pub(super) async fn record(&self, owner: Owner) -> std::result::Result<(), Failed> {
        // Opened anew: a sync that failed makes those of an opening fail for ever, but what is written anew
        // can be synced. And somebody may have removed the file.
        let file = match self.opener.open_record(&self.name, false).await {
            Ok(file) if file.identity() == self.file.borrow().identity() => Ok(file),
            Ok(_) => {
                let text = format!("{}: another file has taken the place of the job's witness", self.name);
                Err(Error::new(ErrorKind::Invalid, text))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => self.opener.open_record(&self.name, true).await,
            Err(e) => Err(e),
        };
        self.file.replace(file.map_err(|error| Failed { error, unwritten: true })?);
        self.fill(owner).await
    }

    /// Records that the disk has moved from `old`. Until then, this must be a filter of the disk, which
    /// `installed` removes.
    ///
    /// # Errors
    /// If that failed: the disk is back on `old` then, or it is being closed.
    pub(super) async fn moved(
        &self,
        disk: &Rc<Disk>,
        job: &Job,
        old: Rc<Node>,
        installed: Installed,
    ) -> Result<()> {
        // It is not known what the file says; and that was reported.
        let (mut doubt, mut reported) = (false, false);
        loop {
            let failed = match unless_closed(disk, self.record(Owner::Target)).await {
                Some(Ok(())) => {
                    drop(installed);
                    self.go(Way::Ahead);
                    return Ok(());
                }
                Some(Err(failed)) => failed,
                None => return Err(self.give_up(disk, &old).await),
            };
            doubt |= !failed.unwritten;
            let is_back = match doubt {
                false => Some(Ok(())),
                true => unless_closed(disk, self.record(Owner::Source)).await,
            };
            match is_back {
                Some(Ok(())) => {
                    disk.swap_back(old);
                    drop(installed);
                    self.go(Way::Back);
                    // The target is closed next, and reads may be in flight there.
                    drop(disk.drain(DEADLINE).await);
                    return Err(failed.error);
                }
                Some(Err(_)) if disk.check_open().is_ok() => {}
                _ => return Err(self.give_up(disk, &old).await),
            }
            if !std::mem::replace(&mut reported, true) {
                job.meets(Operation::Write, &failed.error);
            }
            executor::limited!(
                warn,
                "{}: the guest's writes wait until its move is recorded: {}",
                disk.name(),
                failed.error
            );
            executor::sleep(AGAIN).await;
        }
    }

    /// Fails the requests that wait, and those to come. Whichever image the file names has everything that
    /// was answered.
    async fn give_up(&self, disk: &Disk, old: &Node) -> Error {
        self.go(Way::Nowhere);
        // The target is flushed when the disk is closed.
        if let Err(e) = old.flush().await {
            executor::limited!(warn, "{}: cannot flush {}: {e}", disk.name(), old.name());
        }
        let text = format!("{}: does not say that {} has moved, which is closed now", self.name, disk.name());
        Error::new(ErrorKind::Io, text)
    }

    fn go(&self, way: Way) {
        self.way.set(way);
        self.changed.notify();
    }

    /// Waits until it is known where requests go. Returns true if that is the source.
    async fn goes_back(&self) -> Result<bool> {
        loop {
            match self.way.get() {
                Way::Waits => self.changed.wait().await,
                Way::Ahead => return Ok(false),
                Way::Back => return Ok(true),
                Way::Nowhere => {
                    let text = format!("{}: the disk was closed before it was written", self.name);
                    return Err(Error::new(ErrorKind::Io, text));
                }
            }
        }
    }
}

#[async_trait(?Send)]
impl Filter for Witness {
    async fn write(&self, below: Below<'_>, offset: u64, buf: Buf) -> Result<()> {
        match self.goes_back().await? {
            false => below.write(offset, buf).await,
            true => below.anew().below().write(offset, buf).await,
        }
    }

    async fn write_zeroes(&self, below: Below<'_>, offset: u64, len: u64, unmap: bool) -> Result<()> {
        match self.goes_back().await? {
            false => below.write_zeroes(offset, len, unmap).await,
            true => below.anew().below().write_zeroes(offset, len, unmap).await,
        }
    }

    async fn discard(&self, below: Below<'_>, offset: u64, len: u64) -> Result<()> {
        match self.goes_back().await? {
            false => below.discard(offset, len).await,
            true => below.anew().below().discard(offset, len).await,
        }
    }

    async fn flush(&self, below: Below<'_>) -> Result<()> {
        match self.goes_back().await? {
            false => below.flush().await,
            true => below.anew().below().flush().await,
        }
    }
}

/// Does `what` to its end, or gives up soon after the disk began to be closed: a file that hangs keeps nobody
/// from that.
async fn unless_closed<T>(disk: &Disk, what: impl Future<Output = T>) -> Option<T> {
    let mut what = std::pin::pin!(what);
    loop {
        let done = executor::timeout(AGAIN, what.as_mut()).await;
        if done.is_some() || disk.check_open().is_err() {
            return done;
        }
    }
}

/// A record that failed.
pub(super) struct Failed {
    pub error: Error,
    /// The file surely says what it said before.
    pub unwritten: bool,
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
