//! The types of answers and events, named as in QEMU 10.0's QAPI (`qapi/*.json`). Optional members
//! without a meaning here are left out; docs/qmp.md lists them. Sizes and offsets are in bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::schema::{Qapi, Type, qapi_enum, qapi_struct};

mod block;
mod flight;
mod introspect;
mod keys;
mod node;
mod screen;
mod snapshot;
mod socket;
mod stats;
pub use block::{BlockDeviceInfo, BlockInfo, CacheInfo, DetectZeroes, ImageInfo, IoStatus};
pub use flight::{
    BlockMap, ChardevInfo, DiskFlight, DiskLatency, FlightRequest, IntervalLatency, LatencyInterval,
    RequestKind,
};
pub use introspect::{SchemaInfo, SchemaInfoObjectVariant, SchemaMetaType};
pub use keys::QKeyCode;
pub use node::{
    BlockdevCacheOptions, BlockdevDiscardOptions, BlockdevDriver, BlockdevRef, BlockdevRefOrNull,
};
pub use screen::{
    DisplayProtocol, ImageFormat, InputAxis, InputBtnEvent, InputButton, InputEvent, InputKeyEvent,
    InputMoveEvent, KeyValue, NetworkAddressFamily, SetPasswordAction, VncBasicInfo, VncClientInfo, VncInfo,
    VncServerInfo,
};
pub use snapshot::{
    Abort, ActionCompletionMode, BlockdevChangeReadOnlyMode, NewImageMode, TransactionAction,
    TransactionProperties,
};
pub use socket::{
    InetSocketAddress, SocketAddress, SocketAddressLegacy, SocketAddressType, UnixSocketAddress,
};
pub use stats::{
    BlockDeviceStats, BlockDeviceTimedStats, BlockLatencyHistogramInfo, BlockStats, CopiedInfo, LatencyInfo,
};

