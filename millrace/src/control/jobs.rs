//! QMP's commands and events of jobs.
//!
//! A job lives on its disk's thread. Here is what all disks share: the names that are in use.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block::job::{
    Info, IoStatus as JobIoStatus, Job, JobEvent, JobKind, JobOptions, JobResult, Operation, Status,
};
use block::stream::{Base, Order, StreamOptions, Tuning};
use block::{Disk, ErrorAction, ErrorKind, OnError};
use qmp::command::*;
use qmp::types::*;
use qmp::{Error, ErrorClass, Events, Result, event};

use super::{Control, Drive, classed, failures, generic};

/// The names of all jobs, with their drives.
#[derive(Default)]
pub(crate) struct JobNames(RefCell<BTreeMap<String, Rc<Drive>>>);

impl JobNames {
    pub(super) fn take(&self, id: &str, drive: &Rc<Drive>) -> Result<()> {
        if self.0.borrow().contains_key(id) {
            return Err(Error::generic(format!("Job ID '{id}' already in use")));
        }
        self.0.borrow_mut().insert(id.to_owned(), drive.clone());
        Ok(())
    }

    /// Frees the name of a job that no longer exists.
    pub(crate) fn remove(&self, id: &str) {
        self.0.borrow_mut().remove(id);
    }

    fn drive(&self, id: &str) -> Option<Rc<Drive>> {
        self.0.borrow().get(id).cloned()
    }
}

/// The image that a stream populates.
struct Streamed {
    drive: Rc<Drive>,
    /// Its node name, if the command named it so.
    image: Option<String>,
    is_leaf: bool,
}

/// Fails, in QEMU's words, if `name` cannot be a node's name.
pub(super) fn check_node_name(name: &str) -> std::result::Result<(), String> {
    if !qmp::id::is_well_formed(name) {
        return Err(format!("Invalid node-name: '{name}'"));
    }
    if !qmp::id::is_node_name(name) {
        return Err("Node name too long".into());
    }
    Ok(())
}

fn speed(speed: i64) -> Result<u64> {
    u64::try_from(speed).map_err(|_| Error::generic("Parameter 'speed' expects a non-negative value"))
}

fn base(arguments: &BlockStreamJob) -> Result<Option<Base>> {
    let exclude = |a: &str, b: &str| {
        Err(Error::generic(format!("'{a}' and '{b}' cannot be specified at the same time")))
    };
    match (&arguments.base, &arguments.base_node, &arguments.bottom) {
        (Some(_), Some(_), _) => exclude("base", "base-node"),
        (Some(_), _, Some(_)) => exclude("base", "bottom"),
        (_, Some(_), Some(_)) => exclude("bottom", "base-node"),
        (Some(file), _, _) => Ok(Some(Base::File(file.clone()))),
        (_, Some(node), _) => Ok(Some(Base::Node(node.clone()))),
        (_, _, Some(node)) => Ok(Some(Base::Bottom(node.clone()))),
        (None, None, None) => Ok(None),
    }
}

fn tuning(arguments: &BlockStreamJob) -> Result<Tuning> {
    let order = match (&arguments.trace, arguments.order) {
        (Some(_), Some(_)) => {
            let text = "'x-order' and 'x-trace' cannot be specified at the same time";
            return Err(Error::generic(text));
        }
        (Some(trace), None) => Order::Trace(trace.clone()),
        (None, Some(StreamOrder::HotFirst)) => Order::HotFirst,
        (None, Some(StreamOrder::Sequential) | None) => Order::Sequential,
    };
    let max_latency = arguments.max_latency.map(Duration::from_millis);
    Ok(Tuning { order, max_latency, record: arguments.record_trace.clone() })
}

