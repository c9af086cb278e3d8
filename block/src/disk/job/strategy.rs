//! The seam between the runtime and the work of one kind of job.

use std::future::Future;
use std::rc::Rc;

use async_trait::async_trait;
use futures_util::future::select;

use super::{Following, IoStatus, Job, JobEvent, JobResult, Operation, Status};
use crate::{Error, ErrorAction, ErrorKind, Result};

/// The work of one kind of job.
#[async_trait(?Send)]
pub(crate) trait Strategy {
    /// Does the work. Nothing of it is in flight when this returns. A job that follows its disk calls
    /// `Job::ready` when it has caught up, and returns once `Job::is_completing`.
    async fn run(&self, job: &Rc<Job>) -> Result<()>;

    /// Makes the result of a successful `Strategy::run` final and durable. The job cannot be cancelled
    /// any more.
    async fn finish(&self, job: &Rc<Job>) -> Result<()>;

    /// Gives back what was taken for the work, whatever its outcome.
    async fn clean(&self);

    /// Reports the end of a job whose events are those of its kind (`Events::Kind`), unless it was
    /// cancelled.
    fn ended(&self, _job: &Job) {}

    /// The result that `query-jobs` shows, as far as it is known; only some kinds have one.
    fn result(&self) -> Option<JobResult> {
        None
    }

    /// The copy that follows the disk, if clients may choose the way of the guest's writes.
    fn follower(&self) -> Option<Rc<dyn Follower>> {
        None
    }
}

/// A copy of a disk that follows it, as clients see it.
pub(crate) trait Follower {
    /// Has the guest's writes go to both sides from now on, or to the source alone.
    fn write_both(&self, both: bool);

    /// Returns true if writes go to both sides because a client has chosen that, and nothing is left to copy.
    fn is_synced(&self) -> bool;

    /// The way of the guest's writes now.
    fn following(&self) -> Following;
}

impl Job {
    /// Returns true if the loop has to come to `Job::rest` soon, with nothing of its own in flight.
    pub(crate) fn must_rest(&self) -> bool {
        self.is_cancelled() || self.pause_asked.get()
    }

    /// The point at which a loop pauses if it has to, with nothing of its own in flight.
    ///
    /// # Errors
    /// `Cancelled` if the loop is to end.
    pub(crate) async fn rest(&self) -> Result<()> {
        // If it was asked to pause again before it went on, it pauses again.
        while self.pause_asked.get() && !self.is_cancelled() {
            let was_ready = self.status.get() == Status::Ready;
            self.enter(if was_ready { Status::Standby } else { Status::Paused });
            while matches!(self.status.get(), Status::Paused | Status::Standby) {
                self.changed.wait().await;
            }
        }
        self.check_cancelled()
    }

    /// Fails with `Cancelled` if the job was asked to end.
    pub(super) fn check_cancelled(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::new(ErrorKind::Cancelled, "the job was cancelled")),
            false => Ok(()),
        }
    }

    /// Returns true if the job was asked to end. A result that is being made final is not stopped.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.get() && !self.committing.get()
    }

    /// Reports that the job has caught up with its disk, and follows it from here on.
    pub(crate) fn ready(&self) {
        self.was_ready.set(true);
        self.enter(Status::Ready);
        self.emit(JobEvent::Ready);
    }

    /// Returns true if the job follows its disk, and may be asked to end.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.status.get(), Status::Ready | Status::Standby)
    }

    /// Returns true if a job that is ready was asked to end with its result.
    pub(crate) fn is_completing(&self) -> bool {
        self.complete_asked.get()
    }

    /// Returns true if a job that is ready was asked to end and leave its disk where it is.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave_asked.get() && !self.complete_asked.get()
    }

    /// Waits until the job was asked something, or `other` has ended.
    pub(crate) async fn changed_or(&self, other: impl Future<Output = ()>) {
        self.sleeps.set(true);
        let changed = std::pin::pin!(self.changed.wait());
        select(changed, std::pin::pin!(other)).await;
        self.sleeps.set(false);
    }

    /// Waits until `bytes` more fit into the speed limit, but no longer than until `Job::must_rest`.
    pub(crate) async fn admit(&self, bytes: u64) {
        while let Some(wait) = self.pace.wait(executor::now())
            && !self.must_rest()
        {
            self.changed_or(executor::sleep(wait)).await;
        }
        if !self.must_rest() {
            self.pace.take(executor::now(), bytes);
        }
    }

    /// The largest step in bytes that keeps to the speed limit smoothly, at most `most`.
    pub(crate) fn step(&self, most: u64) -> u64 {
        self.pace.step(most)
    }

    /// Reports that everything below `offset` is done. The progress never goes back.
    pub(crate) fn advance(&self, offset: u64) {
        self.offset.set(self.offset.get().max(offset));
    }

    /// The progress, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Sets the offset at which `Job::advance` ends, in bytes.
    pub(crate) fn set_len(&self, len: u64) {
        self.len.set(len);
    }

    /// Reports the progress of a job whose work may grow: bytes that are done, and bytes that are left.
    pub(crate) fn set_progress(&self, done: u64, left: u64) {
        self.advance(done);
        self.len.set(self.offset.get().saturating_add(left));
    }

    /// Reports an error in spite of which the job goes on.
    pub(crate) fn meets(&self, operation: Operation, error: &Error) {
        *self.met.borrow_mut() = Some(error.clone());
        self.emit(JobEvent::Error(operation, ErrorAction::Ignore));
    }

    /// Decides by the job's policy what follows from an error of the loop. After `Stop` the loop comes to
    /// `Job::rest` and tries again.
    pub(crate) fn decide(&self, operation: Operation, error: &Error) -> ErrorAction {
        let no_space = error.kind() == ErrorKind::NoSpace;
        // A result that is being made final has no state to pause in.
        let action = match self.committing.get() {
            true => ErrorAction::Report,
            false => self.options.policy(operation).action(error),
        };
        *self.met.borrow_mut() = Some(error.clone());
        self.emit(JobEvent::Error(operation, action));
        if action == ErrorAction::Stop {
            self.io_status.set(if no_space { IoStatus::NoSpace } else { IoStatus::Failed });
            self.pause_asked.set(true);
        }
        action
    }
}