qapi_struct! {
    /// The answer `{}`.
    struct Empty {}

    /// Progress of streaming, in the form of the 2011 commands.
    struct BlockStreamInfo {
        /// The disk.
        device: String,
        /// The size of the disk.
        len: u64,
        /// The offset up to which the disk is streamed.
        offset: u64,
        /// With `x-offset`: the bytes that are still absent.
        absent: Option<u64>,
    }

    /// The answer of `query-version`, and a part of the greeting.
    struct VersionInfo {
        /// The version of QEMU whose QMP is spoken.
        qemu: VersionTriple,
        /// The name and version of this program.
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

    /// The answer of `query-name`.
    struct NameInfo {
        /// The machine's name, if it was given one.
        name: Option<String>,
    }

    /// The answer of `query-status`.
    struct StatusInfo {
        /// True if the vCPUs run.
        running: bool,
        /// The state, which says why they run or do not.
        status: RunState,
    }

    /// An entry of `query-block-exports`.
    struct BlockExportInfo {
        /// Its id.
        id: String,
        /// The type of the export.
        kind as "type": BlockExportType,
        /// The node that is exported.
        node_name as "node-name": String,
        /// True if it is being removed.
        shutting_down as "shutting-down": bool,
    }

    /// An entry of `query-block-jobs`.
    struct BlockJobInfo {
        /// The kind of job.
        kind as "type": JobType,
        /// Its id.
        device: String,
        /// The value of `offset` at the end.
        len: u64,
        /// The progress so far.
        offset: u64,
        /// True if it is working right now.
        busy: bool,
        /// True if it is paused, or will pause as soon as it can.
        paused: bool,
        /// Its limit in bytes per second; 0: none.
        speed: u64,
        /// The kind of I/O error that paused it, if any.
        io_status as "io-status": IoStatus,
        /// True if it can be completed.
        ready: bool,
        /// Its state.
        status: JobStatus,
        /// True if it finalizes itself.
        auto_finalize as "auto-finalize": bool,
        /// True if it dismisses itself.
        auto_dismiss as "auto-dismiss": bool,
        /// The reason why it failed or was cancelled, in the C library's words.
        error: Option<String>,
        /// For a mirror: true if source and target are equal, and every write goes to both.
        actively_synced as "actively-synced": Option<bool>,
        /// The error that it failed with or pauses for, in full.
        detail as "x-error": Option<String>,
        /// The way of the guest's writes, of a job that follows its disk.
        copy_mode as "x-copy-mode": Option<MirrorCopyMode>,
        /// The bytes of the guest's writes that are on their way to the image while the guest goes on.
        queued as "x-queued": Option<u64>,
    }

    /// An entry of `query-jobs`.
    struct JobInfo {
        /// Its id.
        id: String,
        /// The kind of job.
        kind as "type": JobType,
        /// Its state.
        status: JobStatus,
        /// The progress so far, in the job's own unit.
        current_progress as "current-progress": u64,
        /// The value of `current-progress` at the end; it may grow.
        total_progress as "total-progress": u64,
        /// The reason why it failed or was cancelled, in the C library's words.
        error: Option<String>,
        /// The error that it failed with or pauses for, in full.
        detail as "x-error": Option<String>,
        /// The findings of an `x-verify`, once it has ended.
        result as "x-result": Option<VerifyResult>,
    }

    /// The result of an `x-verify`.
    struct VerifyResult {
        /// Bytes that were read.
        bytes: u64,
        /// Ranges that could not be read; the first 100.
        unreadable: Vec<DiskRange>,
        /// Ranges whose content has another digest; the first 100.
        differing: Vec<DiskRange>,
    }

    /// A range of a disk.
    struct DiskRange {
        /// Its start, in bytes.
        offset: u64,
        /// Its length, in bytes.
        length: u64,
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
        /// An error in the VMM stopped it.
        InternalError = "internal-error",
        /// A guest I/O error stopped it.
        IoError = "io-error",
        /// The command `stop` stopped it.
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

    /// The cause of a machine's shutdown or reset (QAPI `ShutdownCause`).
    enum ShutdownCause {
        /// No cause.
        None = "none",
        /// An error of the host.
        HostError = "host-error",
        /// The command `quit`.
        HostQmpQuit = "host-qmp-quit",
        /// The command `system_reset`.
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

    /// The kind of a job.
    enum JobType {
        /// Moves a layer down.
        Commit = "commit",
        /// Populates a leaf from its chain.
        Stream = "stream",
        /// Copies a disk and follows its writes.
        Mirror = "mirror",
        /// Copies a disk as it is at the start.
        Backup = "backup",
        /// Reads a disk and compares it with digests. Our own.
        Verify = "x-verify",
    }

    /// The part of a disk that a mirror copies.
    enum MirrorSyncMode {
        /// The leaf alone.
        Top = "top",
        /// All images of the chain.
        Full = "full",
        /// Nothing but the writes from now on.
        None = "none",
        /// The ranges that a dirty bitmap names; there are no bitmaps here.
        Incremental = "incremental",
        /// The same.
        Bitmap = "bitmap",
    }

    /// The way of a guest's writes while a mirror works.
    enum MirrorCopyMode {
        /// They are copied later.
        Background = "background",
        /// They go to both sides before they are answered.
        WriteBlocking = "write-blocking",
    }

    /// A job's state.
    enum JobStatus {
        /// Never reported.
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
        /// Waits for the other jobs of its transaction.
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

    /// The order in which a stream copies.
    enum StreamOrder {
        /// From the disk's start to its end.
        Sequential = "sequential",
        /// The surroundings of recent reads before the rest.
        HotFirst = "hot-first",
    }

    /// The reaction of a job to an I/O error.
    enum BlockdevOnError {
        /// It fails.
        Report = "report",
        /// It goes on, and fails at its end.
        Ignore = "ignore",
        /// `stop` if no space is left, else `report`.
        Enospc = "enospc",
        /// It pauses.
        Stop = "stop",
        /// As `report`.
        Auto = "auto",
    }

    /// The type of an export.
    enum BlockExportType {
        /// By the NBD server.
        Nbd = "nbd",
    }

    /// The treatment of clients when an export is removed.
    enum BlockExportRemoveMode {
        /// The command fails while there are any.
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

    /// The reaction to an I/O error.
    enum BlockErrorAction {
        /// The error is ignored.
        Ignore = "ignore",
        /// The guest, or the job's owner, gets the error.
        Report = "report",
        /// The machine, or the job, stops.
        Stop = "stop",
    }
}

/// The answer of `block_stream`.
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
