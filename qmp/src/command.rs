//! The commands, in groups by subject. Each is one entry here, which generates its argument structure, its
//! strict parser, its method in the trait of its group, its line in `query-commands` and its schema.
//!
//! To add a command, write an entry, and implement its method in the program.
//!
//! An entry can end with its form in the text monitor, `as { ... }`:
//!
//! - `text USAGE or ALIAS: HELP, READ => PRINT` is a command of its own. `READ` makes the command's arguments
//!   of the words of a line, and `PRINT` makes the text of its answer.
//! - `info TOPIC: READ => PRINT` is a topic of `info`.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::hmp;
use crate::schema::{Qapi, Type, qapi_struct};
use crate::types::*;

/// A command's description.
pub struct CommandInfo {
    /// The name on the wire.
    pub name: &'static str,
    /// A description in one line.
    pub doc: &'static str,
    /// Its arguments: always an object.
    pub arguments: fn() -> Type,
    /// The type of its answer.
    pub answer: fn() -> Type,
}

/// A command's arguments as a type, which names the command and its answer.
pub trait Request: Serialize + Qapi + Into<Command> {
    /// The name on the wire.
    const NAME: &'static str;
    /// The type of its answer.
    type Answer: Serialize + DeserializeOwned + Qapi;
}

/// Converts a value to JSON. This cannot fail for our own types: no map has keys that are not strings.
pub(crate) fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

