//! The handlers of the monitor's commands.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use block::ErrorKind;
use block::stream::Progress;
use block::switch::DEADLINE;
use executor::sync::Event;
use qmp::command::*;
use qmp::types::*;
use qmp::{Error, ErrorClass, Events, Handler, Result, event};

use super::drive::Drive;
use super::exports::{Exports, Wish};
use super::io_errors::IoErrors;
use super::reports::Reports;
use vmm::{Machine, State};

mod blocks;
mod failures;
mod graph;
pub(super) mod jobs;
mod snapshot;
mod tray;

/// The reason for the program's end.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// A client, the user or a signal asked for it.
    Quit(ShutdownCause),
    /// The guest ended itself.
    Guest(ShutdownCause),
    /// Something went wrong in the guest: an error in one line.
    Failed(String),
    /// Something went wrong in this program: an error in one line.
    Broken(String),
}

/// The state that the monitor's commands work on.
pub(super) struct Control {
    pub drives: Vec<Rc<Drive>>,
    pub machine: Option<Rc<Machine>>,
    pub events: Events,
    pub exports: Exports,
    reports: Rc<Reports>,
    /// Without a machine: true after `stop`, until `cont`.
    stopped: Cell<bool>,
    /// Errors of the guest's disks that were not reported yet.
    io_errors: Arc<IoErrors>,
    /// True if such an error has stopped the machine.
    io_stopped: Cell<bool>,
    /// True if clients think that the machine runs: `STOP` and `RESUME` alternate.
    reported_running: Cell<bool>,
    end: RefCell<Option<End>>,
    ended: Event,
}

/// Converts an error to the generic class.
fn generic(e: block::Error) -> Error {
    Error::generic(e.to_string())
}

/// Converts an error to the classes that the commands of 2011 use.
fn classed(e: block::Error) -> Error {
    let class = match e.kind() {
        ErrorKind::InUse => ErrorClass::DeviceInUse,
        ErrorKind::NotActive => ErrorClass::DeviceNotActive,
        ErrorKind::Unsupported => ErrorClass::NotSupported,
        _ => ErrorClass::GenericError,
    };
    Error::new(class, e.to_string())
}

fn info(progress: Progress) -> BlockStreamInfo {
    BlockStreamInfo { device: progress.device, len: progress.len, offset: progress.offset, absent: None }
}

impl Control {
    pub(super) fn new(
        drives: Vec<Rc<Drive>>,
        machine: Option<Rc<Machine>>,
        reports: Rc<Reports>,
        io_errors: Arc<IoErrors>,
    ) -> Self {
        Control {
            drives,
            machine,
            exports: Exports::new(reports.events.clone()),
            events: reports.events.clone(),
            reports,
            stopped: Cell::new(false),
            io_errors,
            io_stopped: Cell::new(false),
            reported_running: Cell::new(true),
            end: RefCell::default(),
            ended: Event::new(),
        }
    }

    /// Ends the program. Only the first reason counts.
    pub(super) fn end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.ended.notify();
    }

    /// Waits for [`Control::end`] and returns the reason.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.ended.wait().await;
        }
    }

    fn drive(&self, device: &str) -> Result<&Rc<Drive>> {
        let found = self.drives.iter().find(|drive| drive.options.id == device);
        found.ok_or_else(|| Error::device_not_found(device))
    }

    async fn streams(&self) -> Result<Vec<Progress>> {
        let mut streams = Vec::new();
        for drive in &self.drives {
            let query = drive.handle.call(|disk| async move { Ok(disk.query_stream()) });
            streams.extend(query.await.map_err(generic)?);
        }
        Ok(streams)
    }

    /// Sends `STOP` or `RESUME` if the machine has changed between running and not running since the last of
    /// these events. A start sends none if the machine runs from then on. Must be called at the end of
    /// everything that changes the machine's state, before anything else is awaited.
    pub(super) fn emit_run_state(&self) {
        let state = self.run_state();
        if state == RunState::Prelaunch {
            return;
        }
        let running = state == RunState::Running;
        match (self.reported_running.replace(running), running) {
            (true, false) => self.events.emit(&event::Stopped {}),
            (false, true) => self.events.emit(&event::Resumed {}),
            _ => {}
        }
    }

    fn run_state(&self) -> RunState {
        match &self.machine {
            None if self.stopped.get() => RunState::Paused,
            None => RunState::Running,
            Some(machine) => match machine.state() {
                State::Created => RunState::Prelaunch,
                State::Running => RunState::Running,
                State::Paused if self.io_stopped.get() => RunState::IoError,
                State::Paused => RunState::Paused,
                State::Ended | State::Gone => RunState::Shutdown,
            },
        }
    }
}

