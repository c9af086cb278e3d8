//! Jobs: background work on a disk, and the runtime that all of them share.
//!
//! A `Strategy` is only the loop of one kind of job. Between its steps it calls its job: `Job::must_rest`
//! and `Job::rest` for pause and cancel, `Job::admit` for the speed, `Job::decide` after an error,
//! `Job::advance` for the progress. States, events and commands belong to the runtime, which is this module.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use executor::sync::Event;
use futures_util::future::select;

use crate::disk::{Claim, Disk, DiskEvent};
use crate::{Error, ErrorKind, Result};

mod pace;
mod state;
mod types;

use pace::Pace;
pub use state::{Status, Verb};
pub use types::{Action, Info, IoStatus, JobEvent, JobKind, Manner, OnError, Operation, Wish};

/// The work of one kind of job.
#[async_trait(?Send)]
pub(crate) trait Strategy {
    /// Does the work. Nothing of it may be in flight when this returns.
    async fn run(&self, job: &Rc<Job>) -> Result<()>;

    /// Makes the result of a successful [`Strategy::run`] final and durable. The job cannot be cancelled
    /// any more.
    async fn finish(&self) -> Result<()>;

    /// Releases what was taken for the work, whatever its outcome.
    async fn clean(&self);
}

/// A job of a disk.
pub struct Job {
    wish: Wish,
    kind: JobKind,
    disk: Weak<Disk>,
    status: Cell<Status>,
    offset: Cell<u64>,
    len: Cell<u64>,
    pace: Pace,
    sleeps: Cell<bool>,
    pause_asked: Cell<bool>,
    cancelled: Cell<bool>,
    finalize_asked: Cell<bool>,
    /// True once the job cannot be cancelled any more.
    committing: Cell<bool>,
    pub(crate) stop_asked: Cell<bool>,
    io_status: Cell<IoStatus>,
    error: RefCell<Option<Error>>,
    /// The last error passed to [`Job::decide`]; `None` after a resume.
    met: RefCell<Option<Error>>,
    /// Notified when a field above changes.
    changed: Event,
}

impl Disk {
    /// Starts a job, which holds the disk by `claim`.
    pub(crate) fn start_job(
        self: &Rc<Self>,
        wish: Wish,
        kind: JobKind,
        claim: Claim,
        strategy: impl Strategy + 'static,
    ) -> Rc<Job> {
        let pace = Pace::default();
        pace.set_speed(executor::now(), wish.speed);
        let job = Rc::new(Job {
            wish,
            kind,
            disk: Rc::downgrade(self),
            status: Cell::new(Status::Created),
            offset: Cell::new(0),
            len: Cell::new(0),
            pace,
            sleeps: Cell::new(false),
            pause_asked: Cell::new(false),
            cancelled: Cell::new(false),
            finalize_asked: Cell::new(false),
            committing: Cell::new(false),
            stop_asked: Cell::new(false),
            io_status: Cell::new(IoStatus::Ok),
            error: RefCell::default(),
            met: RefCell::default(),
            changed: Event::new(),
        });
        self.jobs.borrow_mut().push(job.clone());
        job.tell(JobEvent::Status);
        job.enter(Status::Running);
        executor::spawn(job.clone().live(claim, strategy));
        job
    }

    /// Returns the disk's jobs, including those that have ended and were not dismissed.
    pub fn jobs(&self) -> Vec<Info> {
        self.jobs.borrow().iter().map(|job| job.info()).collect()
    }

    /// Returns the job of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn job(&self, id: &str) -> Result<Rc<Job>> {
        let found = self.jobs.borrow().iter().find(|job| job.wish.id == id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "Job not found"))
    }

    /// Returns the job that has not ended yet. There is at most one, since it holds the disk's claim.
    pub(crate) fn active_job(&self) -> Option<Rc<Job>> {
        self.jobs.borrow().iter().find(|job| !job.has_ended()).cloned()
    }
}

