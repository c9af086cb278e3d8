//! The parts of ordered commits that all formats share: batches, table writes, and allocation ahead.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use executor::sync::{Event, Semaphore};

use super::cache::{Run, SECTOR};
use crate::pieces::all_of;
use crate::storage::Storage;
use crate::{Buf, ErrorKind, Result};

/// Table writes in flight at once.
const DEPTH: usize = 16;
/// The first and the largest step of allocation ahead, in bytes.
const AHEAD: Range<u64> = 1 << 20..64 << 20;
/// The smallest step of allocation ahead, in bytes, on a file system that is short of space.
const LEAST: u64 = 64 << 10;

/// An image whose changes become durable by commits.
pub(crate) trait Commit: 'static {
    fn commits(&self) -> &Commits;

    /// Makes everything that has been changed in memory by now durable, in the format's order.
    async fn commit_once(&self) -> Result<()>;
}

/// One commit, and those who wait for it.
#[derive(Default)]
pub(crate) struct Batch {
    result: RefCell<Option<Result<()>>>,
    done: Event,
}

impl Batch {
    /// Waits until the commit has ended, and returns its result.
    pub(crate) async fn wait(&self) -> Result<()> {
        while self.result.borrow().is_none() {
            self.done.wait().await;
        }
        self.result.borrow().clone().unwrap_or(Ok(()))
    }
}

/// The commits of an image: at most one running, at most one waiting.
#[derive(Default)]
pub(crate) struct Commits {
    running: Cell<bool>,
    next: RefCell<Option<Rc<Batch>>>,
}

impl Commits {
    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    /// Joins the next commit, and starts it if none runs. It runs in a task of its own, so that a request
    /// that is dropped does not leave it half done.
    pub(crate) fn request(image: Rc<impl Commit>) -> Rc<Batch> {
        let commits = image.commits();
        let batch = commits.next.borrow_mut().get_or_insert_default().clone();
        if !commits.running.replace(true) {
            executor::spawn(async move {
                loop {
                    let next = image.commits().next.take();
                    let Some(batch) = next else { break };
                    let result = image.commit_once().await;
                    *batch.result.borrow_mut() = Some(result);
                    batch.done.notify();
                }
                image.commits().running.set(false);
            });
        }
        batch
    }
}

/// Writes runs, several at once.
pub(crate) async fn write_all(storage: &dyn Storage, runs: Vec<Run>) -> Result<()> {
    let writes = runs.into_iter().map(|run| {
        let buf = Buf::from_bytes(&run.bytes);
        storage.write(run.offset, buf)
    });
    all_of(writes, DEPTH).await
}

/// Changes the first 512 bytes of storage in one write, durably; `one` serializes the changes.
pub(crate) async fn patch_header(
    storage: &dyn Storage,
    one: &Rc<Semaphore>,
    change: impl FnOnce(&mut [u8]),
) -> Result<()> {
    let _one = one.acquire(1).await;
    let buf = Buf::new(SECTOR);
    storage.read(0, buf.clone()).await?;
    let mut sector = buf.to_vec();
    change(&mut sector);
    storage.write(0, Buf::from_bytes(&sector)).await?;
    storage.sync().await
}

/// Allocates file space in large steps ahead of its use, in the background: many small file extensions
/// cost more than the data.
pub(crate) struct Ahead {
    until: Cell<u64>,
    step: Cell<u64>,
    busy: Cell<bool>,
    /// True once the storage has refused to allocate space ahead.
    refused: Cell<bool>,
    /// No space is asked for until the file is used up to this offset.
    rest: Cell<u64>,
    used: Cell<bool>,
    done: Event,
}

impl Ahead {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Ahead {
            until: Cell::new(0),
            step: Cell::new(AHEAD.start),
            busy: Cell::new(false),
            refused: Cell::new(false),
            rest: Cell::new(0),
            used: Cell::new(false),
            done: Event::new(),
        })
    }

    /// Notes that the file is used up to `end`, and allocates ahead if that is due.
    pub(crate) fn reach(self: &Rc<Self>, storage: &Rc<dyn Storage>, end: u64) {
        let until = self.until.get().max(storage.len());
        let step = self.step.get();
        if self.busy.get()
            || self.refused.get()
            || end < self.rest.get()
            || end + step / 2 <= until
            || !storage.gains_from_space_ahead()
        {
            return;
        }
        self.busy.set(true);
        let (this, storage) = (self.clone(), storage.clone());
        executor::spawn(async move {
            let start = until.max(end);
            // Set even if it fails, since it may have got half way.
            this.used.set(true);
            match storage.allocate(start, step).await {
                Ok(()) => {
                    this.until.set(start + step);
                    this.step.set((step * 2).min(AHEAD.end));
                }
                Err(e) if e.kind() == ErrorKind::Unsupported => this.refused.set(true),
                // Space is short, perhaps only for a moment.
                Err(_) if step > LEAST => this.step.set(step / 2),
                Err(_) => this.rest.set(end + AHEAD.start),
            }
            this.busy.set(false);
            this.done.notify();
        });
    }

    /// Waits until an allocation in flight has ended, before the file is trimmed. Returns true if there is
    /// anything to trim.
    pub(crate) async fn stop(&self) -> bool {
        while self.busy.get() {
            self.done.wait().await;
        }
        self.until.set(0);
        self.used.replace(false)
    }
}
