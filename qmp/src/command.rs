//! The commands: each is one entry here, from which come its argument structure, its strict parser,
//! its method of [`Handler`], its line in `query-commands` and its schema.
//!
//! To add one, write an entry and, for the VMM to serve it, that method.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::schema::{Qapi, Type, qapi_struct};
use crate::types::*;

/// A command's description.
pub struct CommandInfo {
    /// The name on the wire.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Its arguments: always an object.
    pub arguments: fn() -> Type,
    /// What it answers.
    pub answer: fn() -> Type,
}

/// A command's arguments as a type, which names the command and its answer.
pub trait Request: Serialize + Qapi + Into<Command> {
    /// The name on the wire.
    const NAME: &'static str;
    /// What it answers.
    type Answer: Serialize + DeserializeOwned + Qapi;
}

/// Serializing our own types cannot fail: no map has keys that are not strings.
pub(crate) fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

macro_rules! commands {
    (
        monitor { $($own:tt)* }
        handler { $($theirs:tt)* }
    ) => {
        commands!(@requests $($own)* $($theirs)*);
        commands!(@handler $($theirs)*);
    };
    (@requests $(
        $(#[doc = $doc:literal])*
        $wire:literal $method:ident: $name:ident { $($members:tt)* } -> $answer:ty;
    )*) => {
        qapi_struct! { $($(#[doc = $doc])* struct $name { $($members)* })* }

        $(
            impl Request for $name {
                const NAME: &'static str = $wire;
                type Answer = $answer;
            }

            impl From<$name> for Command {
                fn from(arguments: $name) -> Self {
                    Command::$name(arguments)
                }
            }
        )*

        /// A command with its arguments.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Command {
            $($(#[doc = $doc])* $name($name)),*
        }

        impl Command {
            /// Reads a command.
            ///
            /// # Errors
            /// `CommandNotFound`, or `GenericError` for its arguments, with QEMU's texts.
            pub fn parse(name: &str, arguments: Map<String, Value>) -> Result<Command> {
                match name {
                    $($wire => $name::parse("", arguments.into()).map(Command::$name),)*
                    _ => Err(Error::command_not_found(format!("The command {name} has not been found"))),
                }
            }

            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Command::$name(_) => $wire),*
                }
            }
        }

        /// All commands, in the order of their definition.
        pub const COMMANDS: &[CommandInfo] = &[$(CommandInfo {
            name: $wire,
            doc: concat!($($doc),*).trim_ascii(),
            arguments: <$name as Qapi>::describe,
            answer: <$answer as Qapi>::describe,
        }),*];
    };
    (@handler $(
        $(#[$doc:meta])* $wire:literal $method:ident: $name:ident { $($members:tt)* } -> $answer:ty;
    )*) => {
        /// What serves the commands: the machine.
        ///
        /// A method runs on the monitor's executor as part of a client's task, once at a time for each
        /// client, and always to its end, even where the client is gone. It may await as long as it
        /// needs; other clients are served meanwhile. A method that is left out answers
        /// `CommandNotFound`, "Command NAME has been disabled".
        pub trait Handler {
            $(
                $(#[$doc])*
                fn $method(&self, arguments: $name) -> impl Future<Output = Result<$answer>> {
                    let _ = arguments;
                    async { Err(Error::disabled($wire)) }
                }
            )*
        }

        /// Hands a command to the method that serves it.
        pub(crate) async fn dispatch<H: Handler>(handler: &H, command: Command) -> Result<Value> {
            match command {
                $(Command::$name(arguments) => {
                    handler.$method(arguments).await.map(|answer| to_value(&answer))
                })*
                other => Err(Error::disabled(other.name())),
            }
        }
    };
}

commands! {
    monitor {
        /// Ends the negotiation of capabilities; nothing else is served before it.
        "qmp_capabilities" qmp_capabilities: QmpCapabilities {
            /// Capabilities to enable: none is offered.
            enable: Option<Vec<QMPCapability>>,
        } -> Empty;

        /// Tells the version of QMP and of this program.
        "query-version" query_version: QueryVersion {} -> VersionInfo;

        /// Lists all commands.
        "query-commands" query_commands: QueryCommands {} -> Vec<CommandName>;

        /// Describes all commands and events, and their types.
        "query-qmp-schema" query_qmp_schema: QueryQmpSchema {} -> Vec<SchemaInfo>;

        /// Says whether this connection gets all events of our own, and not only those that follow our own
        /// commands.
        "x-events" x_events: XEvents {
            /// Whether it does.
            enable: bool,
        } -> Empty;

        /// Runs a command of the text monitor and answers what it printed.
        "human-monitor-command" human_monitor_command: HumanMonitorCommand {
            /// The command and its arguments.
            command_line as "command-line": String,
            /// Of which CPU; has no effect.
            cpu_index as "cpu-index": Option<i64>,
        } -> String;
    }
    handler {
        /// Copies one cluster of a disk's backing chain into its image; or starts or stops doing so for all.
        "block_stream" block_stream: BlockStream {
            /// The disk.
            device: String,
            /// Whether to stream everything in the background.
            all: Option<bool>,
            /// Whether to stop the background stream.
            stop: Option<bool>,
            /// Where to look for the cluster, instead of where the last one ended.
            offset as "x-offset": Option<u64>,
        } -> BlockStreamReply;

        /// Lists active background streams.
        "query-block-stream" query_block_stream: QueryBlockStream {} -> Vec<BlockStreamInfo>;

        /// Switches a disk's image or changes a drive's medium while the guest runs; or sets a VNC password.
        "change" change: Change {
            /// The drive, or `vnc`.
            device: String,
            /// The file of the new image, or `password`.
            target: String,
            /// The format (drives), or the password (`vnc`).
            arg: Option<String>,
            /// The format of the new image.
            format: Option<String>,
            /// Whether the guest is told; it is unless this is false.
            notify: Option<bool>,
        } -> Empty;

        /// Opens a removable drive's tray and takes its medium out.
        "eject" eject: Eject {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
            /// Whether to do it while the guest has the tray locked.
            force: Option<bool>,
        } -> Empty;

        /// Opens a removable drive's tray; where the guest has it locked, asks the guest.
        "blockdev-open-tray" blockdev_open_tray: BlockdevOpenTray {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
            /// Whether to do it while the guest has the tray locked.
            force: Option<bool>,
        } -> Empty;

        /// Closes a removable drive's tray.
        "blockdev-close-tray" blockdev_close_tray: BlockdevCloseTray {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
        } -> Empty;

        /// Changes a removable drive's medium.
        "blockdev-change-medium" blockdev_change_medium: BlockdevChangeMedium {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
            /// The file of the new medium.
            filename: String,
            /// Its format; raw unless given.
            format: Option<String>,
            /// Whether to do it while the guest has the tray locked.
            force: Option<bool>,
            /// Whether the new medium is written; a CD-ROM's is not.
            read_only_mode as "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
        } -> Empty;

        /// Sets a disk's size while the guest runs.
        "block_resize" block_resize: BlockResize {
            /// The disk.
            device: Option<String>,
            /// The node.
            node_name as "node-name": Option<String>,
            /// The new size in bytes.
            size: i64,
        } -> Empty;

        /// Lists drives and their images.
        "query-block" query_block: QueryBlock {} -> Vec<BlockInfo>;

        /// Lists the images of all drives' chains.
        "query-named-block-nodes" query_named_block_nodes: QueryNamedBlockNodes {
            /// Whether the images behind each one are left out of its description.
            flat: Option<bool>,
        } -> Vec<BlockDeviceInfo>;

        /// Tells what drives have done.
        "query-blockstats" query_blockstats: QueryBlockstats {
            /// Whether all images are listed, instead of drives.
            query_nodes as "query-nodes": Option<bool>,
        } -> Vec<BlockStats>;

        /// Creates an image over a disk's running one and switches to it.
        "blockdev-snapshot-sync" blockdev_snapshot_sync: BlockdevSnapshotSync {
            /// The disk.
            device: Option<String>,
            /// Its running image.
            node_name as "node-name": Option<String>,
            /// The file of the new image.
            snapshot_file as "snapshot-file": String,
            /// The node name of the new image.
            snapshot_node_name as "snapshot-node-name": Option<String>,
            /// The format of the new image; qcow2 unless given.
            format: Option<String>,
            /// Whether the new image is created; it is unless given.
            mode: Option<NewImageMode>,
        } -> Empty;

        /// Does several things to several disks, all at one point in time, or none of them.
        "transaction" transaction: Transaction {
            /// The steps.
            actions: Vec<TransactionAction>,
            /// What holds for all of them.
            properties: Option<TransactionProperties>,
        } -> Empty;

        /// Creates an image over a disk's running one, switches to it and streams everything into it.
        "x-live-copy" x_live_copy: XLiveCopy {
            /// The disk.
            device: String,
            /// The file of the new image.
            target: String,
            /// Its format.
            format: String,
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The job's limit in bytes a second; 0: none.
            speed: Option<i64>,
            /// Whether the guest is told of the switch; it is unless this is false.
            notify: Option<bool>,
        } -> Empty;

        /// Starts the NBD server.
        "nbd-server-start" nbd_server_start: NbdServerStart {
            /// Where it listens.
            addr: SocketAddressLegacy,
            /// How many clients it serves at once; 0: any number. 100 unless given.
            max_connections as "max-connections": Option<u32>,
            /// Seconds within which a client must choose an export; 0: no limit. 10 unless given.
            handshake_max_seconds as "handshake-max-seconds": Option<u32>,
            /// The id of a `--tls-creds`: clients must begin with TLS.
            tls_creds as "tls-creds": Option<String>,
        } -> Empty;

        /// Exports a disk by the NBD server.
        "nbd-server-add" nbd_server_add: NbdServerAdd {
            /// The export's name and id; the disk's unless given.
            name: Option<String>,
            /// What clients are told of it.
            description: Option<String>,
            /// The disk.
            device: String,
            /// Whether clients may write; they may not unless given. A read-only disk never is.
            writable: Option<bool>,
        } -> Empty;

        /// Ends an export of the NBD server.
        "nbd-server-remove" nbd_server_remove: NbdServerRemove {
            /// Its id.
            name: String,
            /// What becomes of its clients; `safe` unless given.
            mode: Option<BlockExportRemoveMode>,
        } -> Empty;

        /// Stops the NBD server and ends its exports.
        "nbd-server-stop" nbd_server_stop: NbdServerStop {} -> Empty;

        /// Exports a disk.
        "block-export-add" block_export_add: BlockExportAdd {
            /// How.
            kind as "type": BlockExportType,
            /// The export's id.
            id: String,
            /// The disk.
            node_name as "node-name": String,
            /// Whether clients may write; they may not unless given.
            writable: Option<bool>,
            /// Whether each write is flushed before it is answered; it is not unless given.
            writethrough: Option<bool>,
            /// The name that clients ask for; the disk's unless given.
            name: Option<String>,
            /// What clients are told of it.
            description: Option<String>,
        } -> Empty;

        /// Ends an export.
        "block-export-del" block_export_del: BlockExportDel {
            /// Its id.
            id: String,
            /// What becomes of its clients; `safe` unless given.
            mode: Option<BlockExportRemoveMode>,
        } -> Empty;

        /// Lists exports, the newest first.
        "query-block-exports" query_block_exports: QueryBlockExports {} -> Vec<BlockExportInfo>;

        /// Starts to copy what a disk's backing chain has into its image, as a job.
        "block-stream" block_stream_job: BlockStreamJob {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of an image of its chain.
            device: String,
            /// The file that becomes the backing file; none unless given, and the whole chain is copied.
            base: Option<String>,
            /// The same, by its node name.
            base_node as "base-node": Option<String>,
            /// What is recorded as the name of the backing file.
            backing_file as "backing-file": Option<String>,
            /// Whether the format of a base that is used by a protocol alone is recorded as raw: all bases
            /// here have a format, so that it changes nothing.
            backing_mask_protocol as "backing-mask-protocol": Option<bool>,
            /// The last node that is copied.
            bottom: Option<String>,
            /// Bytes a second; 0: no limit.
            speed: Option<i64>,
            /// What becomes of the job on an error; `report` unless given.
            on_error as "on-error": Option<BlockdevOnError>,
            /// A name for the job's filter node. It must be free, and no node gets it: a stream has no filter
            /// here.
            filter_node_name as "filter-node-name": Option<String>,
            /// Whether it finalizes itself; it does unless this is false.
            auto_finalize as "auto-finalize": Option<bool>,
            /// Whether it leaves the table by itself; it does unless this is false.
            auto_dismiss as "auto-dismiss": Option<bool>,
            /// What is copied first; `sequential` unless given.
            order as "x-order": Option<StreamOrder>,
            /// A file of ranges that are copied first, in its order.
            trace as "x-trace": Option<String>,
            /// A file for what is read meanwhile, as a trace for later streams.
            record_trace as "x-record-trace": Option<String>,
            /// Milliseconds within which 99 of 100 of the disk's reads and writes shall end.
            max_latency as "x-max-latency": Option<u64>,
        } -> Empty;

        /// Limits a job's speed.
        "block-job-set-speed" block_job_set_speed: BlockJobSetSpeed {
            /// The job: the disk's name for a background stream.
            device: String,
            /// Bytes a second; 0: no limit.
            speed: i64,
        } -> Empty;

        /// Cancels a job.
        "block-job-cancel" block_job_cancel: BlockJobCancel {
            /// The job.
            device: String,
            /// Whether a job that is paused or ready is cancelled too.
            force: Option<bool>,
        } -> Empty;

        /// Pauses a job.
        "block-job-pause" block_job_pause: BlockJobPause {
            /// The job.
            device: String,
        } -> Empty;

        /// Lets a paused job go on.
        "block-job-resume" block_job_resume: BlockJobResume {
            /// The job.
            device: String,
        } -> Empty;

        /// Completes a job that is ready.
        "block-job-complete" block_job_complete: BlockJobComplete {
            /// The job.
            device: String,
        } -> Empty;

        /// Makes the result of a job final.
        "block-job-finalize" block_job_finalize: BlockJobFinalize {
            /// The job.
            id: String,
        } -> Empty;

        /// Forgets a job that has ended.
        "block-job-dismiss" block_job_dismiss: BlockJobDismiss {
            /// The job.
            id: String,
        } -> Empty;

        /// Pauses a job.
        "job-pause" job_pause: JobPause {
            /// The job.
            id: String,
        } -> Empty;

        /// Lets a paused job go on.
        "job-resume" job_resume: JobResume {
            /// The job.
            id: String,
        } -> Empty;

        /// Cancels a job.
        "job-cancel" job_cancel: JobCancel {
            /// The job.
            id: String,
        } -> Empty;

        /// Completes a job that is ready.
        "job-complete" job_complete: JobComplete {
            /// The job.
            id: String,
        } -> Empty;

        /// Makes the result of a job final.
        "job-finalize" job_finalize: JobFinalize {
            /// The job.
            id: String,
        } -> Empty;

        /// Forgets a job that has ended.
        "job-dismiss" job_dismiss: JobDismiss {
            /// The job.
            id: String,
        } -> Empty;

        /// Lists block jobs.
        "query-block-jobs" query_block_jobs: QueryBlockJobs {} -> Vec<BlockJobInfo>;

        /// Lists jobs.
        "query-jobs" query_jobs: QueryJobs {} -> Vec<JobInfo>;

        /// Tells whether the machine runs.
        "query-status" query_status: QueryStatus {} -> StatusInfo;

        /// Tells the machine's name.
        "query-name" query_name: QueryName {} -> NameInfo;

        /// Stops the vCPUs and the guest's I/O.
        "stop" stop: Stop {} -> Empty;

        /// Lets a stopped machine go on.
        "cont" cont: Cont {} -> Empty;

        /// Asks the guest to power off.
        "system_powerdown" system_powerdown: SystemPowerdown {} -> Empty;

        /// Resets the machine.
        "system_reset" system_reset: SystemReset {} -> Empty;

        /// Ends the program.
        "quit" quit: Quit {} -> Empty;
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
