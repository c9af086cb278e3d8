//! Mirrors under a guest's load: the disk moves to the copy, or leaves it behind; power cuts and failures.

use std::rc::Rc;
use std::time::Duration;

use executor::spawn;

use super::model::{self, random};
use super::stage::{CHAIN, Stage, mode, sync, tuning};
use super::{check, close_and_check, open, seeds};
use crate::disk::job::{JobEvent, JobOptions, Status};
use crate::image::{self, Create};
use crate::job::mirror::{Copies, MirrorOptions, MirrorTarget, Sync};
use crate::sim::Faults;
use crate::{Buf, ErrorAction, ErrorKind, Kind, OnError};

#[test]
fn a_disk_moves_to_its_mirror_under_load() {
    seeds(200, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let sync = sync();
        let target = stage.target(sync).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(80))).collect();
        let job = stage.mirror(target, sync).await;
        assert_eq!(disk.resize(disk.size() + 4096).await.unwrap_err().kind(), ErrorKind::InUse);
        assert!(log.ready().await);
        assert_eq!(job.info().status, Status::Ready);
        if random(2) == 0 {
            // It follows.
            guest.clone().work(20).await;
        }
        job.complete().unwrap();
        assert_eq!(log.ended(&job).await, None);
        assert_eq!(disk.leaf().name(), "target");
        // The images that are left behind are not needed any more, by the running disk either.
        let gone: &[&str] = match sync {
            Sync::Full => &CHAIN,
            Sync::Top => &CHAIN[2..],
            Sync::None => &[],
        };
        for name in gone {
            let faults = Faults { read: 1000, write: 1000, sync: 1000, ..Faults::default() };
            files.get(name).unwrap().set_faults(faults);
        }
        for worker in workers {
            worker.await;
        }
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
        for name in gone {
            files.add(name, Vec::new());
        }
        check(files, "target", format, model::Leaks::Allowed);
        let (disk, _) = open(files, "target", format).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn the_way_of_the_guests_writes_changes_while_a_mirror_works() {
    seeds(60, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        let job = stage.mirror(target, Sync::Full).await;
        for _ in 0..8 {
            job.write_both(random(2) == 0).unwrap();
            assert!(!job.info().synced || job.info().status == Status::Ready);
            guest.clone().work(8).await;
        }
        assert!(log.ready().await);
        job.write_both(false).unwrap();
        assert!(!job.info().synced);
        guest.clone().work(8).await;
        job.write_both(true).unwrap();
        while !job.info().synced {
            executor::sleep(Duration::from_micros(100)).await;
        }
        guest.clone().work(20).await;
        // With a window, when what is on its way has arrived.
        guest.flush_now().await.unwrap();
        assert!(job.info().synced, "what the guest writes now is on both sides");
        job.write_both(random(2) == 0).unwrap();
        let worker = spawn(guest.clone().work(20));
        job.complete().unwrap();
        job.write_both(random(2) == 0).unwrap();
        assert_eq!(log.ended(&job).await, None);
        assert_eq!(job.write_both(true).unwrap_err().kind(), ErrorKind::Invalid);
        worker.await;
        guest.verify().await;
        disk.close().await.unwrap();
        let (disk, _) = open(files, "target", format).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_mirror_that_is_left_is_a_copy_of_one_moment() {
    seeds(120, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        let worker = spawn(guest.clone().work(60));
        let job = stage.mirror(target, Sync::Full).await;
        assert!(log.ready().await);
        worker.await;
        job.leave().unwrap();
        assert_eq!(log.ended(&job).await, None);
        assert_eq!(disk.leaf().name(), "leaf");
        // Another program could have it now; the guest is at work elsewhere.
        let (copy, _) = open(files, "target", format).await;
        guest.verify_on(&copy).await;
        copy.close().await.unwrap();
        check(files, "target", format, model::Leaks::Allowed);
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_power_cut_beside_a_mirror_loses_nothing_that_was_flushed() {
    seeds(250, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let sync = sync();
        let target = stage.target(sync).await;
        let format = target.format;
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_until_error(80))).collect();
        let job = stage.mirror(target, sync).await;
        files.cut_after(1 + random(400));
        if log.ready().await {
            if random(2) == 0 {
                guest.clone().work_until_error(10).await;
            }
            // It may have failed by now.
            let _ = job.complete();
        }
        job.ended().await;
        guest.clone().work_until_error(20).await;
        for worker in workers {
            worker.await;
        }
        let (name, kind) = stage.owner(format);
        let _ = disk.close().await;
        let files = files.after_power_cut();
        if name == "target" && sync == Sync::Full {
            for name in CHAIN {
                files.add(name, Vec::new());
            }
        }
        check(&files, name, kind, model::Leaks::Allowed);
        let (disk, _) = open(&files, name, kind).await;
        guest.verify_after_power_cut(&disk).await;
    });
}

/// With `sync=none` the old leaf is behind the new one, and holds what was written before.
#[test]
fn a_flush_after_a_move_covers_what_the_old_leaf_holds() {
    seeds(60, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        guest.clone().work(20).await;
        let target = stage.target(Sync::None).await;
        let format = target.format;
        let job = stage.mirror(target, Sync::None).await;
        assert!(log.ready().await);
        // The old leaf ends its life as a leaf beside the guest's first flush, and late.
        files.get("leaf").unwrap().set_faults(Faults { delay: 20_000, ..Faults::default() });
        job.complete().unwrap();
        while disk.leaf().name() != "target" {
            // Takes time, in which the job goes on.
            disk.leaf().read(0, Buf::new(512)).await.unwrap();
        }
        guest.flush_now().await.unwrap();
        let files = files.after_power_cut();
        check(&files, "target", format, model::Leaks::Allowed);
        let (disk, _) = open(&files, "target", format).await;
        guest.verify_after_power_cut(&disk).await;
    });
}