impl Handler for Control {
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

    async fn change(&self, arguments: Change) -> Result<Empty> {
        if arguments.device == "vnc" {
            return Err(Error::generic("no VNC server"));
        }
        let drive = self.drive(&arguments.device)?;
        if drive.options.cdrom {
            return self.change_removable(drive, arguments).await;
        }
        let target = snapshot::target(arguments)?;
        let name = target.name.clone();
        let switch = drive
            .handle
            .call(move |disk| async move { disk.prepare_switch(&target).await?.commit(DEADLINE).await });
        let switched = switch.await.map_err(|e| match e.kind() {
            ErrorKind::InUse => classed(e),
            _ => generic(e),
        })?;
        self.emit_switched(drive, &name, switched);
        Ok(Empty {})
    }

    async fn eject(&self, arguments: Eject) -> Result<Empty> {
        self.eject_medium(arguments).await
    }

    async fn blockdev_open_tray(&self, arguments: BlockdevOpenTray) -> Result<Empty> {
        self.open_tray(arguments).await
    }

    async fn blockdev_close_tray(&self, arguments: BlockdevCloseTray) -> Result<Empty> {
        self.close_tray(arguments).await
    }

    async fn blockdev_change_medium(&self, arguments: BlockdevChangeMedium) -> Result<Empty> {
        self.change_medium(arguments).await
    }

    async fn blockdev_snapshot_sync(&self, arguments: BlockdevSnapshotSync) -> Result<Empty> {
        self.transact(vec![TransactionAction::BlockdevSnapshotSync(arguments)]).await
    }

    async fn transaction(&self, arguments: Transaction) -> Result<Empty> {
        if let Some(action) = arguments.actions.first()
            && arguments.properties.and_then(|properties| properties.completion_mode)
                == Some(ActionCompletionMode::Grouped)
        {
            // That mode is for actions that start jobs, and no action here does.
            let text = format!(
                "Action '{}' does not support transaction property completion-mode = grouped",
                action.kind()
            );
            return Err(Error::generic(text));
        }
        self.transact(arguments.actions).await
    }

    async fn x_verify(&self, arguments: XVerify) -> Result<Empty> {
        self.verify(arguments).await
    }

    async fn x_live_copy(&self, arguments: XLiveCopy) -> Result<Empty> {
        self.live_copy(arguments).await
    }

    async fn query_named_block_nodes(&self, arguments: QueryNamedBlockNodes) -> Result<Vec<BlockDeviceInfo>> {
        self.nodes(arguments.flat.unwrap_or(false)).await
    }

    async fn query_blockstats(&self, arguments: QueryBlockstats) -> Result<Vec<BlockStats>> {
        self.blockstats(arguments.query_nodes.unwrap_or(false)).await
    }

    async fn block_resize(&self, arguments: BlockResize) -> Result<Empty> {
        let drive = self.find(arguments.device.as_deref(), arguments.node_name.as_deref()).await?;
        let size = u64::try_from(arguments.size)
            .map_err(|_| Error::generic("Parameter 'size' expects a >0 size"))?;
        let resize = drive.handle.call(move |disk| async move { disk.resize(size).await });
        resize.await.map_err(generic)?;
        Ok(Empty {})
    }

    async fn query_block(&self, _: QueryBlock) -> Result<Vec<BlockInfo>> {
        let mut drives = Vec::new();
        for drive in &self.drives {
            drives.push(blocks::describe(drive, self.machine.is_some()).await.map_err(generic)?);
        }
        Ok(drives)
    }

    async fn block_stream_job(&self, arguments: BlockStreamJob) -> Result<Empty> {
        self.start_stream_job(arguments).await
    }

    async fn block_job_set_speed(&self, arguments: BlockJobSetSpeed) -> Result<Empty> {
        self.set_speed(arguments).await
    }

    async fn block_job_cancel(&self, arguments: BlockJobCancel) -> Result<Empty> {
        self.cancel_block_job(arguments).await
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
        Ok(self.all_jobs().await?.into_iter().map(jobs::block_job).collect())
    }

