//! The types of answers and events, named as in QEMU 10.0's QAPI (`qapi/*.json`). Of the optional members
//! only those with a meaning here are kept; docs/qmp.md lists the others. Sizes and offsets are in bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::schema::{Qapi, Type, qapi_enum, qapi_struct};

mod introspect;
mod snapshot;
mod socket;
mod stats;
pub use introspect::{SchemaInfo, SchemaInfoObjectVariant, SchemaMetaType};
pub use snapshot::{
    Abort, ActionCompletionMode, BlockdevChangeReadOnlyMode, NewImageMode, TransactionAction,
    TransactionProperties,
};
pub use socket::{InetSocketAddress, SocketAddressLegacy, UnixSocketAddress};
pub use stats::{
    BlockDeviceStats, BlockDeviceTimedStats, BlockLatencyHistogramInfo, BlockStats, CopiedInfo, LatencyInfo,
};

qapi_struct! {
    /// The answer `{}`.
    struct Empty {}

    /// Progress of a stream (2011).
    struct BlockStreamInfo {
        /// The disk.
        device: String,
        /// The size of the disk.
        len: u64,
        /// Up to where it is streamed.
        offset: u64,
        /// With `x-offset`: the bytes that are still absent.
        absent: Option<u64>,
    }

    /// What `query-version` answers, and part of the greeting.
    struct VersionInfo {
        /// The version of QEMU whose QMP this is.
        qemu: VersionTriple,
        /// Whose server this is.
        package: String,
    }

    /// A version number.
    struct VersionTriple {
        /// First number.
        major: u64,
        /// Second number.
        minor: u64,
        /// Third number.
        micro: u64,
    }

    /// An entry of `query-commands`.
    struct CommandName {
        /// The command.
        name: String,
    }

    /// What `query-name` answers.
    struct NameInfo {
        /// The machine's name, if it was given one.
        name: Option<String>,
    }

    /// What `query-status` answers.
    struct StatusInfo {
        /// Whether vCPUs run.
        running: bool,
        /// Why they run or do not.
        status: RunState,
    }

    /// An entry of `query-block`: a drive.
    struct BlockInfo {
        /// The drive.
        device: String,
        /// The id of its guest device; absent without a guest.
        qdev: Option<String>,
        /// Kept for old clients: always `unknown`.
        kind as "type": String,
        /// Whether its medium can be changed by the guest.
        removable: bool,
        /// Whether the guest locked the tray.
        locked: bool,
        /// The medium, if there is one.
        inserted: Option<BlockDeviceInfo>,
        /// Whether the tray is open; absent without a tray.
        tray_open: Option<bool>,
        /// Whether an I/O error stopped the machine.
        io_status as "io-status": Option<IoStatus>,
    }

    /// An image that is attached to a drive.
    struct BlockDeviceInfo {
        /// The name of its file.
        file: String,
        /// The name of its node in the graph.
        node_name as "node-name": Option<String>,
        /// Whether it is read-only.
        ro: bool,
        /// Its format.
        drv: String,
        /// The name of its backing file.
        backing_file: Option<String>,
        /// How many images lie below it.
        backing_file_depth: u64,
        /// Whether this process may use it: always.
        active: bool,
        /// Whether it is encrypted.
        encrypted: bool,
        /// Whether written zeros are looked for.
        detect_zeroes: DetectZeroes,
        /// The limit of bytes per second; 0: none.
        bps: u64,
        /// The same for reads.
        bps_rd: u64,
        /// The same for writes.
        bps_wr: u64,
        /// The limit of operations per second; 0: none.
        iops: u64,
        /// The same for reads.
        iops_rd: u64,
        /// The same for writes.
        iops_wr: u64,
        /// The image and its chain.
        image: ImageInfo,
        /// How the host caches it.
        cache: CacheInfo,
        /// The offset whose writing is reported; 0: none.
        write_threshold: u64,
    }

    /// How the host caches an image.
    struct CacheInfo {
        /// Whether the guest sees a write cache.
        writeback: bool,
        /// Whether the host's page cache is bypassed.
        direct: bool,
        /// Whether flushes are ignored.
        no_flush as "no-flush": bool,
    }

    /// An image and what lies below it.
    struct ImageInfo {
        /// Its file's name.
        filename: String,
        /// Its format.
        format: String,
        /// Whether it must be checked before use.
        dirty_flag as "dirty-flag": Option<bool>,
        /// Bytes that its file takes on the host.
        actual_size as "actual-size": Option<u64>,
        /// Bytes that the guest sees.
        virtual_size as "virtual-size": u64,
        /// Its format's unit of allocation.
        cluster_size as "cluster-size": Option<u64>,
        /// Whether it is encrypted.
        encrypted: Option<bool>,
        /// Whether it is compressed.
        compressed: Option<bool>,
        /// Its backing file as recorded.
        backing_filename as "backing-filename": Option<String>,
        /// The same as a path from here.
        full_backing_filename as "full-backing-filename": Option<String>,
        /// The recorded format of its backing file.
        backing_filename_format as "backing-filename-format": Option<String>,
        /// Its backing image.
        backing_image as "backing-image": Option<Box<ImageInfo>>,
        /// What only its format has, as QEMU's `ImageInfoSpecific`.
        format_specific as "format-specific": Option<Value>,
    }

    /// An entry of `query-block-exports`.
    struct BlockExportInfo {
        /// Its id.
        id: String,
        /// How it is exported.
        kind as "type": BlockExportType,
        /// What is exported.
        node_name as "node-name": String,
        /// Whether it is going away.
        shutting_down as "shutting-down": bool,
    }

    /// An entry of `query-block-jobs`.
    struct BlockJobInfo {
        /// What it does.
        kind as "type": JobType,
        /// Its id.
        device: String,
        /// Where `offset` ends.
        len: u64,
        /// How far it is.
        offset: u64,
        /// Whether it does something right now.
        busy: bool,
        /// Whether it is paused.
        paused: bool,
        /// Its limit in bytes per second; 0: none.
        speed: u64,
        /// Whether an I/O error paused it.
        io_status as "io-status": IoStatus,
        /// Whether it can be completed.
        ready: bool,
        /// Its state.
        status: JobStatus,
        /// Whether it finalizes itself.
        auto_finalize as "auto-finalize": bool,
        /// Whether it leaves the table by itself.
        auto_dismiss as "auto-dismiss": bool,
        /// Why it failed or was cancelled, in the C library's words.
        error: Option<String>,
        /// What it failed at or pauses for, in full.
        detail as "x-error": Option<String>,
    }

    /// An entry of `query-jobs`.
    struct JobInfo {
        /// Its id.
        id: String,
        /// What it does.
        kind as "type": JobType,
        /// Its state.
        status: JobStatus,
        /// How far it is, in its own unit.
        current_progress as "current-progress": u64,
        /// Where that ends; it may grow.
        total_progress as "total-progress": u64,
        /// Why it failed or was cancelled, in the C library's words.
        error: Option<String>,
        /// What it failed at or pauses for, in full.
        detail as "x-error": Option<String>,
    }
}