#[test]
fn a_target_that_fails_is_no_guests_error() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let format = target.format;
        // Fails if any of its requests does.
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(100))).collect();
        let stop = random(2) == 0;
        let on_target_error = Some(if stop { OnError::Stop } else { OnError::Report });
        let options = JobOptions { on_target_error, ..JobOptions::new("mirror") };
        let job = stage.start(target, Sync::Full, options).await.unwrap();
        let file = files.get("target").unwrap();
        let slow = Faults { delay: 100, ..Faults::default() };
        file.set_faults(Faults { write: 100, ..slow });
        let mut stops = 0;
        let mut completing = false;
        while !job.has_ended() {
            let info = job.info();
            if info.paused && matches!(info.status, Status::Paused | Status::Standby) {
                stops += 1;
                if stops > 5 {
                    file.set_faults(slow);
                }
                job.resume().unwrap();
            } else if info.status == Status::Ready && !completing {
                // From the move on, its errors are the guest's.
                file.set_faults(slow);
                completing = job.complete().is_ok();
            } else {
                log.changed.wait().await;
            }
        }
        for worker in workers {
            worker.await;
        }
        file.set_faults(Faults::default());
        let failed = job.info().error.is_some();
        assert!(!failed || log.has(|event| matches!(event, JobEvent::Error(..))));
        assert!(stop || !log.has(|event| matches!(event, JobEvent::Error(_, ErrorAction::Stop))));
        assert_eq!(disk.leaf().name(), if failed { "leaf" } else { "target" });
        guest.clone().work(20).await;
        guest.verify().await;
        let (name, kind) = stage.owner(format);
        close_and_check(files, name, kind, disk.clone(), guest).await;
    });
}

#[test]
fn a_guest_that_writes_all_the_time_keeps_no_mirror_from_its_end() {
    seeds(20, |_| async {
        let stage = Stage::new().await;
        let Stage { disk, log, guest, .. } = &stage;
        let target = stage.target(Sync::Full).await;
        let job = stage.mirror(target, Sync::Full).await;
        assert!(log.ready().await);
        let stop = Rc::new(std::cell::Cell::new(false));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (guest, stop) = (guest.clone(), stop.clone());
                spawn(async move {
                    while !stop.get() {
                        guest.clone().work(1).await;
                    }
                })
            })
            .collect();
        job.complete().unwrap();
        assert_eq!(log.ended(&job).await, None);
        stop.set(true);
        for worker in workers {
            worker.await;
        }
        assert_eq!(disk.leaf().name(), "target");
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_mirror_is_paused_cancelled_and_refused() {
    seeds(40, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let full = |name: &str, format| MirrorTarget {
            name: name.into(),
            format,
            existing: false,
            node_name: Some("copy".into()),
        };
        let start = async |target, sync| stage.start(target, sync, JobOptions::new("mirror")).await;
        let raw = start(full("raw", Kind::Raw), Sync::Top).await;
        assert_eq!(raw.err().unwrap().kind(), ErrorKind::Unsupported);
        let small = Create { size: Some(4096), ..Create::default() };
        image::create(&**files, "small", Kind::Raw, &small).await.unwrap();
        let small = MirrorTarget { existing: true, ..full("small", Kind::Raw) };
        assert_eq!(start(small, Sync::Full).await.err().unwrap().kind(), ErrorKind::Invalid);
        // The disk itself is no target.
        let own = MirrorTarget { existing: true, ..full("leaf", kinds[1]) };
        assert_eq!(start(own, Sync::Full).await.err().unwrap().kind(), ErrorKind::Locked);
        let worker = spawn(guest.clone().work(60));
        let job = stage.mirror(full("target", Kind::Qcow2), Sync::Full).await;
        assert_eq!(job.complete().err().unwrap().kind(), ErrorKind::Invalid);
        // A target over the leaf needs the disk for itself.
        let other = start(full("other", Kind::Qcow2), Sync::None).await;
        let text = "Node 'virtio0' is busy: block device is in use by block job: mirror";
        assert_eq!(other.err().unwrap().to_string(), text);
        job.pause().unwrap();
        log.reaches(&job, Status::Paused).await;
        let paused = job.info().offset;
        guest.clone().work(5).await;
        assert_eq!((job.info().status, job.info().offset), (Status::Paused, paused));
        job.resume().unwrap();
        if random(2) == 0 {
            assert!(log.ready().await);
        }
        job.cancel().unwrap();
        job.ended().await;
        log.wait(|event| event == JobEvent::Cancelled).await;
        worker.await;
        guest.verify().await;
        // The disk is free again.
        drop(disk.claim_whole("a switch").unwrap());
        disk.close().await.unwrap();
    });
}

/// A disk that is closed while a mirror is being started ends that mirror too.
#[test]
fn a_disk_is_closed_beside_a_mirror_that_starts() {
    seeds(60, |_| async {
        let stage = Stage::new().await;
        let target = stage.target(Sync::Full).await;
        let (disk, mirror) = (
            stage.disk.clone(),
            MirrorOptions {
                target,
                sync: Sync::Full,
                mode: mode(),
                copies: Copies::default(),
                witness: None,
                tuning: tuning(),
            },
        );
        let starting = spawn(async move { disk.start_mirror(mirror, JobOptions::new("mirror")).await });
        for _ in 0..random(40) {
            executor::yield_now().await;
        }
        stage.disk.close().await.unwrap();
        // Refused, or started and ended.
        let _ = starting.await;
        assert!(stage.disk.active_jobs().is_empty());
        assert_eq!(stage.disk.leaf().name(), "leaf");
    });
}