    async fn query_jobs(&self, _: QueryJobs) -> Result<Vec<JobInfo>> {
        Ok(self.all_jobs().await?.into_iter().map(jobs::job).collect())
    }

    async fn nbd_server_start(&self, arguments: NbdServerStart) -> Result<Empty> {
        self.exports.start(arguments).await.map(|()| Empty {})
    }

    async fn nbd_server_add(&self, arguments: NbdServerAdd) -> Result<Empty> {
        let drive = self.find(Some(&arguments.device), Some(&arguments.device)).await?;
        let name = arguments.name.unwrap_or(arguments.device);
        let wish = Wish {
            id: name.clone(),
            name,
            description: arguments.description,
            // Unlike `block-export-add`, this command does not fail for a read-only disk.
            writable: arguments.writable.unwrap_or(false) && !drive.options.read_only,
            writethrough: false,
        };
        self.exports.add(drive, wish).map(|()| Empty {})
    }

    async fn nbd_server_remove(&self, arguments: NbdServerRemove) -> Result<Empty> {
        self.exports.remove(&arguments.name, arguments.mode).await.map(|()| Empty {})
    }

    async fn nbd_server_stop(&self, _: NbdServerStop) -> Result<Empty> {
        self.exports.stop().await.map(|()| Empty {})
    }

    async fn block_export_add(&self, arguments: BlockExportAdd) -> Result<Empty> {
        let drive = self.find(None, Some(&arguments.node_name)).await?;
        let wish = Wish {
            id: arguments.id,
            name: arguments.name.unwrap_or(arguments.node_name),
            description: arguments.description,
            writable: arguments.writable.unwrap_or(false),
            writethrough: arguments.writethrough.unwrap_or(false),
        };
        self.exports.add(drive, wish).map(|()| Empty {})
    }

    async fn block_export_del(&self, arguments: BlockExportDel) -> Result<Empty> {
        self.exports.remove(&arguments.id, arguments.mode).await.map(|()| Empty {})
    }

    async fn query_block_exports(&self, _: QueryBlockExports) -> Result<Vec<BlockExportInfo>> {
        Ok(self.exports.list())
    }

    async fn query_status(&self, _: QueryStatus) -> Result<StatusInfo> {
        let status = self.run_state();
        Ok(StatusInfo { running: status == RunState::Running, status })
    }

    async fn query_name(&self, _: QueryName) -> Result<NameInfo> {
        Ok(NameInfo { name: None })
    }

    async fn stop(&self, _: Stop) -> Result<Empty> {
        match &self.machine {
            Some(machine) => _ = machine.stop().await,
            None => self.stopped.set(true),
        }
        // Requests that were in flight may have failed; their events come before `STOP`.
        self.emit_io_errors();
        self.emit_run_state();
        Ok(Empty {})
    }

    async fn cont(&self, _: Cont) -> Result<Empty> {
        let resumed = match &self.machine {
            Some(machine) => machine.resume().await.map_err(|e| Error::generic(e.to_string()))?,
            None => self.stopped.replace(false),
        };
        // If the machine was running already, a stop may be under way for an error that was already
        // reported.
        if resumed {
            self.clear_io_errors();
        }
        self.emit_run_state();
        Ok(Empty {})
    }

    async fn system_powerdown(&self, _: SystemPowerdown) -> Result<Empty> {
        if let Some(machine) = &self.machine {
            machine.power_button().map_err(|e| Error::generic(e.to_string()))?;
        }
        self.events.emit(&event::Powerdown {});
        Ok(Empty {})
    }

    async fn system_reset(&self, _: SystemReset) -> Result<Empty> {
        let reset = match &self.machine {
            Some(machine) => machine.reset().await,
            None => Ok(()),
        };
        if reset.is_ok() {
            // After a reset no request waits for 'cont' to retry it.
            self.io_stopped.set(false);
            self.events.emit(&event::Reset { guest: false, reason: ShutdownCause::HostQmpSystemReset });
        }
        // A machine whose reset failed does not run any more.
        self.emit_run_state();
        reset.map(|()| Empty {}).map_err(|e| Error::generic(e.to_string()))
    }

    async fn quit(&self, _: Quit) -> Result<Empty> {
        self.end(End::Quit(ShutdownCause::HostQmpQuit));
        Ok(Empty {})
    }
}
