//! Several jobs that follow one disk, and jobs on images behind its leaf beside them.

use executor::spawn;

use super::model::{self, random};
use super::stage::{Log, Stage};
use super::{check, open, seeds};
use crate::disk::job::{Job, JobOptions, Status};
use crate::job::mirror::commit::{CommitOptions, Named};
use crate::job::mirror::{MirrorTarget, Sync};
use crate::job::stream::StreamOptions;
use crate::sim::Faults;
use crate::{ErrorKind, Kind};

const BUSY: &str = "Node 'virtio0' is busy: block device is in use by block job: ";

fn other() -> MirrorTarget {
    let format = [Kind::Raw, Kind::Qcow2][random(2) as usize];
    MirrorTarget { name: "other".into(), format, existing: false, node_name: None }
}

/// Waits until a job is ready, or has ended. Returns true if it is ready.
async fn ready(log: &Log, job: &Job) -> bool {
    while job.info().status != Status::Ready && !job.has_ended() {
        log.changed.wait().await;
    }
    !job.has_ended()
}

#[test]
fn two_mirrors_of_a_disk_one_is_left_and_the_disk_moves_to_the_other() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let targets = [stage.target(Sync::Full).await, other()];
        let formats = targets.clone().map(|target| target.format);
        let worker = spawn(guest.clone().work(80));
        let mut jobs = Vec::new();
        for (target, id) in targets.into_iter().zip(["first", "second"]) {
            jobs.push(stage.start(target, Sync::Full, JobOptions::new(id)).await.unwrap());
            guest.clone().work(random(10)).await;
        }
        stage.slow(&["target", "other"]);
        // Whoever wants all of the disk waits for both.
        assert_eq!(disk.resize(disk.size() + 4096).await.unwrap_err().kind(), ErrorKind::InUse);
        assert!(ready(log, &jobs[0]).await && ready(log, &jobs[1]).await);
        let refused = jobs[0].complete().unwrap_err();
        assert_eq!((refused.kind(), refused.to_string()), (ErrorKind::InUse, format!("{BUSY}mirror")));
        worker.await;
        let moves = random(2) as usize;
        let left = ["other", "target"][moves];
        jobs[1 - moves].leave().unwrap();
        jobs[1 - moves].ended().await;
        assert!(jobs[1 - moves].error().is_none());
        // A copy of that moment.
        let (copy, _) = open(files, left, formats[1 - moves]).await;
        guest.verify_on(&copy).await;
        copy.close().await.unwrap();
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(40))).collect();
        jobs[moves].complete().unwrap();
        // Nothing joins a disk that is about to move.
        let joins = MirrorTarget { name: "third".into(), ..other() };
        let refused = stage.start(joins, Sync::Full, JobOptions::new("third")).await.err().unwrap();
        assert_eq!(refused.to_string(), format!("{BUSY}mirror"));
        jobs[moves].ended().await;
        assert!(jobs[moves].error().is_none());
        for worker in workers {
            worker.await;
        }
        let name = ["target", "other"][moves];
        assert_eq!(disk.leaf().name(), name);
        guest.verify().await;
        disk.close().await.unwrap();
        for gone in ["base", "middle", "leaf", left] {
            files.add(gone, Vec::new());
        }
        check(files, name, formats[moves], model::Leaks::Allowed);
        let (disk, _) = open(files, name, formats[moves]).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_mirror_whose_target_fails_stops_no_other_and_a_power_cut_loses_nothing() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_until_error(80))).collect();
        let first = stage.start(target, Sync::Full, JobOptions::new("first")).await.unwrap();
        let second = stage.start(other(), Sync::Full, JobOptions::new("second")).await.unwrap();
        stage.slow(&["target"]);
        files.get("other").unwrap().set_faults(Faults { write: 1000, delay: 100, ..Faults::default() });
        let cut = random(2) == 0;
        if cut {
            files.cut_after(1 + random(400));
        }
        second.ended().await;
        assert!(second.error().is_some());
        assert!(ready(log, &first).await || cut);
        // It may have failed by now.
        let completing = first.complete();
        assert!(completing.is_ok() || cut);
        first.ended().await;
        for worker in workers {
            worker.await;
        }
        assert!(cut || first.error().is_none());
        let (name, kind) = stage.owner(format);
        let closed = disk.close().await;
        assert!(closed.is_ok() || cut);
        let files = if cut { files.after_power_cut() } else { files.clone() };
        check(&files, name, kind, model::Leaks::Allowed);
        let (disk, _) = open(&files, name, kind).await;
        match cut {
            true => guest.verify_after_power_cut(&disk).await,
            false => guest.verify_on(&disk).await,
        }
    });
}

#[test]
fn a_mirror_runs_beside_a_stream_of_an_image_behind_the_leaf() {
    seeds(100, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let middle = disk.leaf().backing().unwrap().node_name();
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        let worker = spawn(guest.clone().work(80));
        let stream = || StreamOptions { image: Some(middle.clone()), ..StreamOptions::default() };
        let options = || JobOptions { auto_dismiss: false, ..JobOptions::new("stream") };
        let first = random(2) == 0;
        if first {
            disk.start_stream(stream(), options()).await.unwrap();
        }
        let job = stage.start(target, Sync::Full, JobOptions::new("mirror")).await.unwrap();
        stage.slow(&["target"]);
        if !first {
            disk.start_stream(stream(), options()).await.unwrap();
        }
        // What would change the leaf is refused: a stream into it, and a commit that has it record another.
        let refused = disk.start_stream(StreamOptions::default(), JobOptions::new("leaf")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse);
        let commit = CommitOptions { top: Some(Named::Node(middle.clone())), ..CommitOptions::default() };
        let refused = disk.start_commit(commit, JobOptions::new("commit")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse);
        let stream = disk.job("stream").unwrap();
        assert!(ready(log, &job).await);
        if !stream.has_ended() {
            let refused = job.complete().unwrap_err();
            assert_eq!(refused.to_string(), format!("{BUSY}stream"));
        }
        stream.ended().await;
        assert!(stream.error().is_none());
        job.complete().unwrap();
        job.ended().await;
        assert!(job.error().is_none());
        worker.await;
        guest.verify().await;
        disk.close().await.unwrap();
        for gone in ["base", "middle", "leaf"] {
            files.add(gone, Vec::new());
        }
        check(files, "target", format, model::Leaks::Allowed);
        let (disk, _) = open(files, "target", format).await;
        guest.verify_on(&disk).await;
    });
}