qapi_enum! {
    /// A capability that a client can ask for.
    enum QMPCapability {
        /// Out-of-band execution; not offered here.
        Oob = "oob",
    }

    /// The state of the machine.
    enum RunState {
        /// A debugger stopped it.
        Debug = "debug",
        /// An error in the VMM.
        InternalError = "internal-error",
        /// A guest I/O error stopped it.
        IoError = "io-error",
        /// `stop`.
        Paused = "paused",
        /// Not started yet.
        Prelaunch = "prelaunch",
        /// vCPUs run.
        Running = "running",
        /// The guest powered off and the VMM stays.
        Shutdown = "shutdown",
        /// The guest panicked.
        GuestPanicked = "guest-panicked",
    }

    /// Why a machine shut down or was reset (QAPI `ShutdownCause`).
    enum ShutdownCause {
        /// None.
        None = "none",
        /// An error of the host.
        HostError = "host-error",
        /// `quit`.
        HostQmpQuit = "host-qmp-quit",
        /// `system_reset`.
        HostQmpSystemReset = "host-qmp-system-reset",
        /// A signal.
        HostSignal = "host-signal",
        /// The user interface: `--serial stdio`.
        HostUi = "host-ui",
        /// The guest powered off.
        GuestShutdown = "guest-shutdown",
        /// The guest rebooted.
        GuestReset = "guest-reset",
        /// The guest panicked.
        GuestPanic = "guest-panic",
    }

    /// Whether I/O works.
    enum IoStatus {
        /// It does.
        Ok = "ok",
        /// The last operation failed.
        Failed = "failed",
        /// It failed for want of space.
        Nospace = "nospace",
    }

    /// What becomes of zeros that are written.
    enum DetectZeroes {
        /// They are written.
        Off = "off",
        /// They become a zero write.
        On = "on",
        /// They become a discard.
        Unmap = "unmap",
    }

    /// What a job does.
    enum JobType {
        /// Moves a layer down.
        Commit = "commit",
        /// Populates a leaf from its chain.
        Stream = "stream",
        /// Copies a disk and follows its writes.
        Mirror = "mirror",
        /// Copies a disk as it was.
        Backup = "backup",
    }

    /// A job's state.
    enum JobStatus {
        /// Never seen.
        Undefined = "undefined",
        /// Not started.
        Created = "created",
        /// Running.
        Running = "running",
        /// Paused while running.
        Paused = "paused",
        /// Ready to be completed.
        Ready = "ready",
        /// Paused while ready.
        Standby = "standby",
        /// Waits for the others of its transaction.
        Waiting = "waiting",
        /// Waits for `job-finalize`.
        Pending = "pending",
        /// Undoes what it did.
        Aborting = "aborting",
        /// Ended, to be dismissed.
        Concluded = "concluded",
        /// Gone.
        Null = "null",
    }

    /// What a stream copies first.
    enum StreamOrder {
        /// From the disk's start to its end.
        Sequential = "sequential",
        /// What lies near recent reads before the rest.
        HotFirst = "hot-first",
    }

    /// What becomes of a job on an I/O error.
    enum BlockdevOnError {
        /// It fails.
        Report = "report",
        /// It goes on, and fails at its end.
        Ignore = "ignore",
        /// `stop` for want of space, else `report`.
        Enospc = "enospc",
        /// It pauses.
        Stop = "stop",
        /// As `report`.
        Auto = "auto",
    }

    /// How something is exported.
    enum BlockExportType {
        /// By the NBD server.
        Nbd = "nbd",
    }

    /// Whether clients keep an export from going away.
    enum BlockExportRemoveMode {
        /// They do.
        Safe = "safe",
        /// They are disconnected.
        Hard = "hard",
    }

    /// A kind of I/O.
    enum IoOperationType {
        /// A read.
        Read = "read",
        /// A write.
        Write = "write",
    }

    /// What follows on an I/O error.
    enum BlockErrorAction {
        /// It goes on.
        Ignore = "ignore",
        /// The guest, or the job's owner, is told.
        Report = "report",
        /// The machine, or the job, stops.
        Stop = "stop",
    }
}

/// What `block_stream` answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockStreamReply {
    /// One cluster was populated.
    Cluster(BlockStreamInfo),
    /// A background stream started or stopped: `{}`.
    Background(Empty),
}

impl Qapi for BlockStreamReply {
    fn describe() -> Type {
        let of = || vec![BlockStreamInfo::describe(), Empty::describe()];
        Type::Alternate { name: "BlockStreamReply", of }
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        if value.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(BlockStreamReply::Background(Empty {}));
        }
        BlockStreamInfo::parse(path, value).map(BlockStreamReply::Cluster)
    }
}
