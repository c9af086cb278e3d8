//! QMP's commands and events of jobs.
//!
//! A job lives on its disk's thread. Here is what all disks share: the names that are in use.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::job::mirror::{CopyMode, MirrorOptions, MirrorTarget};
use block::job::{Info, Job, JobKind, JobOptions, Status};
use block::stream::{Base, Order, Progress, StreamOptions, Tuning};
use block::{Disk, ErrorKind, Kind, OnError};
use qmp::command::*;
use qmp::types::*;
use qmp::{Error, ErrorClass, Result};

use super::copies::{self, Common};
use super::{Control, Drive, check_node_name, classed, generic, job_info, no_device_or_node, speed};

/// The names of all jobs, each with what is known of its job.
#[derive(Default)]
pub(crate) struct JobNames {
    all: RefCell<BTreeMap<String, Named>>,
    /// The number of jobs so far.
    count: Cell<u64>,
}

/// A job's name, from the command that starts the job until the job no longer exists.
struct Named {
    drive: Rc<Drive>,
    /// The job's number. A later job of the same name has another one.
    number: u64,
    /// Its kind and its state; `None` while it is being started.
    state: Option<(JobKind, Status)>,
}

impl JobNames {
    /// Takes a name for a job that is about to be started. Returns the job's number.
    pub(super) fn take(&self, id: &str, drive: &Rc<Drive>) -> Result<u64> {
        if self.all.borrow().contains_key(id) {
            return Err(Error::generic(format!("Job ID '{id}' already in use")));
        }
        let number = self.count.get() + 1;
        self.count.set(number);
        self.all.borrow_mut().insert(id.to_owned(), Named { drive: drive.clone(), number, state: None });
        Ok(number)
    }

    /// Records a job's new state. The name of a job that no longer exists is free again.
    pub(crate) fn entered(&self, job: &Info) {
        if job.status == Status::Null {
            self.remove(&job.id);
        } else if let Some(named) = self.all.borrow_mut().get_mut(&job.id) {
            named.state = Some((job.kind, job.status));
        }
    }

    /// Frees the name of a job that no longer exists, or was not started.
    pub(super) fn remove(&self, id: &str) {
        self.all.borrow_mut().remove(id);
    }

    /// Returns true if the job with this number is being started, or has not ended yet.
    pub(super) fn is_active(&self, number: u64) -> bool {
        let all = self.all.borrow();
        let named = all.values().find(|named| named.number == number);
        named.is_some_and(|named| !matches!(named.state, Some((_, Status::Concluded))))
    }

    /// The kind of the job with this number, if it has been started.
    pub(super) fn kind(&self, number: u64) -> Option<JobKind> {
        let all = self.all.borrow();
        all.values().find(|named| named.number == number)?.state.map(|(kind, _)| kind)
    }

    fn drive(&self, id: &str) -> Option<Rc<Drive>> {
        self.all.borrow().get(id).map(|named| named.drive.clone())
    }
}

/// The image that a stream populates.
struct Streamed {
    drive: Rc<Drive>,
    /// Its node name, if the command named it so.
    image: Option<String>,
    is_leaf: bool,
}

pub(super) fn check_job_id(id: &str) -> Result<()> {
    if qmp::id::is_well_formed(id) {
        return Ok(());
    }
    Err(Error::generic(format!("Invalid job ID '{id}'")))
}