commands! {
    /// Commands that the monitor serves itself.
    monitor {
        /// Ends the negotiation of capabilities; nothing else is served before it.
        "qmp_capabilities" qmp_capabilities: QmpCapabilities {
            /// Capabilities to enable; none is offered.
            enable: Option<Vec<QMPCapability>>,
        } -> Empty;

        /// Returns the version of QMP and of this program.
        "query-version" query_version: QueryVersion {} -> VersionInfo
            as { info "version": |_| Ok(QueryVersion {}) => hmp::version };

        /// Lists all commands.
        "query-commands" query_commands: QueryCommands {} -> Vec<CommandName>;

        /// Describes all commands and events, and their types.
        "query-qmp-schema" query_qmp_schema: QueryQmpSchema {} -> Vec<SchemaInfo>;

        /// Selects whether this connection gets all events of our own, or only those after our own commands.
        "x-events" x_events: XEvents {
            /// True to get all of them.
            enable: bool,
        } -> Empty;

        /// Runs a command of the text monitor and returns what it printed.
        "human-monitor-command" human_monitor_command: HumanMonitorCommand {
            /// The command and its arguments.
            command_line as "command-line": String,
            /// The CPU to run it for; has no effect.
            cpu_index as "cpu-index": Option<i64>,
        } -> String;
    }
    /// Disks, their images and counters.
    DiskCommands {
        /// Switches a disk's image or changes a drive's medium while the guest runs, or sets the password of
        /// the VNC server.
        "change" change: Change {
            /// The drive, or `vnc`.
            device: String,
            /// The file of the new image, or `password` for `vnc`.
            target: String,
            /// The format (drives), or the password (`vnc`).
            arg: Option<String>,
            /// The format of the new image.
            format: Option<String>,
            /// False to hide the switch from the guest; true unless given.
            notify: Option<bool>,
        } -> Empty
            as {
                text "change [-n] device target [format]": "switch a disk's image (-n: do not notify the guest); or: change vnc password [text]",
                hmp::change => hmp::nothing
            };

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
        "query-block" query_block: QueryBlock {} -> Vec<BlockInfo>
            as { info "block": |_| Ok(QueryBlock {}) => hmp::blocks };

        /// Lists the images of all drives' chains.
        "query-named-block-nodes" query_named_block_nodes: QueryNamedBlockNodes {
            /// True to leave the images behind each one out of its description.
            flat: Option<bool>,
        } -> Vec<BlockDeviceInfo>;

        /// Returns counters of the drives' requests and jobs.
        "query-blockstats" query_blockstats: QueryBlockstats {
            /// True to list all images instead of drives.
            query_nodes as "query-nodes": Option<bool>,
        } -> Vec<BlockStats>;
    }
    /// Figures of disks for clients that draw them, and the guest's lines.
    WatchCommands {
        /// Returns the state of a disk's clusters, or of those that have changed.
        "x-query-block-map" x_query_block_map: XQueryBlockMap {
            /// The disk.
            device: String,
            /// The generation of an earlier answer; all cells unless given.
            since: Option<u64>,
            /// The first cell; 0 unless given.
            first: Option<u64>,
            /// The number of cells; all that follow unless given.
            cells: Option<u64>,
            /// The size of a cell in bytes, a power of two. Unless given, a cluster, or so many that the
            /// disk has 1,048,576 cells at most.
            cell_size as "cell-size": Option<u64>,
        } -> BlockMap;

        /// Returns a disk's latencies in intervals of 100 ms, of the last ten minutes.
        "x-query-latency" x_query_latency: XQueryLatency {
            /// The disk.
            device: String,
            /// The first interval, as `next` of an earlier answer; the oldest unless given.
            since: Option<u64>,
        } -> DiskLatency;

        /// Returns each request around a disk's last switch.
        "x-query-flight" x_query_flight: XQueryFlight {
            /// The disk.
            device: String,
            /// The first request; 0 unless given. An answer has 4,096 at most.
            first: Option<u64>,
        } -> DiskFlight;

        /// Lists the guest's serial ports and consoles.
        "query-chardev" query_chardev: QueryChardev {} -> Vec<ChardevInfo>;
    }
    /// Images that a client describes for later use.
    NodeCommands {
        /// Describes an image, or the file of one, under a node name. A job opens it.
        "blockdev-add" blockdev_add: BlockdevAdd {
            /// The format, or the protocol, of the node.
            driver: BlockdevDriver,
            /// Its name; only a node inside of another's description may have none.
            node_name as "node-name": Option<String>,
            /// The treatment of discards, which has no effect: that is a property of the disk.
            discard: Option<BlockdevDiscardOptions>,
            /// The caching by the host; that of the disk that uses it unless given.
            cache: Option<BlockdevCacheOptions>,
            /// True for a node that must not be written; false unless given.
            read_only as "read-only": Option<bool>,
            /// True to let `read-only` give way where a node cannot be written; has no effect, since a job
            /// writes to its target.
            auto_read_only as "auto-read-only": Option<bool>,
            /// The treatment of zeros that are written: only `off`.
            detect_zeroes as "detect-zeroes": Option<DetectZeroes>,
            /// Formats: the node of the image's file.
            file: Option<BlockdevRef>,
            /// qcow2 and QED: `null` for an image that records no backing file.
            backing: Option<BlockdevRefOrNull>,
            /// `file` and `host_device`: the path.
            filename: Option<String>,
            /// `nbd`: the server.
            server: Option<SocketAddress>,
            /// `nbd`: the name of the export; empty unless given.
            export: Option<String>,
        } -> Empty;

        /// Removes the description of an image.
        "blockdev-del" blockdev_del: BlockdevDel {
            /// The node.
            node_name as "node-name": String,
        } -> Empty;
    }
    /// Removable drives.
    TrayCommands {
        /// Opens a removable drive's tray and takes its medium out.
        "eject" eject: Eject {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
            /// True to do it even if the guest has the tray locked.
            force: Option<bool>,
        } -> Empty
            as {
                text "eject [-f] device": "take a removable drive's medium out (-f: also while the guest has it locked)",
                hmp::eject => hmp::nothing
            };

        /// Opens a removable drive's tray; if the guest has it locked, asks the guest.
        "blockdev-open-tray" blockdev_open_tray: BlockdevOpenTray {
            /// The drive.
            device: Option<String>,
            /// The same, by the id of the guest's device.
            id: Option<String>,
            /// True to do it even if the guest has the tray locked.
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
            /// True to do it even if the guest has the tray locked.
            force: Option<bool>,
            /// Selects whether the new medium is writable; that of a CD-ROM never is.
            read_only_mode as "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
        } -> Empty;
    }
    /// Overlays, and several disks at once.
    SnapshotCommands {
        /// Creates an overlay of a disk's leaf and switches the disk to it.
        "blockdev-snapshot-sync" blockdev_snapshot_sync: BlockdevSnapshotSync {
            /// The disk.
            device: Option<String>,
            /// The node name of its leaf.
            node_name as "node-name": Option<String>,
            /// The file of the overlay.
            snapshot_file as "snapshot-file": String,
            /// The node name of the overlay.
            snapshot_node_name as "snapshot-node-name": Option<String>,
            /// The format of the overlay; qcow2 unless given.
            format: Option<String>,
            /// The source of the overlay's file; it is created unless given.
            mode: Option<NewImageMode>,
        } -> Empty;

        /// Does several things to several disks, all at one point in time, or does nothing.
        "transaction" transaction: Transaction {
            /// The steps.
            actions: Vec<TransactionAction>,
            /// Properties of the whole transaction.
            properties: Option<TransactionProperties>,
        } -> Empty;

        /// Creates an overlay of a disk's leaf, switches to it and streams everything into it.
        "x-live-copy" x_live_copy: XLiveCopy {
            /// The disk.
            device: String,
            /// The file of the overlay.
            target: String,
            /// Its format.
            format: String,
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// False to hide the switch from the guest; true unless given.
            notify: Option<bool>,
        } -> Empty;
    }
    /// Streams and other jobs.
    JobCommands {
        /// Copies one cluster of a disk's backing chain into its leaf; with `all` or `stop`, starts or
        /// stops copying everything in the background.
        "block_stream" block_stream: BlockStream {
            /// The disk.
            device: String,
            /// True to stream everything in the background.
            all: Option<bool>,
            /// True to stop the background stream.
            stop: Option<bool>,
            /// The offset to look for the cluster from; the end of the last one unless given.
            offset as "x-offset": Option<u64>,
        } -> BlockStreamReply
            as {
                text "block_stream [-a|-s] device": "copy one cluster from the backing chain (-a: all, -s: stop)",
                hmp::block_stream => hmp::nothing
            };

        /// Lists active background streams.
        "query-block-stream" query_block_stream: QueryBlockStream {} -> Vec<BlockStreamInfo>
            as { info "block-stream": |_| Ok(QueryBlockStream {}) => hmp::streams };

        /// Starts a job that copies the data of an image's backing chain into that image.
        "block-stream" block_stream_job: BlockStreamJob {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of an image of its chain.
            device: String,
            /// The file of the image that becomes the backing file; without it, the whole chain is copied.
            base: Option<String>,
            /// The same, by its node name.
            base_node as "base-node": Option<String>,
            /// The name to record for the backing file.
            backing_file as "backing-file": Option<String>,
            /// True to record the format of a base that is used by a protocol alone as raw. It has no
            /// effect, since all bases here have a format.
            backing_mask_protocol as "backing-mask-protocol": Option<bool>,
            /// The node name of the last image that is copied.
            bottom: Option<String>,
            /// The limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The reaction to an I/O error; `report` unless given.
            on_error as "on-error": Option<BlockdevOnError>,
            /// A name for the job's filter node, which must not be in use. No node gets it: a stream has
            /// no filter here.
            filter_node_name as "filter-node-name": Option<String>,
            /// False to wait for `job-finalize` at the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to keep the job after its end until `job-dismiss`; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
            /// The order of copying; `sequential` unless given.
            order as "x-order": Option<StreamOrder>,
            /// A trace file, whose ranges are copied first, in its order.
            trace as "x-trace": Option<String>,
            /// A file to record the guest's reads in meanwhile, as a trace for later streams.
            record_trace as "x-record-trace": Option<String>,
            /// The limit in milliseconds within which 99 of 100 of the disk's reads and writes should end.
            max_latency as "x-max-latency": Option<u64>,
        } -> Empty;

        /// Starts a job that copies a disk to an image and then follows the disk, until the disk moves there
        /// (`job-complete`) or leaves it behind (`block-job-cancel`).
        "drive-mirror" drive_mirror: DriveMirror {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk.
            device: String,
            /// The image's file.
            target: String,
            /// Its format; that of the disk's leaf unless given.
            format: Option<String>,
            /// Its node name.
            node_name as "node-name": Option<String>,
            /// The part of the disk that is copied.
            sync: MirrorSyncMode,
            /// `existing` for an image that is there, `absolute-paths` for one to be created; the latter
            /// unless given.
            mode: Option<NewImageMode>,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The policy for errors of the disk; `report` unless given.
            on_source_error as "on-source-error": Option<BlockdevOnError>,
            /// The policy for errors of the image; `report` unless given.
            on_target_error as "on-target-error": Option<BlockdevOnError>,
            /// The way of the guest's writes; `background` unless given.
            copy_mode as "copy-mode": Option<MirrorCopyMode>,
            /// False to wait for `job-finalize` before the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to wait for `job-dismiss` after the end; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
        } -> Empty;

        /// Starts a job that reads a disk's whole chain, and compares it with digests. It waits for
        /// `job-dismiss` at its end; until then `query-jobs` shows its `x-result`.
        "x-verify" x_verify: XVerify {
            /// The disk.
            device: String,
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// A file with lines of `OFFSET LENGTH SHA256`. Without it, the job only finds what cannot
            /// be read.
            digests: Option<String>,
        } -> Empty;

        /// Limits a job's speed.
        "block-job-set-speed" block_job_set_speed: BlockJobSetSpeed {
            /// The job: the disk's name for a background stream.
            device: String,
            /// The limit in bytes per second; 0: none.
            speed: i64,
        } -> Empty;

        /// Cancels a job.
        "block-job-cancel" block_job_cancel: BlockJobCancel {
            /// The job.
            device: String,
            /// True to cancel the job even if it is paused.
            force: Option<bool>,
        } -> Empty;

        /// Pauses a job.
        "block-job-pause" block_job_pause: BlockJobPause {
            /// The job.
            device: String,
        } -> Empty;

        /// Resumes a paused job.
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

        /// Removes a job that has ended.
        "block-job-dismiss" block_job_dismiss: BlockJobDismiss {
            /// The job.
            id: String,
        } -> Empty;

        /// Pauses a job.
        "job-pause" job_pause: JobPause {
            /// The job.
            id: String,
        } -> Empty;

        /// Resumes a paused job.
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

        /// Removes a job that has ended.
        "job-dismiss" job_dismiss: JobDismiss {
            /// The job.
            id: String,
        } -> Empty;

        /// Lists block jobs.
        "query-block-jobs" query_block_jobs: QueryBlockJobs {} -> Vec<BlockJobInfo>
            as { info "block-jobs": |_| Ok(QueryBlockJobs {}) => hmp::block_jobs };

        /// Lists jobs.
        "query-jobs" query_jobs: QueryJobs {} -> Vec<JobInfo>;
    }
    /// Jobs that copy to a node that is described, or to an image of the chain.
    CopyCommands {
        /// Starts a mirror to a node of `blockdev-add`, which then is as one of `drive-mirror`.
        "blockdev-mirror" blockdev_mirror: BlockdevMirror {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of its leaf.
            device: String,
            /// The node.
            target: String,
            /// The part of the disk that is copied.
            sync: MirrorSyncMode,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The policy for errors of the disk; `report` unless given.
            on_source_error as "on-source-error": Option<BlockdevOnError>,
            /// The policy for errors of the node; `report` unless given.
            on_target_error as "on-target-error": Option<BlockdevOnError>,
            /// A name for the job's filter node, which must not be in use. No node gets it: a filter is no
            /// node here.
            filter_node_name as "filter-node-name": Option<String>,
            /// The way of the guest's writes; `background` unless given.
            copy_mode as "copy-mode": Option<MirrorCopyMode>,
            /// False to wait for `job-finalize` before the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to wait for `job-dismiss` after the end; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
        } -> Empty;

        /// Starts a job that moves what images of a disk's chain hold into an image behind them. If they
        /// begin with the disk's leaf, the disk moves there by `job-complete`.
        "block-commit" block_commit: BlockCommit {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of its leaf.
            device: String,
            /// The node name of the image that is written; the last of the chain unless given.
            base_node as "base-node": Option<String>,
            /// The same, by its file.
            base: Option<String>,
            /// The node name of the first image that is moved; the leaf unless given.
            top_node as "top-node": Option<String>,
            /// The same, by its file.
            top: Option<String>,
            /// The name that the image above the first one records for its new backing file.
            backing_file as "backing-file": Option<String>,
            /// True to record the format of a base that is used by a protocol alone as raw. It has no
            /// effect, since all bases here have a format.
            backing_mask_protocol as "backing-mask-protocol": Option<bool>,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The reaction to an I/O error; `report` unless given.
            on_error as "on-error": Option<BlockdevOnError>,
            /// A name for the job's filter node, which must not be in use. No node gets it: a filter is no
            /// node here.
            filter_node_name as "filter-node-name": Option<String>,
            /// False to wait for `job-finalize` before the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to wait for `job-dismiss` after the end; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
        } -> Empty;

        /// Starts a job that copies a disk, as it is now, to a node of `blockdev-add`.
        "blockdev-backup" blockdev_backup: BlockdevBackup {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of its leaf.
            device: String,
            /// The node.
            target: String,
            /// The part of the disk that is copied; with `none`, what the guest changes, until the job is
            /// cancelled.
            sync: MirrorSyncMode,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The policy for errors of the disk; `report` unless given.
            on_source_error as "on-source-error": Option<BlockdevOnError>,
            /// The policy for errors of the target; `report` unless given.
            on_target_error as "on-target-error": Option<BlockdevOnError>,
            /// False to wait for `job-finalize` before the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to wait for `job-dismiss` after the end; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
            /// A name for the job's filter node, which must not be in use. No node gets it: a filter is no
            /// node here.
            filter_node_name as "filter-node-name": Option<String>,
        } -> Empty;

        /// Starts a job that copies a disk, as it is now, to an image.
        "drive-backup" drive_backup: DriveBackup {
            /// The job's id; the disk's name unless given.
            job_id as "job-id": Option<String>,
            /// The disk, or the node name of its leaf.
            device: String,
            /// The image's file.
            target: String,
            /// Its format; that of the disk's leaf unless given.
            format: Option<String>,
            /// `existing` for an image that is there, `absolute-paths` for one to be created; the latter
            /// unless given.
            mode: Option<NewImageMode>,
            /// The part of the disk that is copied; with `none`, what the guest changes, until the job is
            /// cancelled.
            sync: MirrorSyncMode,
            /// The job's limit in bytes per second; 0: none.
            speed: Option<i64>,
            /// The policy for errors of the disk; `report` unless given.
            on_source_error as "on-source-error": Option<BlockdevOnError>,
            /// The policy for errors of the target; `report` unless given.
            on_target_error as "on-target-error": Option<BlockdevOnError>,
            /// False to wait for `job-finalize` before the end; true unless given.
            auto_finalize as "auto-finalize": Option<bool>,
            /// False to wait for `job-dismiss` after the end; true unless given.
            auto_dismiss as "auto-dismiss": Option<bool>,
            /// A name for the job's filter node, which must not be in use. No node gets it: a filter is no
            /// node here.
            filter_node_name as "filter-node-name": Option<String>,
        } -> Empty;
    }
    /// The NBD server and its exports.
    ExportCommands {
        /// Starts the NBD server.
        "nbd-server-start" nbd_server_start: NbdServerStart {
            /// The address to listen on.
            addr: SocketAddressLegacy,
            /// The most clients at a time; 0: any number. 100 unless given.
            max_connections as "max-connections": Option<u32>,
            /// Seconds within which a client must choose an export; 0: no limit. 10 unless given.
            handshake_max_seconds as "handshake-max-seconds": Option<u32>,
            /// The id of a `--tls-creds`; with it, clients must begin with TLS.
            tls_creds as "tls-creds": Option<String>,
        } -> Empty;

        /// Exports a disk by the NBD server.
        "nbd-server-add" nbd_server_add: NbdServerAdd {
            /// The export's name and id; the disk's unless given.
            name: Option<String>,
            /// A description for clients.
            description: Option<String>,
            /// The disk.
            device: String,
            /// True to let clients write; false unless given. A read-only disk is never writable.
            writable: Option<bool>,
        } -> Empty;

        /// Ends an export of the NBD server.
        "nbd-server-remove" nbd_server_remove: NbdServerRemove {
            /// Its id.
            name: String,
            /// The treatment of its clients; `safe` unless given.
            mode: Option<BlockExportRemoveMode>,
        } -> Empty;

        /// Stops the NBD server and ends its exports.
        "nbd-server-stop" nbd_server_stop: NbdServerStop {} -> Empty;

        /// Exports a disk.
        "block-export-add" block_export_add: BlockExportAdd {
            /// The type of the export.
            kind as "type": BlockExportType,
            /// The export's id.
            id: String,
            /// The disk.
            node_name as "node-name": String,
            /// True to let clients write; false unless given.
            writable: Option<bool>,
            /// True to flush each write before it is answered; false unless given.
            writethrough: Option<bool>,
            /// The name that clients ask for; the disk's unless given.
            name: Option<String>,
            /// A description for clients.
            description: Option<String>,
        } -> Empty;

        /// Ends an export.
        "block-export-del" block_export_del: BlockExportDel {
            /// Its id.
            id: String,
            /// The treatment of its clients; `safe` unless given.
            mode: Option<BlockExportRemoveMode>,
        } -> Empty;

        /// Lists exports, the newest first.
        "query-block-exports" query_block_exports: QueryBlockExports {} -> Vec<BlockExportInfo>;
    }
    /// The screen, and the guest's keyboard and pointer.
    ScreenCommands {
        /// Returns the VNC server's address and clients.
        "query-vnc" query_vnc: QueryVnc {} -> VncInfo
            as { info "vnc": |_| Ok(QueryVnc {}) => hmp::vnc };

        /// Sets the password of the VNC server.
        "set_password" set_password: SetPassword {
            /// The protocol: `vnc`.
            protocol: DisplayProtocol,
            /// The password, of which 8 bytes count.
            password: String,
            /// What happens to clients: `keep`, the default, is the only choice.
            connected: Option<SetPasswordAction>,
            /// The server; there is one.
            display: Option<String>,
        } -> Empty;

        /// Sets the time from which on the VNC server's password lets nobody in.
        "expire_password" expire_password: ExpirePassword {
            /// The protocol: `vnc`.
            protocol: DisplayProtocol,
            /// `now`, `never`, `+SECONDS` from now, or seconds since 1970.
            time: String,
            /// The server; there is one.
            display: Option<String>,
        } -> Empty;

        /// Writes a picture of the screen to a file.
        "screendump" screendump: Screendump {
            /// The file, which is replaced.
            filename: String,
            /// The screen; there is one.
            device: Option<String>,
            /// The head of the screen; there is one.
            head: Option<i64>,
            /// The format; `ppm` unless given.
            format: Option<ImageFormat>,
        } -> Empty
            as {
                text "screendump filename [format]": "write a picture of the screen (ppm or png)",
                hmp::screendump => hmp::nothing
            };

        /// Presses keys one after the other, and releases them together.
        "send-key" send_key: SendKey {
            /// The keys.
            keys: Vec<KeyValue>,
            /// The time between the last press and the releases in milliseconds; 100 unless given.
            hold_time as "hold-time": Option<i64>,
        } -> Empty
            as {
                text "sendkey keys [hold-ms]": "press keys together, such as ctrl-alt-f1 (names, or 0x and a scancode)",
                hmp::send_key => hmp::nothing
            };

        /// Sends events of keyboard and pointer to the guest.
        "input-send-event" input_send_event: InputSendEvent {
            /// The screen; there is one.
            device: Option<String>,
            /// The head of the screen; there is one.
            head: Option<i64>,
            /// The events.
            events: Vec<InputEvent>,
        } -> Empty;
    }
    /// The machine and the program.
    MachineCommands {
        /// Returns the machine's state.
        "query-status" query_status: QueryStatus {} -> StatusInfo
            as { info "status": |_| Ok(QueryStatus {}) => hmp::status };

        /// Returns the machine's name.
        "query-name" query_name: QueryName {} -> NameInfo;

        /// Stops the vCPUs and the guest's I/O.
        "stop" stop: Stop {} -> Empty
            as { text "stop" or "s": "stop the machine", |_| Ok(Stop {}) => hmp::nothing };

        /// Resumes a stopped machine.
        "cont" cont: Cont {} -> Empty
            as { text "cont" or "c": "resume a stopped machine", |_| Ok(Cont {}) => hmp::nothing };

        /// Asks the guest to power off.
        "system_powerdown" system_powerdown: SystemPowerdown {} -> Empty
            as {
                text "system_powerdown": "ask the guest to power off",
                |_| Ok(SystemPowerdown {}) => hmp::nothing
            };

        /// Resets the machine.
        "system_reset" system_reset: SystemReset {} -> Empty
            as { text "system_reset": "reset the machine", |_| Ok(SystemReset {}) => hmp::nothing };

        /// Ends the program.
        "quit" quit: Quit {} -> Empty
            as { text "quit" or "q": "end the program", |_| Ok(Quit {}) => hmp::nothing };
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