impl Control {
    pub(super) async fn start_block_stream(&self, drive: &Rc<Drive>) -> Result<()> {
        let id = &drive.options.id;
        if self.reports.jobs.drive(id).is_some() {
            // A job of another disk may have this disk's name.
            let text = format!("Device '{id}' is in use: a job of this name is active");
            return Err(Error::new(ErrorClass::DeviceInUse, text));
        }
        self.reports.jobs.take(id, drive)?;
        let started = drive
            .handle
            .call(|disk| async move {
                disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await
            })
            .await;
        started.map_err(|e| {
            self.reports.jobs.remove(id);
            classed(e)
        })
    }

    pub(super) async fn start_stream_job(&self, arguments: BlockStreamJob) -> Result<Empty> {
        let base = base(&arguments)?;
        let tuning = tuning(&arguments)?;
        let Streamed { drive, image, is_leaf } = self.streamed(&arguments.device).await?;
        let stream = StreamOptions { image, base, backing_file: arguments.backing_file, tuning };
        self.check_stream(&drive, &stream, &arguments.device).await?;
        let speed = speed(arguments.speed.unwrap_or(0))?;
        // Only a job on a leaf has a default name, the disk's.
        let disk = if is_leaf { drive.options.id.clone() } else { String::new() };
        let id = arguments.job_id.unwrap_or(disk);
        if !qmp::id::is_well_formed(&id) {
            return Err(Error::generic(format!("Invalid job ID '{id}'")));
        }
        if let Some(name) = &arguments.filter_node_name {
            self.check_filter_name(name).await?;
        }
        let options = JobOptions {
            speed,
            on_error: match arguments.on_error.unwrap_or(BlockdevOnError::Report) {
                BlockdevOnError::Report | BlockdevOnError::Auto => OnError::Report,
                BlockdevOnError::Ignore => OnError::Ignore,
                BlockdevOnError::Enospc => OnError::Enospc,
                BlockdevOnError::Stop => OnError::Stop,
            },
            auto_finalize: arguments.auto_finalize.unwrap_or(true),
            auto_dismiss: arguments.auto_dismiss.unwrap_or(true),
            ..JobOptions::new(id.clone())
        };
        self.reports.jobs.take(&id, &drive)?;
        let start = move |disk: Rc<Disk>| async move { disk.start_stream(stream, options).await };
        drive.handle.call(start).await.map_err(|e| {
            self.reports.jobs.remove(&id);
            generic(e)
        })?;
        Ok(Empty {})
    }

    /// Starts a job that reads a disk and compares it with digests.
    pub(super) async fn verify(&self, arguments: XVerify) -> Result<Empty> {
        let drive = self.drive(&arguments.device)?;
        let id = arguments.job_id.unwrap_or_else(|| drive.options.id.clone());
        if !qmp::id::is_well_formed(&id) {
            return Err(Error::generic(format!("Invalid job ID '{id}'")));
        }
        let options = JobOptions {
            speed: speed(arguments.speed.unwrap_or(0))?,
            auto_dismiss: false,
            ..JobOptions::new(id.clone())
        };
        let digests = arguments.digests;
        self.reports.jobs.take(&id, drive)?;
        let start = move |disk: Rc<Disk>| async move { disk.start_verify(digests.as_deref(), options).await };
        drive.handle.call(start).await.map_err(|e| {
            self.reports.jobs.remove(&id);
            generic(e)
        })?;
        Ok(Empty {})
    }

    /// Finds the drive with this name, or with an image of this node name.
    async fn streamed(&self, device: &str) -> Result<Streamed> {
        if let Some(drive) = self.drives.iter().find(|drive| drive.options.id == device) {
            return Ok(Streamed { drive: drive.clone(), image: None, is_leaf: true });
        }
        match self.node(device).await? {
            Some((drive, above)) => {
                let image = Some(device.to_owned());
                Ok(Streamed { drive: drive.clone(), image, is_leaf: above.is_none() })
            }
            None => Err(Error::generic(format!("Cannot find device='{device}' nor node-name='{device}'"))),
        }
    }

