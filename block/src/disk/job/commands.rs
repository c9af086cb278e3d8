//! The commands of clients to a job, and the state of it that they see.

use super::{Info, IoStatus, Job, JobKind, Status, Verb};
use crate::{Error, ErrorKind, Result};

impl Job {
    /// The job's name.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// The job's kind.
    pub(crate) fn kind(&self) -> JobKind {
        self.kind
    }

    /// The job as it is now.
    pub fn info(&self) -> Info {
        let status = self.status.get();
        let works = matches!(status, Status::Running | Status::Ready | Status::Waiting | Status::Aborting);
        Info {
            id: self.options.id.clone(),
            kind: self.kind,
            status,
            offset: self.offset.get(),
            len: self.len.get(),
            speed: self.pace.speed(),
            busy: works && !self.sleeps.get(),
            paused: self.pause_asked.get(),
            io_status: self.io_status.get(),
            auto_finalize: self.options.auto_finalize,
            auto_dismiss: self.options.auto_dismiss,
            error: self.error.borrow().as_ref().map(Error::reason),
            detail: self.detail(),
            result: self.result.borrow().clone(),
            synced: self.is_synced(),
            following: self.follower.borrow().as_ref().map(|follower| follower.following()),
        }
    }

    /// See [`Info::synced`].
    pub(super) fn is_synced(&self) -> bool {
        match &*self.follower.borrow() {
            Some(follower) => self.was_ready.get() && follower.is_synced(),
            None => self.synced.get(),
        }
    }

    fn detail(&self) -> Option<String> {
        let (error, met) = (self.error.borrow(), self.met.borrow());
        let detail = error.as_ref().or(met.as_ref())?;
        (detail.kind() != ErrorKind::Cancelled).then(|| detail.to_string())
    }

    fn check(&self, verb: Verb) -> Result<()> {
        let status = self.status.get();
        if status.verbs().contains(&verb) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "Job '{}' in state '{}' cannot accept command verb '{}'",
                self.options.id,
                status.name(),
                verb.name()
            ),
        ))
    }

    /// Asks the job to pause. It does so when nothing of it is in flight.
    ///
    /// # Errors
    /// `Invalid` in the wrong state, or if it is paused already.
    pub fn pause(&self) -> Result<()> {
        self.check(Verb::Pause)?;
        if self.pause_asked.replace(true) {
            return Err(Error::new(ErrorKind::Invalid, "Job is already paused"));
        }
        self.changed.notify();
        Ok(())
    }

    /// Lets a paused job go on, also one that an error paused.
    ///
    /// # Errors
    /// `Invalid` if it is not paused.
    pub fn resume(&self) -> Result<()> {
        if !self.pause_asked.get() {
            return Err(Error::new(ErrorKind::Invalid, "Can't resume a job that was not paused"));
        }
        self.check(Verb::Resume)?;
        self.io_status.set(IoStatus::Ok);
        self.met.take();
        self.pause_asked.set(false);
        self.resume_now();
        Ok(())
    }

    /// Asks the job to end without a result. If the result is being made final already, the job ends with it.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn cancel(&self) -> Result<()> {
        self.check(Verb::Cancel)?;
        self.abort();
        Ok(())
    }

    /// Asks a job that is ready to end well without a move of its disk: what it has made stays as it is
    /// then. A job in another state is cancelled.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn leave(&self) -> Result<()> {
        self.check(Verb::Cancel)?;
        if !matches!(self.status.get(), Status::Ready | Status::Standby) {
            self.abort();
            return Ok(());
        }
        self.leave_asked.set(true);
        self.pause_asked.set(false);
        self.resume_now();
        Ok(())
    }

    /// Cancels the job in any state.
    pub(crate) fn abort(&self) {
        self.cancelled.set(true);
        // As in QEMU, a cancelled job is not a paused one.
        self.pause_asked.set(false);
        self.resume_now();
    }

    /// Cancels the job and waits for its end.
    ///
    /// # Errors
    /// `InUse`, with `text`, if another client waits for that already.
    pub(crate) async fn stop(&self, text: impl FnOnce() -> String) -> Result<()> {
        if self.stop_awaited.replace(true) {
            return Err(Error::new(ErrorKind::InUse, text()));
        }
        self.abort();
        self.ended().await;
        Ok(())
    }

    /// Ends a pause.
    fn resume_now(&self) {
        match self.status.get() {
            Status::Paused => self.enter(Status::Running),
            Status::Standby => self.enter(Status::Ready),
            _ => self.changed.notify(),
        }
    }

    /// Limits the speed, in bytes a second; 0 means no limit.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn set_speed(&self, speed: u64) -> Result<()> {
        self.check(Verb::SetSpeed)?;
        self.pace.set_speed(executor::now(), speed);
        self.changed.notify();
        Ok(())
    }

    /// Has the guest's writes go to both sides from now on, or to the disk alone and be copied later.
    ///
    /// # Errors
    /// `Invalid` in the wrong state; `Unsupported` for a job that does not follow its disk.
    pub fn write_both(&self, both: bool) -> Result<()> {
        self.check(Verb::Change)?;
        match &*self.follower.borrow() {
            Some(follower) => follower.write_both(both),
            None => return Err(Error::new(ErrorKind::Unsupported, "Job type does not support change")),
        }
        self.changed.notify();
        Ok(())
    }

    /// Asks a job that is ready to end with its result.
    ///
    /// # Errors
    /// `Invalid` in the wrong state; `InUse` if the disk is to move and another job needs it where it is.
    pub fn complete(&self) -> Result<()> {
        self.check(Verb::Complete)?;
        if let Some(disk) = self.disk.upgrade() {
            disk.strengthen(self.claim)?;
        }
        self.complete_asked.set(true);
        self.changed.notify();
        Ok(())
    }

    /// Has the result made final. `Job::ended` returns when it is.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn finalize(&self) -> Result<()> {
        self.check(Verb::Finalize)?;
        self.finalize_asked.set(true);
        self.changed.notify();
        Ok(())
    }

    /// Returns true if `Job::finalize` was called.
    pub fn is_finalized(&self) -> bool {
        self.finalize_asked.get()
    }

    /// Removes the job from its disk's list.
    ///
    /// # Errors
    /// `Invalid` if it has not ended.
    pub fn dismiss(&self) -> Result<()> {
        self.check(Verb::Dismiss)?;
        self.remove();
        Ok(())
    }

    /// Returns true once the job has ended, well or not.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.get(), Status::Concluded | Status::Null)
    }

    /// Waits for the job's end.
    pub async fn ended(&self) {
        while !self.has_ended() {
            self.changed.wait().await;
        }
    }
}
