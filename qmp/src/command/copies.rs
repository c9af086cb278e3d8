//! Jobs that copy to a node that is described, or to an image of the chain.

use super::prelude::*;

commands! {
    /// Jobs that copy to a node that is described, or to an image of the chain.
    CopyCommands:

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
        /// The size in bytes of what is copied again after a write; unless given, 64 KiB, or a cluster of the
        /// image if that is larger.
        granularity: Option<u32>,
        /// The most bytes of copies in flight; as many as are best unless given, or with 0.
        buf_size as "buf-size": Option<i64>,
        /// True to have the job choose the way of the guest's writes itself: they are copied later, until
        /// that gets nowhere. `copy-mode` must not be `write-blocking` then.
        adaptive as "x-adaptive": Option<bool>,
        /// While writes go to both sides, the bytes that may be on their way to the node while the guest
        /// goes on; 0, none, unless given; at most 1 GiB.
        window as "x-window": Option<u64>,
        /// With `x-adaptive`, the seconds within which the job should be ready, without those of pauses.
        deadline as "x-deadline": Option<u64>,
        /// The limit in milliseconds within which 99 of 100 of the disk's reads and writes should end.
        max_latency as "x-max-latency": Option<u64>,
        /// False to wait for `job-finalize` before the end; true unless given.
        auto_finalize as "auto-finalize": Option<bool>,
        /// False to wait for `job-dismiss` after the end; true unless given.
        auto_dismiss as "auto-dismiss": Option<bool>,
        /// A new file that names the image that owns the disk, durably; see docs/qmp.md.
        witness as "x-witness": Option<String>,
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
        /// A new file that names the image that owns the disk, durably; see docs/qmp.md.
        witness as "x-witness": Option<String>,
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
    } -> Empty
        as {
            text "drive_backup [-n] [-f] device target [format]":
                "copy a disk as it is now to an image (-n: an existing one, -f: without a backing file)",
            hmp::drive_backup => hmp::nothing
        };
}