fn info(progress: Progress) -> BlockStreamInfo {
    BlockStreamInfo { device: progress.device, len: progress.len, offset: progress.offset, absent: None }
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
            None => Err(no_device_or_node(device, device)),
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

    /// Fails if a job's image or filter cannot have this name, if there is one. Nodes have the same names.
    pub(super) async fn check_no_node(&self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        check_node_name(name).map_err(Error::generic)?;
        if self.is_named(name).await? {
            return Err(Error::generic(format!("Duplicate nodes with node-name='{name}'")));
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

    async fn streams(&self) -> Result<Vec<Progress>> {
        let mut streams = Vec::new();
        for drive in &self.drives {
            let query = drive.handle.call(|disk| async move { Ok(disk.query_stream()) });
            streams.extend(query.await.map_err(generic)?);
        }
        Ok(streams)
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

pub(super) fn on_error(policy: Option<BlockdevOnError>) -> OnError {
    match policy.unwrap_or(BlockdevOnError::Report) {
        BlockdevOnError::Report | BlockdevOnError::Auto => OnError::Report,
        BlockdevOnError::Ignore => OnError::Ignore,
        BlockdevOnError::Enospc => OnError::Enospc,
        BlockdevOnError::Stop => OnError::Stop,
    }
}

impl JobCommands for Control {
    async fn block_stream(&self, arguments: BlockStream) -> Result<BlockStreamReply> {
        let drive = self.drive(&arguments.device)?;
        let background = Ok(BlockStreamReply::Background(Empty {}));
        match (arguments.all.unwrap_or(false), arguments.stop.unwrap_or(false)) {
            (true, true) => Err(Error::generic("'all' and 'stop' exclude each other")),
            (true, _) | (_, true) if arguments.offset.is_some() => {
                Err(Error::generic("'x-offset' is for a single cluster"))
            }
            (true, false) => {
                self.start_block_stream(drive).await?;
                background
            }
            (false, true) => {
                let stop = drive.handle.call(|disk| async move { disk.stop_stream().await });
                stop.await.map_err(classed)?;
                background
            }
            (false, false) => {
                if let Some(offset) = arguments.offset {
                    let one = drive.handle.call(move |disk| async move { disk.stream_at(offset).await });
                    let (progress, absent) = one.await.map_err(classed)?;
                    let cluster = BlockStreamInfo { absent: Some(absent), ..info(progress) };
                    return Ok(BlockStreamReply::Cluster(cluster));
                }
                let one = drive.handle.call(|disk| async move { disk.stream_one().await });
                Ok(BlockStreamReply::Cluster(info(one.await.map_err(classed)?)))
            }
        }
    }

    async fn query_block_stream(&self, _: QueryBlockStream) -> Result<Vec<BlockStreamInfo>> {
        Ok(self.streams().await?.into_iter().map(info).collect())
    }

    async fn block_stream_job(&self, arguments: BlockStreamJob) -> Result<Empty> {
        let base = base(&arguments)?;
        let tuning = tuning(&arguments)?;
        let Streamed { drive, image, is_leaf } = self.streamed(&arguments.device).await?;
        let stream = StreamOptions { image, base, backing_file: arguments.backing_file, tuning };
        self.check_stream(&drive, &stream, &arguments.device).await?;
        let speed = speed(arguments.speed)?;
        // Only a job on a leaf has a default name, the disk's.
        let disk = if is_leaf { drive.options.id.clone() } else { String::new() };
        let id = arguments.job_id.unwrap_or(disk);
        check_job_id(&id)?;
        let why = |e: Error| Error::generic(format!("Could not create node: {}", e.desc));
        self.check_no_node(arguments.filter_node_name.as_deref()).await.map_err(why)?;
        let options = JobOptions {
            speed,
            on_error: on_error(arguments.on_error),
            auto_finalize: arguments.auto_finalize.unwrap_or(true),
            auto_dismiss: arguments.auto_dismiss.unwrap_or(true),
            ..JobOptions::new(id.clone())
        };
        let start = move |disk: Rc<Disk>| async move { disk.start_stream(stream, options).await };
        self.start_job(&drive, None, &id, start).await
    }

    async fn drive_mirror(&self, arguments: DriveMirror) -> Result<Empty> {
        let common = Common::from(&arguments);
        let drive = self.find(Some(&arguments.device), Some(&arguments.device)).await?;
        let settings = copies::settings(arguments.granularity, arguments.buf_size)?;
        let sync = copies::mirrored(arguments.sync)?;
        let mode = copies::copy_mode(arguments.copy_mode);
        let tuning = copies::Following {
            adaptive: arguments.adaptive,
            window: arguments.window,
            deadline: arguments.deadline,
            max_latency: arguments.max_latency,
        };
        let tuning = tuning.check(mode)?;
        let format = arguments.format.map(|name| name.parse::<Kind>()).transpose().map_err(generic)?;
        self.check_no_node(arguments.node_name.as_deref()).await?;
        let options = common.options(drive)?;
        let id = options.id.clone();
        let (name, node_name, witness) = (arguments.target, arguments.node_name, arguments.witness);
        let existing = arguments.mode == Some(NewImageMode::Existing);
        let start = move |disk: Rc<Disk>| async move {
            let format = format.unwrap_or(disk.leaf().kind());
            let target = MirrorTarget { name, format, existing, node_name };
            disk.start_mirror(
                MirrorOptions { target, sync, mode, copies: settings, witness, tuning },
                options,
            )
            .await
        };
        self.start_job(drive, None, &id, start).await
    }

    async fn x_verify(&self, arguments: XVerify) -> Result<Empty> {
        let drive = self.drive(&arguments.device)?;
        let id = arguments.job_id.unwrap_or_else(|| drive.options.id.clone());
        check_job_id(&id)?;
        let options =
            JobOptions { speed: speed(arguments.speed)?, auto_dismiss: false, ..JobOptions::new(id.clone()) };
        let digests = arguments.digests;
        let start = move |disk: Rc<Disk>| async move { disk.start_verify(digests.as_deref(), options).await };
        self.start_job(drive, None, &id, start).await
    }

    async fn block_job_set_speed(&self, arguments: BlockJobSetSpeed) -> Result<Empty> {
        // The job is looked up first, so that a wrong name is the error that is reported.
        let speed = speed(Some(arguments.speed)).map_err(|e| e.desc);
        let set = move |job: &Job| match speed {
            Ok(speed) => job.set_speed(speed),
            Err(text) => Err(block::Error::new(ErrorKind::Invalid, text)),
        };
        self.block_job(arguments.device, set).await
    }

    async fn block_job_cancel(&self, arguments: BlockJobCancel) -> Result<Empty> {
        let force = arguments.force.unwrap_or(false);
        let cancel = move |job: &Job| {
            let info = job.info();
            if info.paused && !force {
                let text = format!("The block job for device '{}' is currently paused", info.id);
                return Err(block::Error::new(ErrorKind::Invalid, text));
            }
            // Without force, a job that is ready ends well, and leaves its disk where it is.
            if force { job.cancel() } else { job.leave() }
        };
        self.block_job(arguments.device, cancel).await
    }

    async fn block_job_pause(&self, arguments: BlockJobPause) -> Result<Empty> {
        self.block_job(arguments.device, |job| job.pause()).await
    }

    async fn block_job_resume(&self, arguments: BlockJobResume) -> Result<Empty> {
        self.block_job(arguments.device, |job| job.resume()).await
    }

    async fn block_job_complete(&self, arguments: BlockJobComplete) -> Result<Empty> {
        self.block_job(arguments.device, |job| job.complete()).await
    }

    async fn block_job_change(&self, arguments: BlockJobChange) -> Result<Empty> {
        let BlockJobChange { id, kind, copy_mode } = arguments;
        let both = match (kind, copy_mode) {
            (JobType::Mirror, Some(mode)) => copies::copy_mode(Some(mode)) == CopyMode::WriteBlocking,
            (JobType::Mirror, None) => return Err(Error::generic("Parameter 'copy-mode' is missing")),
            (_, Some(_)) => return Err(Error::generic("Parameter 'copy-mode' is unexpected")),
            // QEMU returns without an effect if the job is a mirror.
            (_, None) => {
                let refuse = |_: &Job| {
                    Err(block::Error::new(ErrorKind::Unsupported, "Job type does not support change"))
                };
                return self.block_job(id, refuse).await;
            }
        };
        self.block_job(id, move |job| job.write_both(both)).await
    }

    async fn block_job_finalize(&self, arguments: BlockJobFinalize) -> Result<Empty> {
        self.block_job(arguments.id, |job| job.finalize()).await
    }

    async fn block_job_dismiss(&self, arguments: BlockJobDismiss) -> Result<Empty> {
        self.block_job(arguments.id, |job| job.dismiss()).await
    }

    async fn job_pause(&self, arguments: JobPause) -> Result<Empty> {
        self.job(arguments.id, |job| job.pause()).await
    }

    async fn job_resume(&self, arguments: JobResume) -> Result<Empty> {
        self.job(arguments.id, |job| job.resume()).await
    }

    async fn job_cancel(&self, arguments: JobCancel) -> Result<Empty> {
        self.job(arguments.id, |job| job.cancel()).await
    }

    async fn job_complete(&self, arguments: JobComplete) -> Result<Empty> {
        self.job(arguments.id, |job| job.complete()).await
    }

    async fn job_finalize(&self, arguments: JobFinalize) -> Result<Empty> {
        self.job(arguments.id, |job| job.finalize()).await
    }

    async fn job_dismiss(&self, arguments: JobDismiss) -> Result<Empty> {
        self.job(arguments.id, |job| job.dismiss()).await
    }

    async fn query_block_jobs(&self, _: QueryBlockJobs) -> Result<Vec<BlockJobInfo>> {
        Ok(self.all_jobs().await?.into_iter().map(job_info::block_job).collect())
    }

    async fn query_jobs(&self, _: QueryJobs) -> Result<Vec<JobInfo>> {
        Ok(self.all_jobs().await?.into_iter().map(job_info::job).collect())
    }
}