    /// Fails if the extent is invalid or a job is in its way. Checked before the other arguments.
    async fn check_stream(&self, drive: &Drive, stream: &StreamOptions, top: &str) -> Result<()> {
        let asked = stream.clone();
        let check = drive.handle.call(move |disk| async move { disk.check_stream(&asked) });
        let Err(e) = check.await else { return Ok(()) };
        if e.kind() != ErrorKind::NotFound {
            return Err(generic(e));
        }
        // The image exists, but in another disk's chain.
        let text = match &stream.base {
            Some(Base::Node(node)) if self.is_named(node).await? => {
                format!("Node '{node}' is not a backing image of '{top}'")
            }
            Some(Base::Bottom(node)) if self.is_named(node).await? => {
                format!("Node '{node}' is not in a chain starting from '{top}'")
            }
            _ => e.to_string(),
        };
        Err(Error::generic(text))
    }

    async fn check_filter_name(&self, name: &str) -> Result<()> {
        let wrong = |why: String| Err(Error::generic(format!("Could not create node: {why}")));
        if let Err(why) = check_node_name(name) {
            return wrong(why);
        }
        if self.is_named(name).await? {
            return wrong(format!("Duplicate nodes with node-name='{name}'"));
        }
        Ok(())
    }

    /// Calls `what` with a job. Returns `Ok(None)` if there is no job of this name.
    async fn with_job(
        &self,
        id: String,
        what: impl FnOnce(&Job) -> block::Result<()> + Send + 'static,
    ) -> Result<Option<Empty>> {
        let Some(drive) = self.reports.jobs.drive(&id) else { return Ok(None) };
        let done = drive.handle.call(move |disk| async move {
            let job = disk.job(&id)?;
            let finalizes = job.info().status == Status::Pending;
            what(&job)?;
            // QEMU replies when the result is final, and clients may rely on that.
            if finalizes && job.is_finalized() {
                job.ended().await;
            }
            Ok::<_, block::Error>(())
        });
        match done.await {
            Ok(()) => Ok(Some(Empty {})),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(generic(e)),
        }
    }

    /// Runs a `job-*` command.
    pub(super) async fn job(
        &self,
        id: String,
        what: impl FnOnce(&Job) -> block::Result<()> + Send + 'static,
    ) -> Result<Empty> {
        self.with_job(id, what).await?.ok_or_else(|| Error::generic("Job not found"))
    }

    /// Runs a `block-job-*` command.
    pub(super) async fn block_job(
        &self,
        id: String,
        what: impl FnOnce(&Job) -> block::Result<()> + Send + 'static,
    ) -> Result<Empty> {
        let text = format!("Block job '{id}' not found");
        self.with_job(id, what).await?.ok_or_else(|| Error::new(ErrorClass::DeviceNotActive, text))
    }

    pub(super) async fn set_speed(&self, arguments: BlockJobSetSpeed) -> Result<Empty> {
        let speed = arguments.speed;
        let set = move |job: &Job| match u64::try_from(speed) {
            Ok(speed) => job.set_speed(speed),
            Err(_) => {
                let text = "Parameter 'speed' expects a non-negative value";
                Err(block::Error::new(ErrorKind::Invalid, text))
            }
        };
        self.block_job(arguments.device, set).await
    }

    pub(super) async fn cancel_block_job(&self, arguments: BlockJobCancel) -> Result<Empty> {
        let force = arguments.force.unwrap_or(false);
        let cancel = move |job: &Job| {
            let info = job.info();
            if info.paused && !force {
                let text = format!("The block job for device '{}' is currently paused", info.id);
                return Err(block::Error::new(ErrorKind::Invalid, text));
            }
            job.cancel()
        };
        self.block_job(arguments.device, cancel).await
    }

    /// Returns the state of all jobs.
    pub(super) async fn all_jobs(&self) -> Result<Vec<Info>> {
        let mut jobs = Vec::new();
        for drive in &self.drives {
            let query = drive.handle.call(|disk| async move { Ok(disk.jobs()) });
            jobs.extend(query.await.map_err(generic)?);
        }
        Ok(jobs)
    }
}

fn kind(kind: JobKind) -> JobType {
    match kind {
        JobKind::Stream => JobType::Stream,
        JobKind::Verify => JobType::Verify,
    }
}

