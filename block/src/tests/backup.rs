//! Backups under a guest's load: the target holds one moment, whatever the guest does; power cuts, failures.

use std::rc::Rc;

use executor::spawn;

use super::model::{self, Guest, random};
use super::parts::chain_of;
use super::stage::Log;
use super::{check, folder, open, seeds, some_layout};
use crate::disk::job::{Job, JobEvent, JobOptions, Status};
use crate::disk::switch::DEADLINE;
use crate::image::{self, Create};
use crate::job::backup::BackupOptions;
use crate::job::mirror::{MirrorTarget, Sync};
use crate::sim::{Faults, SimDir};
use crate::{Disk, ErrorAction, ErrorKind, Kind, OnError, chain};

/// A disk on a chain of slow images, with a guest.
struct Stage {
    files: Rc<SimDir>,
    disk: Rc<Disk>,
    log: Rc<Log>,
    guest: Rc<Guest>,
    kinds: Vec<Kind>,
}

impl Stage {
    async fn new() -> Self {
        let files = folder();
        let (kinds, content) = chain_of(&files, &["middle", "leaf"]).await;
        let log: Rc<Log> = Rc::default();
        let sink = log.clone();
        let leaf = chain::open(&*files, "leaf", kinds[1], true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| sink.record(event));
        let stage = Stage { guest: Guest::new(disk.clone(), content), files, disk, log, kinds };
        ["base", "middle", "leaf"].into_iter().for_each(|name| stage.slow(name));
        stage
    }

    fn slow(&self, name: &str) {
        self.files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
    }

    /// Makes a target image of any layout, or has the job make it.
    async fn target(&self, sync: Sync) -> MirrorTarget {
        let existing = random(2) == 0;
        let (format, create) = match sync {
            Sync::Full if random(2) == 0 => (Kind::Raw, Create::default()),
            _ => some_layout(),
        };
        if existing {
            let backing = match sync {
                Sync::Full => None,
                Sync::Top => Some(("middle".to_owned(), self.kinds[0])),
                Sync::None => Some(("leaf".to_owned(), self.kinds[1])),
            };
            let create = Create { size: Some(self.disk.size()), backing, ..create };
            image::create(&*self.files, "target", format, &create).await.unwrap();
        }
        MirrorTarget { name: "target".into(), format, existing, node_name: None }
    }

    /// Begins a backup. Returns the job and the guest as it knows the disk at that moment.
    async fn begin(
        &self,
        target: MirrorTarget,
        sync: Sync,
        options: JobOptions,
    ) -> crate::Result<(Rc<Job>, Rc<Guest>)> {
        let options = JobOptions { auto_dismiss: false, ..options };
        let id = options.id.clone();
        let planned = self.disk.prepare_backup(BackupOptions { target, sync }, options).await?;
        self.slow("target");
        let drained = planned.close(DEADLINE).await?;
        let then = self.guest.on(self.disk.clone());
        assert!(drained.commit().await.is_none(), "a backup is no switch");
        Ok((self.disk.job(&id)?, then))
    }
}

#[test]
fn a_backup_holds_the_moment_at_which_it_began() {
    seeds(250, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let sync = if random(3) == 0 { Sync::Top } else { Sync::Full };
        let target = stage.target(sync).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(80))).collect();
        let (job, then) = stage.begin(target, sync, JobOptions::new("backup")).await.unwrap();
        assert_eq!(disk.resize(disk.size() + 4096).await.unwrap_err().kind(), ErrorKind::InUse);
        assert_eq!(log.ended(&job).await, None);
        let cut = files.after_power_cut();
        // What it has reported is durable, and nobody's any more.
        let (copy, _) = open(&cut, "target", format).await;
        then.verify_on(&copy).await;
        copy.close().await.unwrap();
        for worker in workers {
            worker.await;
        }
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
        check(files, "target", format, model::Leaks::Allowed);
        check(files, "leaf", kinds[1], model::Leaks::Allowed);
        let (copy, _) = open(files, "target", format).await;
        then.verify_on(&copy).await;
        let (disk, _) = open(files, "leaf", kinds[1]).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn what_the_guest_changes_is_kept_until_the_job_is_cancelled() {
    seeds(100, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::None).await;
        let format = target.format;
        let early = spawn(guest.clone().work(20));
        let (job, then) = stage.begin(target, Sync::None, JobOptions::new("backup")).await.unwrap();
        early.await;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(40))).collect();
        for worker in workers {
            worker.await;
        }
        assert_eq!(job.info().status, Status::Running);
        assert_eq!(job.complete().unwrap_err().kind(), ErrorKind::Invalid);
        job.leave().unwrap();
        job.ended().await;
        log.wait(|event| event == JobEvent::Cancelled).await;
        guest.verify().await;
        disk.close().await.unwrap();
        // Over the leaf as it is now, it reads as the disk did then.
        check(files, "target", format, model::Leaks::Allowed);
        let (copy, _) = open(files, "target", format).await;
        then.verify_on(&copy).await;
    });
}

