//! Mirrors and commits with a witness: whoever it names has everything, whatever fails and whenever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use executor::spawn;

use super::model::{self, random};
use super::stage::{Stage, sync};
use super::{check, close_and_check, commit, open, seeds};
use crate::disk::job::{JobEvent, JobOptions};
use crate::job::mirror::Sync;
use crate::job::mirror::commit::CommitOptions;
use crate::sim::{Faults, SimDir};
use crate::{Buf, ErrorAction, ErrorKind};

/// The file of the image that the witness names, as a person would find it: without a whole record, the
/// source.
fn owner(files: &SimDir, source: &str) -> String {
    let Ok(file) = files.get("witness") else { return source.to_owned() };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&file.content()) else {
        return source.to_owned();
    };
    assert_eq!(json["millrace-witness"], 1);
    let owner = json["owner"].as_str().unwrap();
    json[owner]["file"].as_str().unwrap().to_owned()
}

fn slow_witness(files: &SimDir, faults: Faults) {
    let delay = [100, 5_000, 100_000][random(3) as usize];
    files.get("witness").unwrap().set_faults(Faults { delay, ..faults });
}

#[test]
fn after_a_power_cut_the_witness_names_who_has_everything() {
    seeds(300, |_| async {
        let stage = Stage::new().await;
        let Stage { files, log, guest, .. } = &stage;
        let sync = sync();
        let target = stage.target(sync).await;
        let format = target.format;
        let options = JobOptions::new("mirror");
        let job = stage.start_with(target, sync, Some("witness"), options).await.unwrap();
        stage.slow(&["target"]);
        slow_witness(files, Faults::default());
        let worker = spawn(guest.clone().work_until_error(80));
        assert!(log.ready().await);
        job.complete().unwrap();
        let mut workers = vec![worker];
        workers.extend((0..2).map(|_| spawn(guest.clone().work_until_error(80))));
        // Around the move.
        files.cut_after(1 + random(60));
        // The witness fails for ever, too, and so those that wait for it end when the disk is closed.
        let closing = spawn(async move {
            executor::timeout(Duration::from_secs(5), job.ended()).await;
            let _ = stage.disk.close().await;
            stage
        });
        for worker in workers {
            worker.await;
        }
        let Stage { files, guest, kinds, .. } = &closing.await.unwrap();
        let files = files.after_power_cut();
        let name = owner(&files, "leaf");
        if name == "target" && sync == Sync::Full {
            for name in ["base", "middle", "leaf"] {
                files.add(name, Vec::new());
            }
        }
        let kind = if name == "target" { format } else { kinds[1] };
        check(&files, &name, kind, model::Leaks::Allowed);
        let (disk, _) = open(&files, &name, kind).await;
        guest.verify_after_power_cut(&disk).await;
    });
}

#[test]
fn a_witness_that_fails_is_no_guests_error() {
    seeds(200, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let sync = sync();
        let target = stage.target(sync).await;
        let format = target.format;
        let options = JobOptions::new("mirror");
        let job = stage.start_with(target, sync, Some("witness"), options).await.unwrap();
        stage.slow(&["target"]);
        // Some of its requests fail, or all because it is full.
        let faults = match random(3) {
            0 => Faults { limit: Some(0), ..Faults::default() },
            _ => Faults { write: 300 + random(600) as u32, ..Faults::default() },
        };
        slow_witness(files, faults);
        // Fails if any of its requests does.
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(100))).collect();
        assert!(log.ready().await);
        job.complete().unwrap();
        let failed = log.ended(&job).await.is_some();
        assert!(failed || faults.limit.is_none());
        assert_eq!(disk.leaf().name(), if failed { "leaf" } else { "target" });
        assert_eq!(owner(files, "leaf"), disk.leaf().name());
        for worker in workers {
            worker.await;
        }
        guest.clone().work(20).await;
        guest.verify().await;
        // The disk is free again.
        drop(disk.claim_whole("a switch").unwrap());
        let (name, kind) = stage.owner(format);
        close_and_check(files, name, kind, disk.clone(), guest).await;
    });
}

