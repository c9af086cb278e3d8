//! The runtime of jobs: what works on a disk in the background, and what is common to all of it.
//!
//! A `Strategy` is only its own loop. Between two steps it asks its job whether it may go on:
//! `Job::must_rest` and `Job::rest` for pause and cancel, `Job::admit` for the speed limit,
//! `Job::decide` after an error, `Job::advance` for the progress. States, events and commands belong
//! to the runtime.
//!
//! In reading order: `state.rs` (states and what each accepts), this file (a job's life), `commands.rs`
//! (for clients), `strategy.rs` (for the work), `pace.rs` (the speed limit).

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use executor::sync::Event;

use super::{Claim, Disk, DiskEvent};
use crate::{Error, ErrorKind, Result};

mod commands;
mod pace;
mod state;
mod strategy;
mod types;

use pace::Pace;
pub use state::{Status, Verb};
pub(crate) use strategy::{Follower, Strategy};
pub use types::{
    Events, Following, Info, IoStatus, JobEvent, JobKind, JobOptions, JobResult, Operation, Verified,
};

/// A job of a disk.
pub struct Job {
    options: JobOptions,
    kind: JobKind,
    disk: Weak<Disk>,
    /// The number of its claim.
    claim: u64,
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
    was_ready: Cell<bool>,
    /// The copy that follows the disk, until the end.
    follower: RefCell<Option<Rc<dyn Follower>>>,
    /// What `Info::synced` was at the end.
    synced: Cell<bool>,
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
            claim: claim.id(),
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
            was_ready: Cell::new(false),
            follower: RefCell::new(strategy.follower()),
            synced: Cell::new(false),
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
        self.synced.set(self.is_synced());
        self.follower.take();
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
