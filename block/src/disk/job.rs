//! The runtime of jobs: what works on a disk in the background, and what is common to all of it.
//!
//! A `Strategy` is only its own loop. Between two steps it asks its job whether it may go on:
//! `Job::must_rest` and `Job::rest` for pause and cancel, `Job::admit` for the speed limit,
//! `Job::decide` after an error, `Job::advance` for the progress. States, events and commands belong
//! to the runtime.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};

use async_trait::async_trait;
use executor::sync::Event;
use futures_util::future::select;

use super::{Claim, Disk, DiskEvent};
use crate::{Error, ErrorAction, ErrorKind, Result};

mod pace;
mod state;
mod types;

use pace::Pace;
pub use state::{Status, Verb};
pub use types::{Events, Info, IoStatus, JobEvent, JobKind, JobOptions, Operation};

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
}

/// The finding of a job of a kind that looks for something. Shown by `query-jobs` until the job is dismissed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobResult {
    /// The result of a verification.
    Verify(Verified),
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were read.
    pub bytes: u64,
    /// Ranges that could not be read; of many, the first ones.
    pub unreadable: Vec<std::ops::Range<u64>>,
    /// Ranges whose content has another digest than it should; of many, the first ones.
    pub differing: Vec<std::ops::Range<u64>>,
}

/// A job of a disk.
pub struct Job {
    options: JobOptions,
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
    complete_asked: Cell<bool>,
    leave_asked: Cell<bool>,
    /// From here on the job is not cancelled any more.
    committing: Cell<bool>,
    /// A client waits for the job's end, which it has asked for.
    stop_awaited: Cell<bool>,
    io_status: Cell<IoStatus>,
    error: RefCell<Option<Error>>,
    /// The error that `Job::decide` was last asked about; none after a resume.
    met: RefCell<Option<Error>>,
    result: RefCell<Option<JobResult>>,
    /// Anything above changed.
    changed: Event,
}

impl Disk {
    /// Starts a job that has `claim`.
    pub(crate) fn start_job(
        self: &Rc<Self>,
        options: JobOptions,
        kind: JobKind,
        claim: Claim,
        strategy: impl Strategy + 'static,
    ) -> Rc<Job> {
        let pace = Pace::default();
        pace.set_speed(executor::now(), options.speed);
        let job = Rc::new(Job {
            options,
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
            complete_asked: Cell::new(false),
            leave_asked: Cell::new(false),
            committing: Cell::new(false),
            stop_awaited: Cell::new(false),
            io_status: Cell::new(IoStatus::Ok),
            error: RefCell::default(),
            met: RefCell::default(),
            result: RefCell::default(),
            changed: Event::new(),
        });
        self.jobs.borrow_mut().push(job.clone());
        job.emit(JobEvent::Status);
        job.enter(Status::Running);
        if self.closing.get() {
            // It had its claim before, and nobody else ends it any more.
            job.abort();
        }
        executor::spawn(job.clone().run_to_end(claim, strategy));
        job
    }

    /// The disk's jobs, including those that have ended and were not dismissed.
    pub fn jobs(&self) -> Vec<Info> {
        self.jobs.borrow().iter().map(|job| job.info()).collect()
    }

    /// A job by its name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn job(&self, id: &str) -> Result<Rc<Job>> {
        let found = self.jobs.borrow().iter().find(|job| job.options.id == id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "Job not found"))
    }

    /// The jobs that have not ended yet, in the order in which they were started.
    pub(crate) fn active_jobs(&self) -> Vec<Rc<Job>> {
        self.jobs.borrow().iter().filter(|job| !job.has_ended()).cloned().collect()
    }
}

// For clients.
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

    /// Asks a job that is ready to end with its result.
    ///
    /// # Errors
    /// `Invalid` in the wrong state.
    pub fn complete(&self) -> Result<()> {
        self.check(Verb::Complete)?;
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

// For strategies.
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
    fn check_cancelled(&self) -> Result<()> {
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
        self.enter(Status::Ready);
        self.emit(JobEvent::Ready);
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

// A job's life.
impl Job {
    fn emit(&self, what: JobEvent) {
        // A client that reads the events of a kind knows only the states of jobs.
        let is_known = self.options.events == Events::Job || what == JobEvent::Status;
        if let Some(disk) = self.disk.upgrade().filter(|_| is_known) {
            disk.emit(DiskEvent::Job { job: self.info(), what });
        }
    }

    fn enter(&self, status: Status) {
        let old = self.status.replace(status);
        debug_assert!(old.followers().contains(&status), "{old:?} to {status:?}");
        self.emit(JobEvent::Status);
        self.changed.notify();
    }

    async fn run_to_end(self: Rc<Self>, claim: Claim, strategy: impl Strategy) {
        let result = self.run_strategy(&strategy).await;
        let cancelled = self.cancelled.get() && !self.committing.get();
        *self.result.borrow_mut() = strategy.result();
        if let Err(error) = &result {
            *self.error.borrow_mut() = Some(error.clone());
            self.enter(Status::Aborting);
        }
        if result.is_ok() {
            self.advance(self.len.get());
        }
        strategy.clean().await;
        // Nothing waits from here on: whoever is notified of the end finds the disk free.
        drop(claim);
        let cancelled = cancelled && result.is_err();
        if !cancelled && self.options.events == Events::Kind {
            strategy.ended(&self);
        }
        // Nor does anything keep an image that is left.
        drop(strategy);
        match (cancelled, self.options.events) {
            (true, _) => self.emit(JobEvent::Cancelled),
            (false, Events::Job) => self.emit(JobEvent::Completed),
            (false, Events::Kind) => {}
        }
        self.enter(Status::Concluded);
        if self.options.auto_dismiss {
            self.remove();
        }
    }

    async fn run_strategy(self: &Rc<Self>, strategy: &impl Strategy) -> Result<()> {
        self.rest().await?;
        strategy.run(self).await?;
        // A job that was asked to pause does so before its result becomes final.
        self.rest().await?;
        self.enter(Status::Waiting);
        self.enter(Status::Pending);
        if !self.options.auto_finalize {
            self.emit(JobEvent::Pending);
            while !self.finalize_asked.get() {
                self.check_cancelled()?;
                self.changed.wait().await;
            }
        }
        self.committing.set(true);
        strategy.finish(self).await
    }

    /// The error that the job failed with.
    pub(crate) fn error(&self) -> Option<Error> {
        self.error.borrow().clone()
    }

    fn remove(&self) {
        if let Some(disk) = self.disk.upgrade() {
            disk.jobs.borrow_mut().retain(|job| !std::ptr::eq(&**job, self));
        }
        self.enter(Status::Null);
    }
}