#[test]
fn as_long_as_the_owner_is_in_doubt_writes_wait_and_reads_do_not() {
    seeds(40, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let options = JobOptions::new("mirror");
        let job = stage.start_with(target, Sync::Full, Some("witness"), options).await.unwrap();
        assert!(log.ready().await);
        // Either it cannot be known what the file says, or it hangs.
        let hangs = random(2) == 0;
        let faults = match hangs {
            true => Faults { delay: 3_600_000_000, ..Faults::default() },
            false => Faults { sync: 1000, ..Faults::default() },
        };
        files.get("witness").unwrap().set_faults(faults);
        job.complete().unwrap();
        while disk.leaf().name() != "target" {
            // Takes time, in which the job goes on.
            disk.leaf().read(0, Buf::new(512)).await.unwrap();
        }
        let done = Rc::new(Cell::new(None));
        let (guest_of_task, result) = (guest.clone(), done.clone());
        let flush = spawn(async move { result.set(Some(guest_of_task.flush_now().await)) });
        executor::sleep(Duration::from_secs(10)).await;
        guest.verify().await;
        assert!(done.take().is_none() && !job.has_ended());
        let goes_on = JobEvent::Error(crate::disk::job::Operation::Write, ErrorAction::Ignore);
        assert_eq!(log.has(|event| event == goes_on), !hangs);
        disk.close().await.unwrap();
        flush.await;
        assert!(done.take().unwrap().is_err());
        let error = job.error().unwrap();
        assert!(error.to_string().starts_with("witness: does not say that virtio0 has moved"), "{error}");
        // Both have everything.
        for name in ["leaf", "target"] {
            let kind = if name == "leaf" { stage.kinds[1] } else { disk.leaf().kind() };
            let (disk, _) = open(files, name, kind).await;
            guest.verify_on(&disk).await;
        }
    });
}

#[test]
fn an_active_commit_has_a_witness_and_no_other() {
    seeds(100, |_| async {
        let stage = commit::Stage::new().await;
        let commit::Stage { files, disk, log, guest, .. } = &stage;
        let witness = Some("witness".to_owned());
        let inner = CommitOptions { witness: witness.clone(), ..stage.options(2, 0) };
        let refused = stage.start(inner, JobOptions::new("inner")).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(files.get("witness").is_err());
        let leaf = disk.leaf().name().to_owned();
        let commit = CommitOptions { witness, ..stage.options(stage.kinds.len() - 1, 0) };
        let job = stage.start(commit, JobOptions::new("commit")).await.unwrap();
        let fails = random(2) == 0;
        slow_witness(files, Faults { limit: fails.then_some(0), ..Faults::default() });
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(60))).collect();
        assert!(log.ready().await);
        job.complete().unwrap();
        assert_eq!(log.ended(&job).await.is_some(), fails);
        assert_eq!(disk.leaf().name() == leaf, fails);
        assert_eq!(owner(files, &leaf), disk.leaf().name());
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_job_that_does_not_start_leaves_no_witness() {
    seeds(20, |_| async {
        let stage = Stage::new().await;
        let target = stage.target(Sync::Full).await;
        let missing =
            crate::job::mirror::MirrorTarget { existing: true, name: "none".into(), ..target.clone() };
        let options = || JobOptions::new("mirror");
        let start = async |target| stage.start_with(target, Sync::Full, Some("witness"), options()).await;
        assert!(start(missing).await.is_err());
        assert!(stage.files.get("witness").is_err());
        let job = start(target).await.unwrap();
        job.cancel().unwrap();
        job.ended().await;
        // It still says who the owner is.
        assert_eq!(owner(&stage.files, "nobody"), "leaf");
    });
}