// For the users of a job.
impl Job {
    /// Returns information about the job as it is now.
    pub fn info(&self) -> Info {
        let status = self.status.get();
        let works = matches!(status, Status::Running | Status::Ready | Status::Waiting | Status::Aborting);
        Info {
            id: self.wish.id.clone(),
            kind: self.kind,
            status,
            offset: self.offset.get(),
            len: self.len.get(),
            speed: self.pace.speed(),
            busy: works && !self.sleeps.get(),
            paused: self.pause_asked.get(),
            io_status: self.io_status.get(),
            auto_finalize: self.wish.auto_finalize,
            auto_dismiss: self.wish.auto_dismiss,
            error: self.error.borrow().as_ref().map(Error::reason),
            detail: self.detail(),
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
                self.wish.id,
                status.name(),
                verb.name()
            ),
        ))
    }

    /// Asks the job to pause, which it does as soon as nothing of it is in flight.
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

    /// Resumes a paused job, also one that an error paused.
    ///
    /// # Errors
    /// `Invalid` in the wrong state, or if it is not paused.
    pub fn resume(&self) -> Result<()> {
        if !self.pause_asked.get() {
            return Err(Error::new(ErrorKind::Invalid, "Can't resume a job that was not paused"));
        }
        self.check(Verb::Resume)?;
        self.io_status.set(IoStatus::Ok);
        self.met.take();
        self.pause_asked.set(false);
        self.go_on();
        Ok(())
    }

    /// Asks the job to end without a result. If its result is being made final already, the job completes.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn cancel(&self) -> Result<()> {
        self.check(Verb::Cancel)?;
        self.abort();
        Ok(())
    }

    /// Like [`Job::cancel`], but in any state.
    pub(crate) fn abort(&self) {
        self.cancelled.set(true);
        // As in QEMU, a cancelled job is not paused.
        self.pause_asked.set(false);
        self.go_on();
    }

    /// Ends a pause.
    fn go_on(&self) {
        match self.status.get() {
            Status::Paused => self.enter(Status::Running),
            Status::Standby => self.enter(Status::Ready),
            _ => self.changed.notify(),
        }
    }

    /// Limits the speed to `speed` bytes per second; 0 removes the limit.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn set_speed(&self, speed: u64) -> Result<()> {
        self.check(Verb::SetSpeed)?;
        self.pace.set_speed(executor::now(), speed);
        self.changed.notify();
        Ok(())
    }

    /// Asks a job that is ready to end with its result.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn complete(&self) -> Result<()> {
        self.check(Verb::Complete)
    }

    /// Asks a pending job to make its result final. [`Job::ended`] waits until it is.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn finalize(&self) -> Result<()> {
        self.check(Verb::Finalize)?;
        self.finalize_asked.set(true);
        self.changed.notify();
        Ok(())
    }

    /// Returns true if [`Job::finalize`] was called.
    pub fn is_finalized(&self) -> bool {
        self.finalize_asked.get()
    }

    /// Removes the job from its disk.
    ///
    /// # Errors
    /// `Invalid` if it has not ended.
    pub fn dismiss(&self) -> Result<()> {
        self.check(Verb::Dismiss)?;
        self.forget();
        Ok(())
    }

    /// Returns true if the job has ended, whether it succeeded or not.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.get(), Status::Concluded | Status::Null)
    }

    /// Waits until the job has ended.
    pub async fn ended(&self) {
        while !self.has_ended() {
            self.changed.wait().await;
        }
    }
}

// For a job's strategy.
impl Job {
    /// Returns true if the loop must call [`Job::rest`] soon, with nothing of its own in flight.
    pub(crate) fn must_rest(&self) -> bool {
        self.cancelled.get() || self.pause_asked.get()
    }

    /// Waits while the job is paused. The loop must have nothing in flight.
    ///
    /// # Errors
    /// `Cancelled` if the loop must end.
    pub(crate) async fn rest(&self) -> Result<()> {
        // A job that is asked to pause again before it continues stays paused.
        while self.pause_asked.get() && !self.cancelled.get() {
            let was_ready = self.status.get() == Status::Ready;
            self.enter(if was_ready { Status::Standby } else { Status::Paused });
            while matches!(self.status.get(), Status::Paused | Status::Standby) {
                self.changed.wait().await;
            }
        }
        if self.cancelled.get() {
            return Err(Error::new(ErrorKind::Cancelled, "the job was cancelled"));
        }
        Ok(())
    }

    /// Returns true if the job was asked to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Waits until the speed limit admits `bytes` more, or until [`Job::must_rest`] is true.
    pub(crate) async fn admit(&self, bytes: u64) {
        while let Some(wait) = self.pace.wait(executor::now())
            && !self.must_rest()
        {
            self.sleep(wait).await;
        }
        if !self.must_rest() {
            self.pace.take(executor::now(), bytes);
        }
    }

