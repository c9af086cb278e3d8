//! A step of a switch of several disks, driven from another thread.
//!
//! The disk keeps what belongs to its thread; the [`Step`] is the only thing that reaches it. So nobody
//! takes, and nobody throws away, what somebody else has prepared: not a client that tries again while the
//! first one's failure is still being cleaned up, and not a transaction that is abandoned half way.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use executor::Handle;

use crate::disk::{Disk, DiskHandle};
use crate::switch::{Prepared, Ready, Switched};
use crate::{Error, ErrorKind, Result};

/// How far a step has come, as its disk keeps it.
pub(crate) enum Stage {
    /// Its disk's thread works on it.
    Busy,
    /// Everything is ready, and nothing was touched yet.
    Prepared(Prepared),
    /// The gate is closed.
    Closed(Ready),
}

/// A switch of one disk that waits for those of others: prepared, then closed, then committed.
///
/// Dropping it, at any stage and also while one of its methods is awaited, abandons the switch: the disk runs
/// on as before. [`Step::abandon`] also waits for that.
pub struct Step {
    handle: DiskHandle,
    id: u64,
}

impl Step {
    /// Runs `prepare` on the disk's thread, and has the disk keep its result.
    ///
    /// # Errors
    /// What `prepare` says, and `NotFound` if the disk is gone.
    pub async fn prepare<F: Future<Output = Result<Prepared>> + 'static>(
        handle: &DiskHandle,
        prepare: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
    ) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let step = Step { handle: handle.clone(), id: NEXT.fetch_add(1, Ordering::Relaxed) };
        let id = step.id;
        let prepared = handle.call(move |disk| {
            disk.steps.borrow_mut().insert(id, Stage::Busy);
            async move {
                let prepared = prepare(disk.clone()).await;
                disk.keep(id, prepared.map(Stage::Prepared))
            }
        });
        prepared.await.map(|()| step)
    }

    /// Closes the disk's gate and waits for the requests inside.
    ///
    /// # Errors
    /// `TimedOut` if they do not end within `deadline`. The disk runs on as before then, and is free for
    /// others.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        let id = self.id;
        let closed = self.handle.call(move |disk| async move {
            let closed = match disk.begin(id) {
                Some(Stage::Prepared(prepared)) => prepared.close(deadline).await,
                _ => Err(out_of_order(&disk)),
            };
            disk.keep(id, closed.map(Stage::Closed))
        });
        closed.await
    }

    /// Does the switch. After [`Step::close`], only the end of the disk makes it fail.
    ///
    /// # Errors
    /// `NotActive` if it was not closed before, or the disk is being closed; `NotFound` if the disk is gone.
    pub async fn commit(self) -> Result<Switched> {
        let id = self.id;
        let committed = self.handle.call(move |disk| async move {
            let stage = disk.steps.borrow_mut().remove(&id);
            match stage {
                Some(Stage::Closed(ready)) => Ok(ready.commit().await),
                _ => Err(out_of_order(&disk)),
            }
        });
        committed.await
    }

    /// Abandons the switch and waits until the disk is free again.
    pub async fn abandon(self) {
        let handle = self.handle.clone();
        drop(self);
        // Behind the end of the step, since a thread begins what it is asked for in order. A disk that is
        // gone keeps nothing.
        let _ = handle.call(|_| async { Ok(()) }).await;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let (handle, id) = (self.handle.clone(), self.id);
        self.handle.remote().spawn(move || {
            // Nothing is left of one that was committed.
            let stage = handle.get().and_then(|disk| disk.steps.borrow_mut().remove(&id));
            drop(stage);
            std::future::ready(())
        });
    }
}

fn out_of_order(disk: &Disk) -> Error {
    Error::new(ErrorKind::NotActive, format!("{}: the switch was not made ready before", disk.name()))
}

impl Disk {
    /// Takes a step's stage out to work on it.
    fn begin(&self, id: u64) -> Option<Stage> {
        self.steps.borrow_mut().get_mut(&id).map(|stage| std::mem::replace(stage, Stage::Busy))
    }

    /// Keeps what became of a step, unless it was abandoned meanwhile.
    fn keep(&self, id: u64, stage: Result<Stage>) -> Result<()> {
        let mut steps = self.steps.borrow_mut();
        match stage {
            Ok(stage) => {
                let late = match steps.get_mut(&id) {
                    Some(place) => {
                        *place = stage;
                        None
                    }
                    None => Some(stage),
                };
                drop(steps);
                drop(late);
                Ok(())
            }
            Err(e) => {
                steps.remove(&id);
                Err(e)
            }
        }
    }
}
