//! Streams and other jobs.

use super::prelude::*;

commands! {
    /// Streams and other jobs.
    JobCommands:

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
        /// The size in bytes of what is copied again after a write; unless given, 64 KiB, or a cluster of the
        /// image if that is larger.
        granularity: Option<u32>,
        /// The most bytes of copies in flight; as many as are best unless given, or with 0.
        buf_size as "buf-size": Option<i64>,
        /// True to have the job choose the way of the guest's writes itself: they are copied later, until
        /// that gets nowhere. `copy-mode` must not be `write-blocking` then.
        adaptive as "x-adaptive": Option<bool>,
        /// While writes go to both sides, the bytes that may be on their way to the image while the guest
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
    } -> Empty
        as {
            text "drive_mirror [-n] [-f] device target [format]":
                "copy a disk to an image that follows it (-n: an existing one, -f: without a backing file)",
            hmp::drive_mirror => hmp::nothing
        };

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
    } -> Empty
        as {
            text "block_job_cancel [-f] device": "cancel a job (-f: also one that is paused or ready)",
            hmp::block_job_cancel => hmp::nothing
        };

    /// Pauses a job.
    "block-job-pause" block_job_pause: BlockJobPause {
        /// The job.
        device: String,
    } -> Empty
        as {
            text "block_job_pause device": "pause a job",
            |arguments| hmp::job(arguments, |device| BlockJobPause { device }) => hmp::nothing
        };

    /// Resumes a paused job.
    "block-job-resume" block_job_resume: BlockJobResume {
        /// The job.
        device: String,
    } -> Empty
        as {
            text "block_job_resume device": "resume a paused job",
            |arguments| hmp::job(arguments, |device| BlockJobResume { device }) => hmp::nothing
        };

    /// Completes a job that is ready.
    "block-job-complete" block_job_complete: BlockJobComplete {
        /// The job.
        device: String,
    } -> Empty
        as {
            text "block_job_complete device": "complete a job that is ready",
            |arguments| hmp::job(arguments, |device| BlockJobComplete { device }) => hmp::nothing
        };

    /// Changes a job while it runs: the way of the guest's writes beside a mirror.
    "block-job-change" block_job_change: BlockJobChange {
        /// The job.
        id: String,
        /// Its kind: only a mirror can be changed.
        kind as "type": JobType,
        /// For a mirror, which must have it: the way of the guest's writes from now on.
        copy_mode as "copy-mode": Option<MirrorCopyMode>,
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
