//! One disk's step in a switch of several disks, or in the start of their jobs at one moment, driven from
//! another thread.
//!
//! The disk keeps the part of the step that belongs to its thread, and only the [`Step`] gives access to it.
//! So nobody can use or drop a switch that somebody else has prepared: neither a client that tries again
//! while its first attempt's failure is still being cleaned up, nor a transaction that is abandoned half way.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::disk::switch::{Prepared, Ready, Switched};
use crate::disk::{Closed, Disk, DiskHandle};
use crate::{Error, ErrorKind, Result};

/// The progress of a step, kept by its disk.
pub(crate) enum Stage {
    /// The disk's thread is working on it.
    Busy,
    /// Everything is ready, and the disk is unchanged.
    Prepared(Planned),
    /// The gate is closed.
    Closed(Drained),
}

/// A switch of a disk, or the start of a job on it, to be done while the disk's gate is closed.
pub struct Planned(Plan);

enum Plan {
    Switch(Prepared),
    Start(Rc<Disk>, Box<dyn FnOnce()>),
}

impl From<Prepared> for Planned {
    fn from(prepared: Prepared) -> Self {
        Planned(Plan::Switch(prepared))
    }
}

impl Planned {
    /// Plans to call `begin`, which starts a job, once the disk is drained. It is not called if this is
    /// dropped.
    pub(crate) fn start(disk: &Rc<Disk>, begin: impl FnOnce() + 'static) -> Self {
        Planned(Plan::Start(disk.clone(), Box::new(begin)))
    }

    /// Closes the disk's gate and waits for the requests inside: from here on it cannot fail.
    ///
    /// # Errors
    /// `TimedOut` if the requests in flight do not end within `deadline`, `InUse` if the disk is being
    /// closed. The disk runs on as before.
    pub async fn close(self, deadline: Duration) -> Result<Drained> {
        match self.0 {
            Plan::Switch(prepared) => Ok(Drained(Now::Switch(prepared.close(deadline).await?))),
            Plan::Start(disk, begin) => {
                disk.check_open()?;
                let Some(closed) = disk.drain(deadline).await else {
                    let text = format!("{}: requests in flight did not end within {deadline:?}", disk.name());
                    return Err(Error::new(ErrorKind::TimedOut, text));
                };
                Ok(Drained(Now::Start(closed, begin)))
            }
        }
    }
}

/// A switch or the start of a job, on a disk that is drained. Dropping it opens the gate and changes nothing.
pub struct Drained(Now);

enum Now {
    Switch(Ready),
    Start(Closed, Box<dyn FnOnce()>),
}

impl Drained {
    /// Lets it happen, and opens the gate. Returns the result of a switch.
    pub async fn commit(self) -> Option<Switched> {
        match self.0 {
            Now::Switch(ready) => Some(ready.commit().await),
            Now::Start(closed, begin) => {
                begin();
                drop(closed);
                None
            }
        }
    }
}

/// A switch of one disk, or the start of a job, that waits for those of others: prepared, then closed, then
/// committed.
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
    /// Errors of `prepare`; `NotFound` if the disk is gone.
    pub async fn prepare<P: Into<Planned>, F: Future<Output = Result<P>> + 'static>(
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
                disk.keep(id, prepared.map(|prepared| Stage::Prepared(prepared.into())))
            }
        });
        prepared.await.map(|()| step)
    }

    /// Closes the disk's gate and waits for the requests inside.
    ///
    /// # Errors
    /// `TimedOut` if they do not end within `deadline`. The disk then runs on as before, and is free for
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

    /// Commits the switch, or starts the job. After [`Step::close`] it fails only if the disk is closed.
    /// Returns the result of a switch.
    ///
    /// # Errors
    /// `NotActive` if the step was not closed before, or the disk is being closed; `NotFound` if the
    /// disk is gone.
    pub async fn commit(self) -> Result<Option<Switched>> {
        let id = self.id;
        let committed = self.handle.call(move |disk| async move {
            let stage = disk.steps.borrow_mut().remove(&id);
            match stage {
                Some(Stage::Closed(drained)) => Ok(drained.commit().await),
                _ => Err(out_of_order(&disk)),
            }
        });
        committed.await
    }

    /// Abandons the switch and waits until the disk is free again.
    pub async fn abandon(self) {
        let handle = self.handle.clone();
        drop(self);
        // A thread starts what it is asked for in order, so this runs after the step was dropped. A disk
        // that is gone has no steps.
        let _: Result<()> = handle.call(|_| async { Ok(()) }).await;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let (handle, id) = (self.handle.clone(), self.id);
        self.handle.remote().spawn(move || {
            // A step that was committed is not there any more.
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
    /// Takes a step's stage, to work on it.
    fn begin(&self, id: u64) -> Option<Stage> {
        self.steps.borrow_mut().get_mut(&id).map(|stage| std::mem::replace(stage, Stage::Busy))
    }

    /// Stores the new stage of a step, unless the step was abandoned meanwhile.
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
