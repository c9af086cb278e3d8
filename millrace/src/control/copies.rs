//! Jobs that copy a disk to a node that `blockdev-add` has described, or to an image of its own chain.

use std::rc::Rc;
use std::time::Duration;

use block::job::JobOptions;
use block::job::backup::BackupOptions;
use block::job::mirror::commit::{CommitOptions, Named};
use block::job::mirror::{Copies, CopyMode, MOST_WINDOW, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use block::step::Step;
use block::{Disk, ErrorKind, Kind, OnError};
use qmp::command::*;
use qmp::types::*;
use qmp::{Error, ErrorClass, Result};

use super::jobs::{check_job_id, on_error};
use super::nodes::{Node, Taken, behind, in_use};
use super::{Control, Drive, generic, no_device_or_node, speed};

/// Converts the part of a disk that a mirror copies.
///
/// # Errors
/// Fails in QEMU's words for the modes that need dirty bitmaps.
pub(super) fn mirrored(sync: MirrorSyncMode) -> Result<Sync> {
    match sync {
        MirrorSyncMode::Full => Ok(Sync::Full),
        MirrorSyncMode::Top => Ok(Sync::Top),
        MirrorSyncMode::None => Ok(Sync::None),
        MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => {
            Err(Error::generic(format!("Sync mode '{sync}' not supported")))
        }
    }
}

/// Converts the settings of a mirror's copies.
///
/// # Errors
/// Fails in QEMU's words if they are out of its bounds.
pub(super) fn settings(granularity: Option<u32>, buf_size: Option<i64>) -> Result<Copies> {
    // As in QEMU, 0 means nothing special.
    let granularity = granularity.filter(|granularity| *granularity != 0);
    if let Some(granularity) = granularity {
        if !(512..=64 << 20).contains(&granularity) {
            let text = "Parameter 'granularity' expects a value in range [512B, 64MB]";
            return Err(Error::generic(text));
        }
        if !granularity.is_power_of_two() {
            return Err(Error::generic("Parameter 'granularity' expects a power of 2"));
        }
    }
    let buffer =
        u64::try_from(buf_size.unwrap_or(0)).map_err(|_| Error::generic("Invalid parameter 'buf-size'"))?;
    Ok(Copies { granularity: granularity.map(u64::from), buffer: Some(buffer).filter(|buffer| *buffer != 0) })
}

/// Converts the way of the guest's writes.
pub(super) fn copy_mode(mode: Option<MirrorCopyMode>) -> CopyMode {
    match mode {
        Some(MirrorCopyMode::WriteBlocking) => CopyMode::WriteBlocking,
        Some(MirrorCopyMode::Background) | None => CopyMode::Background,
    }
}

/// Our arguments of a mirror, beside QEMU's.
pub(super) struct Following {
    pub(super) adaptive: Option<bool>,
    pub(super) window: Option<u64>,
    pub(super) deadline: Option<u64>,
    pub(super) max_latency: Option<u64>,
}

impl Following {
    /// Converts them.
    ///
    /// # Errors
    /// Arguments that would have no effect, or that need too much memory.
    pub(super) fn check(self, mode: CopyMode) -> Result<MirrorTuning> {
        let adaptive = self.adaptive.unwrap_or(false);
        let (window, blocking) = (self.window.unwrap_or(0), mode == CopyMode::WriteBlocking);
        let text = if adaptive && blocking {
            "'x-adaptive' chooses the copy mode itself; leave out 'copy-mode'"
        } else if window > 0 && !adaptive && !blocking {
            "'x-window' needs copy-mode 'write-blocking' or 'x-adaptive'"
        } else if window > MOST_WINDOW {
            "'x-window' is at most 1073741824 bytes, which are held in memory"
        } else if self.deadline.is_some() && !adaptive {
            "'x-deadline' needs 'x-adaptive'"
        } else {
            return Ok(MirrorTuning {
                window,
                adaptive,
                deadline: self.deadline.map(Duration::from_secs),
                max_latency: self.max_latency.map(Duration::from_millis),
            });
        };
        Err(Error::generic(text))
    }
}

/// The arguments that every job that copies to another image has.
pub(super) struct Common {
    job_id: Option<String>,
    speed: Option<i64>,
    on_source_error: Option<BlockdevOnError>,
    on_target_error: Option<BlockdevOnError>,
    auto_finalize: Option<bool>,
    auto_dismiss: Option<bool>,
}

/// Takes them from a command that has them under these names.
macro_rules! common {
    ($($command:ident: $source:ident, $target:ident;)+) => {$(
        impl From<&$command> for Common {
            fn from(arguments: &$command) -> Self {
                Common {
                    job_id: arguments.job_id.clone(),
                    speed: arguments.speed,
                    on_source_error: arguments.$source,
                    on_target_error: arguments.$target,
                    auto_finalize: arguments.auto_finalize,
                    auto_dismiss: arguments.auto_dismiss,
                }
            }
        }
    )+};
}

common! {
    BlockdevMirror: on_source_error, on_target_error;
    DriveMirror: on_source_error, on_target_error;
    BlockdevBackup: on_source_error, on_target_error;
    DriveBackup: on_source_error, on_target_error;
    BlockCommit: on_error, on_error;
}

impl Common {
    /// Returns the options of a job on this drive.
    pub(super) fn options(self, drive: &Drive) -> Result<JobOptions> {
        let id = self.job_id.unwrap_or_else(|| drive.options.id.clone());
        check_job_id(&id)?;
        let target: OnError = on_error(self.on_target_error);
        Ok(JobOptions {
            speed: speed(self.speed)?,
            on_error: on_error(self.on_source_error),
            on_target_error: Some(target),
            auto_finalize: self.auto_finalize.unwrap_or(true),
            auto_dismiss: self.auto_dismiss.unwrap_or(true),
            ..JobOptions::new(id)
        })
    }
}

impl Control {
    /// Finds the drive with this name, or with a leaf of this node name.
    ///
    /// # Errors
    /// Fails in QEMU's words if there is none, or if the node is behind a leaf.
    pub(super) async fn root(&self, device: &str) -> Result<&Rc<Drive>> {
        if let Ok(drive) = self.drive(device) {
            return Ok(drive);
        }
        match self.node(device).await? {
            Some((drive, None)) => Ok(drive),
            Some((_, Some(_))) => Err(Error::generic("Need a root block node")),
            None => Err(no_device_or_node(device, device)),
        }
    }

    /// Finds the node that a job on `drive` is to copy to, and takes it for that job. `itself` is the error
    /// for the drive's own leaf.
    async fn target(&self, drive: &Drive, name: &str, itself: &str) -> Result<Taken> {
        // A node that a disk runs on by now may have been described, too.
        if let Ok(other) = self.drive(name) {
            let is_it = other.options.id == drive.options.id;
            let in_use = format!("Device '{name}' is in use");
            return Err(Error::generic(if is_it { itself.to_owned() } else { in_use }));
        }
        // Taken before the look at the chains: a job that ends meanwhile cannot move its disk there unseen.
        let taken = self.nodes.find(name).map(|node| self.take_node(node));
        match self.node(name).await? {
            Some((other, None)) if other.options.id == drive.options.id => {
                return Err(Error::generic(itself));
            }
            Some((_, None)) => return Err(in_use(name)),
            Some((_, Some(above))) => return Err(behind(name, &above)),
            None => {}
        }
        let taken = taken.ok_or_else(|| no_device_or_node(name, name))?;
        let node = taken.map_err(|job| match job {
            Some(kind) => {
                let kind = kind.name();
                Error::generic(format!("Node '{name}' is busy: block device is in use by block job: {kind}"))
            }
            None => in_use(name),
        })?;
        node.check_target_of(drive)?;
        Ok(node)
    }

    /// Fails if the images of a commit are not in this chain, or a job is in its way. Checked before other
    /// arguments.
    async fn check_commit(&self, drive: &Drive, commit: &CommitOptions) -> Result<()> {
        let asked = commit.clone();
        let check = drive.handle.call(move |disk| async move { disk.check_commit(&asked) });
        let Err(e) = check.await else { return Ok(()) };
        if e.kind() == ErrorKind::NotFound {
            // The image may exist, but not in this chain.
            for named in [&commit.top, &commit.base].into_iter().flatten() {
                if let Named::Node(name) = named
                    && e.to_string().ends_with(&format!("node-name='{name}'"))
                    && self.is_named(name).await?
                {
                    return Err(Error::generic(format!("'{name}' is not in this backing file chain")));
                }
            }
        }
        Err(generic(e))
    }

    /// Starts a job on a drive, under the name that its options have. `target` is the described
    /// node that it copies to.
    pub(super) async fn start_job<F: Future<Output = block::Result<()>> + 'static>(
        &self,
        drive: &Rc<Drive>,
        target: Option<Taken>,
        id: &str,
        start: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
    ) -> Result<Empty> {
        self.begin_job(drive, target, id)?;
        drive.handle.call(start).await.map_err(|e| {
            self.reports.jobs.remove(id);
            generic(e)
        })?;
        Ok(Empty {})
    }

    /// Takes a job's name, and records its target, which is in use from here on until the job has ended, or
    /// gives back its name because it does not start.
    fn begin_job(&self, drive: &Rc<Drive>, target: Option<Taken>, id: &str) -> Result<()> {
        let number = self.reports.jobs.take(id, drive)?;
        if let Some(target) = target {
            target.becomes_target_of(number);
        }
        Ok(())
    }
}

