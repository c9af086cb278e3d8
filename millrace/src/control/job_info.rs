//! Jobs in QMP's types, and their events.

use std::ops::Range;

use block::ErrorAction;
use block::job::{Info, IoStatus as JobIoStatus, JobEvent, JobKind, JobResult, Operation, Status};
use qmp::types::*;
use qmp::{Events, event};

use super::failures;

fn kind(kind: JobKind) -> JobType {
    match kind {
        JobKind::Stream => JobType::Stream,
        JobKind::Mirror => JobType::Mirror,
        JobKind::Commit => JobType::Commit,
        JobKind::Backup => JobType::Backup,
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
        actively_synced: (job.kind == JobKind::Mirror).then_some(job.synced),
        detail: job.detail,
        copy_mode: job.following.map(|following| match following.active {
            true => MirrorCopyMode::WriteBlocking,
            false => MirrorCopyMode::Background,
        }),
        queued: job.following.map(|following| following.queued),
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