fn status(status: Status) -> JobStatus {
    match status {
        Status::Created => JobStatus::Created,
        Status::Running => JobStatus::Running,
        Status::Paused => JobStatus::Paused,
        Status::Ready => JobStatus::Ready,
        Status::Standby => JobStatus::Standby,
        Status::Waiting => JobStatus::Waiting,
        Status::Pending => JobStatus::Pending,
        Status::Aborting => JobStatus::Aborting,
        Status::Concluded => JobStatus::Concluded,
        Status::Null => JobStatus::Null,
    }
}

/// Returns a job's entry of `query-block-jobs`.
pub(super) fn block_job(job: Info) -> BlockJobInfo {
    BlockJobInfo {
        kind: kind(job.kind),
        device: job.id,
        len: job.len,
        offset: job.offset,
        busy: job.busy,
        paused: job.paused,
        speed: job.speed,
        io_status: match job.io_status {
            JobIoStatus::Ok => IoStatus::Ok,
            JobIoStatus::Failed => IoStatus::Failed,
            JobIoStatus::NoSpace => IoStatus::Nospace,
        },
        ready: matches!(job.status, Status::Ready | Status::Standby),
        status: status(job.status),
        auto_finalize: job.auto_finalize,
        auto_dismiss: job.auto_dismiss,
        error: job.error,
        detail: job.detail,
    }
}

/// Returns a job's entry of `query-jobs`.
pub(super) fn job(job: Info) -> JobInfo {
    JobInfo {
        id: job.id,
        kind: kind(job.kind),
        status: status(job.status),
        current_progress: job.offset,
        total_progress: job.len,
        error: job.error,
        detail: job.detail,
        result: job.result.map(result),
    }
}

fn result(JobResult::Verify(verified): JobResult) -> VerifyResult {
    let ranges = |ranges: Vec<Range<u64>>| {
        let ranges = ranges
            .into_iter()
            .map(|range| DiskRange { offset: range.start, length: range.end - range.start });
        ranges.collect()
    };
    VerifyResult {
        bytes: verified.bytes,
        unreadable: ranges(verified.unreadable),
        differing: ranges(verified.differing),
    }
}

/// Logs the full error of a job. QEMU's events hold only a few words of it.
fn log(job: &Info, what: &JobEvent) {
    let Some(detail) = &job.detail else { return };
    match what {
        JobEvent::Error(_, ErrorAction::Stop) => {
            executor::limited!(warn, "job '{}' pauses: {detail}", job.id)
        }
        JobEvent::Error(_, ErrorAction::Ignore) => {
            executor::limited!(warn, "job '{}' ignores an error: {detail}", job.id)
        }
        JobEvent::Completed => executor::limited!(warn, "job '{}' failed: {detail}", job.id),
        _ => {}
    }
}

/// Sends a job's event to clients.
pub(crate) fn emit(events: &Events, job: &Info, what: JobEvent) {
    log(job, &what);
    let (kind, device) = (kind(job.kind), job.id.clone());
    let Info { len, offset, speed, .. } = *job;
    match what {
        JobEvent::Status => events.emit(&event::JobStatusChange { id: device, status: status(job.status) }),
        JobEvent::Error(operation, action) => events.emit(&event::BlockJobError {
            device,
            operation: match operation {
                Operation::Read => IoOperationType::Read,
                Operation::Write => IoOperationType::Write,
            },
            action: failures::action(action),
            detail: job.detail.clone(),
        }),
        JobEvent::Ready => events.emit(&event::BlockJobReady { kind, device, len, offset, speed }),
        JobEvent::Pending => events.emit(&event::BlockJobPending { kind, id: device }),
        JobEvent::Completed => {
            let (error, detail) = (job.error.clone(), job.detail.clone());
            events.emit(&event::BlockJobCompleted { kind, device, len, offset, speed, error, detail });
        }
        JobEvent::Cancelled => events.emit(&event::BlockJobCancelled { kind, device, len, offset, speed }),
    }
}