/// A backup that is to begin, checked as far as the main loop can.
pub(super) struct Planned {
    pub drive: Rc<Drive>,
    pub backup: BackupOptions,
    /// The format is the leaf's, and is filled in on the disk's thread.
    pub format_of_leaf: bool,
    pub options: JobOptions,
}

impl Planned {
    /// Makes everything ready, on the disk's thread, which keeps it.
    pub(super) async fn prepare_on_disk(self) -> block::Result<Step> {
        let Planned { drive, mut backup, format_of_leaf, options } = self;
        let prepare = move |disk: Rc<Disk>| async move {
            if format_of_leaf {
                backup.target.format = disk.leaf().kind();
            }
            disk.prepare_backup(backup, options).await
        };
        Step::prepare(&drive.handle, prepare).await
    }
}

/// Converts the part of a disk that a backup copies.
fn backed_up(sync: MirrorSyncMode) -> Result<Sync> {
    mirrored(sync)
        .map_err(|_| Error::generic(format!("must provide a valid bitmap name for '{sync}' sync mode")))
}

impl Control {
    /// Checks a `blockdev-backup`, and takes the job's name for it.
    pub(super) async fn plan_node_backup(&self, arguments: BlockdevBackup) -> Result<Planned> {
        let common = Common::from(&arguments);
        let drive = self.root(&arguments.device).await?;
        let target = self.target(drive, &arguments.target, "Source and target cannot be the same").await?;
        let sync = backed_up(arguments.sync)?;
        let options = common.options(drive)?;
        self.check_no_node(arguments.filter_node_name.as_deref()).await?;
        let backup = BackupOptions { target: image(&target), sync };
        self.begin_job(drive, Some(target), &options.id)?;
        Ok(Planned { drive: drive.clone(), backup, format_of_leaf: false, options })
    }