#[test]
fn a_power_cut_beside_a_backup_loses_nothing_that_was_flushed() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let sync = [Sync::Full, Sync::Top, Sync::None][random(3) as usize];
        let target = stage.target(sync).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_until_error(80))).collect();
        let (job, then) = stage.begin(target, sync, JobOptions::new("backup")).await.unwrap();
        files.cut_after(1 + random(400));
        for worker in workers {
            worker.await;
        }
        let mut error = None;
        if sync == Sync::None {
            let _ = job.cancel();
            job.ended().await;
        } else {
            error = Some(log.ended(&job).await);
        }
        guest.clone().work_until_error(20).await;
        let _ = disk.close().await;
        let files = files.after_power_cut();
        if error == Some(None) {
            check(&files, "target", format, model::Leaks::Allowed);
            let (copy, _) = open(&files, "target", format).await;
            then.verify_on(&copy).await;
            copy.close().await.unwrap();
        }
        check(&files, "leaf", kinds[1], model::Leaks::Allowed);
        let (disk, _) = open(&files, "leaf", kinds[1]).await;
        guest.verify_after_power_cut(&disk).await;
    });
}

#[test]
fn a_target_that_fails_or_is_full_is_no_guests_error() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        // Fails if any of its requests does.
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(80))).collect();
        let stop = random(2) == 0;
        let on_target_error = Some(if stop { OnError::Stop } else { OnError::Report });
        let options = JobOptions { on_target_error, ..JobOptions::new("backup") };
        let (job, then) = stage.begin(target, Sync::Full, options).await.unwrap();
        let file = files.get("target").unwrap();
        let slow = Faults { delay: 100, ..Faults::default() };
        let is_full = random(2) == 0;
        let limit = is_full.then(|| file.content().len() as u64);
        file.set_faults(Faults { write: if is_full { 0 } else { 50 }, limit, ..slow });
        let mut stops = 0;
        while !job.has_ended() {
            if job.info().status == Status::Paused {
                stops += 1;
                if stops > 3 {
                    file.set_faults(slow);
                }
                job.resume().unwrap();
            } else {
                log.changed.wait().await;
            }
        }
        for worker in workers {
            worker.await;
        }
        file.set_faults(Faults::default());
        assert!(stop || !log.has(|event| matches!(event, JobEvent::Error(_, ErrorAction::Stop))));
        guest.verify().await;
        disk.close().await.unwrap();
        if job.info().error.is_none() {
            check(files, "target", format, model::Leaks::Allowed);
            let (copy, _) = open(files, "target", format).await;
            then.verify_on(&copy).await;
            copy.close().await.unwrap();
        }
        let (disk, _) = open(files, "leaf", kinds[1]).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_backup_is_paused_cancelled_and_refused() {
    seeds(40, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let new = |name: &str, format, existing| MirrorTarget {
            name: name.into(),
            format,
            existing,
            node_name: Some("copy".into()),
        };
        let start = async |target, sync| {
            let refused = disk.start_backup(BackupOptions { target, sync }, JobOptions::new("other")).await;
            refused.unwrap_err()
        };
        let raw = start(new("raw", Kind::Raw, false), Sync::Top).await;
        assert_eq!(raw.kind(), ErrorKind::Unsupported);
        let small = Create { size: Some(4096), ..Create::default() };
        image::create(&**files, "small", Kind::Raw, &small).await.unwrap();
        let small = start(new("small", Kind::Raw, true), Sync::Full).await;
        assert_eq!(small.to_string(), "Source and target image have different sizes");
        let own = start(new("leaf", stage.kinds[1], true), Sync::Full).await;
        assert_eq!(own.kind(), ErrorKind::Locked);
        let worker = spawn(guest.clone().work(60));
        let target = new("target", Kind::Raw, false);
        let (job, then) = stage.begin(target, Sync::Full, JobOptions::new("backup")).await.unwrap();
        let other = start(new("other", Kind::Raw, false), Sync::Full).await;
        let text = "Node 'virtio0' is busy: block device is in use by block job: backup";
        assert_eq!(other.to_string(), text);
        let cancel = random(2) == 0;
        if job.pause().is_ok() {
            while !matches!(job.info().status, Status::Paused | Status::Concluded) {
                log.changed.wait().await;
            }
            // What the guest changes is copied all the same.
            guest.clone().work(10).await;
            let _ = if cancel { job.cancel() } else { job.resume() };
        }
        let error = log.ended(&job).await;
        worker.await;
        guest.verify().await;
        // The disk is free again.
        drop(disk.claim_whole("a switch").unwrap());
        disk.close().await.unwrap();
        if error.is_none() && !log.has(|event| event == JobEvent::Cancelled) {
            let (copy, _) = open(files, "target", Kind::Raw).await;
            then.verify_on(&copy).await;
        }
    });
}

#[test]
fn a_disk_is_closed_beside_a_backup_that_starts() {
    seeds(60, |_| async {
        let stage = Stage::new().await;
        let sync = [Sync::Full, Sync::Top, Sync::None][random(3) as usize];
        let target = stage.target(sync).await;
        let (disk, backup) = (stage.disk.clone(), BackupOptions { target, sync });
        let starting = spawn(async move { disk.start_backup(backup, JobOptions::new("backup")).await });
        for _ in 0..random(60) {
            executor::yield_now().await;
        }
        stage.disk.close().await.unwrap();
        // Refused, or started and ended.
        let _ = starting.await;
        assert!(stage.disk.active_jobs().is_empty());
        let (disk, _) = open(&stage.files, "leaf", stage.kinds[1]).await;
        stage.guest.verify_on(&disk).await;
    });
}