    /// Returns the largest step, in bytes and at most `most`, that keeps to the speed limit smoothly.
    pub(crate) fn step(&self, most: u64) -> u64 {
        self.pace.step(most)
    }

    async fn sleep(&self, wait: Duration) {
        self.sleeps.set(true);
        let changed = std::pin::pin!(self.changed.wait());
        select(changed, std::pin::pin!(executor::sleep(wait))).await;
        self.sleeps.set(false);
    }

    /// Records that everything below `offset` is done. Never goes back.
    pub(crate) fn advance(&self, offset: u64) {
        self.offset.set(self.offset.get().max(offset));
    }

    /// Returns the job's progress, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Sets the offset at which [`Job::advance`] ends, in bytes.
    pub(crate) fn set_len(&self, len: u64) {
        self.len.set(len);
    }

    /// Returns the action that the job's policy demands after an error of the loop, and sends the event.
    /// After `Stop` the loop must call [`Job::rest`] and try again.
    pub(crate) fn decide(&self, operation: Operation, error: &Error) -> Action {
        let no_space = error.kind() == ErrorKind::NoSpace;
        let action = match self.wish.on_error {
            OnError::Report => Action::Report,
            OnError::Ignore => Action::Ignore,
            OnError::Stop => Action::Stop,
            OnError::Enospc if no_space => Action::Stop,
            OnError::Enospc => Action::Report,
        };
        *self.met.borrow_mut() = Some(error.clone());
        self.tell(JobEvent::Error(operation, action));
        if action == Action::Stop {
            self.io_status.set(if no_space { IoStatus::NoSpace } else { IoStatus::Failed });
            self.pause_asked.set(true);
        }
        action
    }
}

// A job's lifecycle.
impl Job {
    fn tell(&self, what: JobEvent) {
        // In the API of 2011 a job reports only its states.
        let known = self.wish.manner == Manner::Job || what == JobEvent::Status;
        if let Some(disk) = self.disk.upgrade().filter(|_| known) {
            disk.emit(DiskEvent::Job { job: self.info(), what });
        }
    }

    fn tell_stream_completed(&self) {
        let Some(disk) = self.disk.upgrade() else { return };
        disk.emit(DiskEvent::StreamCompleted {
            device: disk.name().to_owned(),
            len: disk.size(),
            offset: if self.error.borrow().is_none() { disk.size() } else { self.offset.get() },
            error: self.error.borrow().as_ref().map(Error::to_string),
        });
    }

    fn enter(&self, status: Status) {
        let old = self.status.replace(status);
        debug_assert!(old.followers().contains(&status), "{old:?} to {status:?}");
        self.tell(JobEvent::Status);
        self.changed.notify();
    }

    async fn live(self: Rc<Self>, claim: Claim, strategy: impl Strategy) {
        let result = self.work(&strategy).await;
        let cancelled = self.cancelled.get() && !self.committing.get();
        if let Err(error) = &result {
            *self.error.borrow_mut() = Some(error.clone());
            self.enter(Status::Aborting);
        }
        if result.is_ok() {
            self.advance(self.len.get());
        }
        strategy.clean().await;
        // Nothing waits from here on: a listener that is notified of the end finds the disk free.
        drop(claim);
        match (&result, self.wish.manner) {
            (Err(_), _) if cancelled => self.tell(JobEvent::Cancelled),
            (_, Manner::Job) => self.tell(JobEvent::Completed),
            (_, Manner::BlockStream) => self.tell_stream_completed(),
        }
        self.enter(Status::Concluded);
        if self.wish.auto_dismiss {
            self.forget();
        }
    }

    async fn work(self: &Rc<Self>, strategy: &impl Strategy) -> Result<()> {
        self.rest().await?;
        strategy.run(self).await?;
        // A job that was asked to pause does so before its result becomes final.
        self.rest().await?;
        self.enter(Status::Waiting);
        self.enter(Status::Pending);
        if !self.wish.auto_finalize {
            self.tell(JobEvent::Pending);
            while !self.finalize_asked.get() {
                if self.cancelled.get() {
                    return Err(Error::new(ErrorKind::Cancelled, "the job was cancelled"));
                }
                self.changed.wait().await;
            }
        }
        self.committing.set(true);
        strategy.finish().await
    }

    fn forget(&self) {
        if let Some(disk) = self.disk.upgrade() {
            disk.jobs.borrow_mut().retain(|job| !std::ptr::eq(&**job, self));
        }
        self.enter(Status::Null);
    }
}