    /// Checks a `drive-backup`, and takes the job's name for it.
    pub(super) async fn plan_backup(&self, arguments: DriveBackup) -> Result<Planned> {
        let common = Common::from(&arguments);
        let drive = self.root(&arguments.device).await?;
        let sync = backed_up(arguments.sync)?;
        let format = arguments.format.map(|name| name.parse::<Kind>()).transpose().map_err(generic)?;
        let options = common.options(drive)?;
        self.check_no_node(arguments.filter_node_name.as_deref()).await?;
        self.begin_job(drive, None, &options.id)?;
        let target = MirrorTarget {
            name: arguments.target,
            format: format.unwrap_or(Kind::Raw),
            existing: arguments.mode == Some(NewImageMode::Existing),
            node_name: None,
        };
        let backup = BackupOptions { target, sync };
        Ok(Planned { drive: drive.clone(), backup, format_of_leaf: format.is_none(), options })
    }
}

/// The image of a node that is described.
fn image(node: &Node) -> MirrorTarget {
    MirrorTarget {
        name: node.object().to_owned(),
        format: node.kind(),
        existing: true,
        node_name: Some(node.name.clone()),
    }
}

impl CopyCommands for Control {
    async fn blockdev_mirror(&self, arguments: BlockdevMirror) -> Result<Empty> {
        let common = Common::from(&arguments);
        let drive = self.root(&arguments.device).await?;
        let target = self.target(drive, &arguments.target, "Can't mirror node into itself").await?;
        let copies = settings(arguments.granularity, arguments.buf_size)?;
        let sync = mirrored(arguments.sync)?;
        let mode = copy_mode(arguments.copy_mode);
        let tuning = Following {
            adaptive: arguments.adaptive,
            window: arguments.window,
            deadline: arguments.deadline,
            max_latency: arguments.max_latency,
        };
        let tuning = tuning.check(mode)?;
        self.check_no_node(arguments.filter_node_name.as_deref()).await?;
        let options = common.options(drive)?;
        let id = options.id.clone();
        let mirror =
            MirrorOptions { target: image(&target), sync, mode, copies, witness: arguments.witness, tuning };
        let start = move |disk: Rc<Disk>| async move { disk.start_mirror(mirror, options).await };
        self.start_job(drive, Some(target), &id, start).await
    }

    async fn block_commit(&self, arguments: BlockCommit) -> Result<Empty> {
        let common = Common::from(&arguments);
        let device = &arguments.device;
        let drive = self.root(device).await.map_err(|e| match e.desc.starts_with("Cannot find") {
            // libvirt relies on this class.
            true => Error::new(ErrorClass::DeviceNotFound, format!("Device '{device}' not found")),
            false => e,
        })?;
        let named = |node: Option<String>, file: Option<String>, name: &str| match (node, file) {
            (Some(_), Some(_)) => {
                let text = format!("'{name}-node' and '{name}' are mutually exclusive");
                Err(Error::generic(text))
            }
            (Some(node), None) => Ok(Some(Named::Node(node))),
            (None, file) => Ok(file.map(Named::File)),
        };
        let top = named(arguments.top_node, arguments.top, "top")?;
        let base = named(arguments.base_node, arguments.base, "base")?;
        let (backing_file, witness) = (arguments.backing_file, arguments.witness);
        let commit = CommitOptions { top, base, backing_file, witness };
        self.check_commit(drive, &commit).await?;
        let options = common.options(drive)?;
        self.check_no_node(arguments.filter_node_name.as_deref()).await?;
        let id = options.id.clone();
        let start = move |disk: Rc<Disk>| async move { disk.start_commit(commit, options).await };
        self.start_job(drive, None, &id, start).await
    }

    async fn blockdev_backup(&self, arguments: BlockdevBackup) -> Result<Empty> {
        self.transact(vec![TransactionAction::BlockdevBackup(arguments)]).await
    }

    async fn drive_backup(&self, arguments: DriveBackup) -> Result<Empty> {
        self.transact(vec![TransactionAction::DriveBackup(arguments)]).await
    }
}
