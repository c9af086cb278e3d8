//! Mirrors under a guest's load: the disk moves to the copy, or leaves it behind; power cuts and failures.

use std::rc::Rc;
use std::time::Duration;

use executor::spawn;

use super::jobs::{Told, chain_of, open_telling};
use super::model::{self, Guest, random};
use super::{check, folder, open, seeds, some_layout};
use crate::disk::job::{Job, JobEvent, JobOptions, Status};
use crate::image::{self, Create};
use crate::job::mirror::{CopyMode, MirrorOptions, MirrorTarget, Sync};
use crate::sim::{Faults, SimDir};
use crate::{Disk, ErrorAction, ErrorKind, Kind, OnError, Result};

/// Names of a chain's images, the last one first.
const CHAIN: [&str; 3] = ["base", "middle", "leaf"];

fn sync() -> Sync {
    [Sync::Full, Sync::Full, Sync::Top, Sync::None][random(4) as usize]
}

fn mode() -> CopyMode {
    [CopyMode::Background, CopyMode::WriteBlocking][random(2) as usize]
}

/// Makes a target image of any layout, or has the mirror make it.
async fn target(files: &Rc<SimDir>, sync: Sync, size: u64, behind: (&str, Kind)) -> MirrorTarget {
    let by_mirror = random(2) == 0;
    let (format, create) = match sync {
        Sync::Full if random(2) == 0 => (Kind::Raw, Create::default()),
        _ => some_layout(),
    };
    if !by_mirror {
        let backing = (sync != Sync::Full).then(|| (behind.0.to_owned(), behind.1));
        let create = Create { size: Some(size), backing, ..create };
        image::create(&**files, "target", format, &create).await.unwrap();
    }
    MirrorTarget { name: "target".into(), format, existing: !by_mirror, node_name: None }
}

fn slow(files: &SimDir, names: &[&str]) {
    for name in names {
        if let Ok(file) = files.get(name) {
            file.set_faults(Faults { delay: 100, ..Faults::default() });
        }
    }
}

async fn wait_until(told: &Told, what: impl Fn(JobEvent) -> bool) {
    while !told.borrow().iter().any(|(_, event)| what(*event)) {
        executor::sleep(Duration::from_micros(50)).await;
    }
}

fn is_end(event: JobEvent) -> bool {
    matches!(event, JobEvent::Completed | JobEvent::Cancelled)
}

/// Waits until the mirror is ready, or has ended.
async fn ready(told: &Told) -> bool {
    wait_until(told, |event| event == JobEvent::Ready || is_end(event)).await;
    !told.borrow().iter().any(|(_, event)| is_end(*event))
}

async fn ended(job: &Rc<Job>, told: &Told) -> Option<String> {
    job.ended().await;
    wait_until(told, is_end).await;
    let told = told.borrow();
    let (info, _) = told.iter().find(|(_, event)| is_end(*event)).unwrap();
    info.error.clone()
}

async fn start(disk: &Rc<Disk>, target: MirrorTarget, sync: Sync, mode: CopyMode) -> Result<Rc<Job>> {
    let options = JobOptions { auto_dismiss: false, ..JobOptions::new("mirror") };
    disk.start_mirror(MirrorOptions { target, sync, mode }, options).await?;
    disk.job("mirror")
}

#[test]
fn a_disk_moves_to_its_mirror_under_load() {
    seeds(200, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        slow(&files, &CHAIN);
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let sync = sync();
        let behind = if sync == Sync::None { ("leaf", kinds[1]) } else { ("middle", kinds[0]) };
        let target = target(&files, sync, disk.size(), behind).await;
        let format = target.format;
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(80))).collect();
        let job = start(&disk, target, sync, mode()).await.unwrap();
        slow(&files, &["target"]);
        assert_eq!(disk.resize(disk.size() + 4096).await.unwrap_err().kind(), ErrorKind::InUse);
        assert!(ready(&told).await);
        assert_eq!(job.info().status, Status::Ready);
        if random(2) == 0 {
            // It follows.
            guest.clone().work(20).await;
        }
        job.complete().unwrap();
        assert_eq!(ended(&job, &told).await, None);
        assert_eq!(disk.leaf().name(), "target");
        // What is left behind is not needed any more, by the running disk either.
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
        check(&files, "target", format, model::Leaks::Allowed);
        let (disk, _) = open(&files, "target", format).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_mirror_that_is_left_is_a_copy_of_one_moment() {
    seeds(120, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        slow(&files, &CHAIN);
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let target = target(&files, Sync::Full, disk.size(), ("base", Kind::Raw)).await;
        let format = target.format;
        let guest = Guest::new(disk.clone(), content);
        let worker = spawn(guest.clone().work(60));
        let job = start(&disk, target, Sync::Full, mode()).await.unwrap();
        slow(&files, &["target"]);
        assert!(ready(&told).await);
        worker.await;
        job.leave().unwrap();
        assert_eq!(ended(&job, &told).await, None);
        assert_eq!(disk.leaf().name(), "leaf");
        // Another program could have it now; the guest is at work elsewhere.
        let (copy, _) = open(&files, "target", format).await;
        guest.verify_on(&copy).await;
        copy.close().await.unwrap();
        check(&files, "target", format, model::Leaks::Allowed);
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_power_cut_beside_a_mirror_loses_nothing_that_was_flushed() {
    seeds(250, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        slow(&files, &CHAIN);
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let sync = sync();
        let behind = if sync == Sync::None { ("leaf", kinds[1]) } else { ("middle", kinds[0]) };
        let target = target(&files, sync, disk.size(), behind).await;
        let format = target.format;
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_until_error(80))).collect();
        let job = start(&disk, target, sync, mode()).await.unwrap();
        slow(&files, &["target"]);
        files.cut_after(1 + random(400));
        if ready(&told).await {
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
        let (name, kind) = match disk.leaf().name() {
            "target" => ("target", format),
            _ => ("leaf", kinds[1]),
        };
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

#[test]
fn a_target_that_fails_is_no_guests_error() {
    seeds(150, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        slow(&files, &CHAIN);
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let target = target(&files, Sync::Full, disk.size(), ("base", Kind::Raw)).await;
        let format = target.format;
        let guest = Guest::new(disk.clone(), content);
        // Fails if any of its requests does.
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(100))).collect();
        let stop = random(2) == 0;
        let options = JobOptions {
            auto_dismiss: false,
            on_target_error: Some(if stop { OnError::Stop } else { OnError::Report }),
            ..JobOptions::new("mirror")
        };
        let mirror = MirrorOptions { target, sync: Sync::Full, mode: mode() };
        disk.start_mirror(mirror, options).await.unwrap();
        let job = disk.job("mirror").unwrap();
        let file = files.get("target").unwrap();
        file.set_faults(Faults { write: 100, delay: 100, ..Faults::default() });
        let mut stops = 0;
        let mut completing = false;
        while !job.has_ended() {
            executor::sleep(Duration::from_micros(100)).await;
            let status = job.info().status;
            if job.info().paused && matches!(status, Status::Paused | Status::Standby) {
                stops += 1;
                if stops > 5 {
                    file.set_faults(Faults { delay: 100, ..Faults::default() });
                }
                job.resume().unwrap();
            } else if status == Status::Ready && !completing {
                // From the move on, its errors are the guest's.
                file.set_faults(Faults { delay: 100, ..Faults::default() });
                completing = job.complete().is_ok();
            }
        }
        for worker in workers {
            worker.await;
        }
        file.set_faults(Faults::default());
        let errors = told.borrow().iter().filter(|(_, event)| matches!(event, JobEvent::Error(..))).count();
        let failed = job.info().error.is_some();
        assert!(!failed || errors > 0);
        assert!(
            stop || !told
                .borrow()
                .iter()
                .any(|(_, event)| matches!(event, JobEvent::Error(_, ErrorAction::Stop)))
        );
        assert_eq!(disk.leaf().name(), if failed { "leaf" } else { "target" });
        guest.clone().work(20).await;
        guest.verify().await;
        disk.close().await.unwrap();
        let (name, kind) = if failed { ("leaf", kinds[1]) } else { ("target", format) };
        check(&files, name, kind, model::Leaks::Allowed);
        let (disk, _) = open(&files, name, kind).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_mirror_is_paused_cancelled_and_refused() {
    seeds(40, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        slow(&files, &CHAIN);
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let full = |name: &str, format| MirrorTarget {
            name: name.into(),
            format,
            existing: false,
            node_name: Some("copy".into()),
        };
        let raw = start(&disk, full("raw", Kind::Raw), Sync::Top, CopyMode::Background).await;
        assert_eq!(raw.err().unwrap().kind(), ErrorKind::Unsupported);
        let small = Create { size: Some(4096), ..Create::default() };
        image::create(&*files, "small", Kind::Raw, &small).await.unwrap();
        let small = MirrorTarget { existing: true, ..full("small", Kind::Raw) };
        let small = start(&disk, small, Sync::Full, CopyMode::Background).await;
        assert_eq!(small.err().unwrap().kind(), ErrorKind::Invalid);
        // The disk itself is no target.
        let own = MirrorTarget { existing: true, ..full("leaf", kinds[1]) };
        assert_eq!(start(&disk, own, Sync::Full, mode()).await.err().unwrap().kind(), ErrorKind::Locked);
        let guest = Guest::new(disk.clone(), content);
        let worker = spawn(guest.clone().work(60));
        let job = start(&disk, full("target", Kind::Qcow2), Sync::Full, mode()).await.unwrap();
        slow(&files, &["target"]);
        assert_eq!(job.complete().err().unwrap().kind(), ErrorKind::Invalid);
        let other = start(&disk, full("other", Kind::Raw), Sync::Full, CopyMode::Background).await;
        let text = "Node 'virtio0' is busy: block device is in use by block job: mirror";
        assert_eq!(other.err().unwrap().to_string(), text);
        job.pause().unwrap();
        executor::sleep(Duration::from_millis(random(4))).await;
        let paused = job.info().offset;
        executor::sleep(Duration::from_millis(2)).await;
        if job.info().status == Status::Paused {
            assert!(job.info().offset >= paused);
        }
        job.resume().unwrap();
        if random(2) == 0 {
            assert!(ready(&told).await);
        }
        job.cancel().unwrap();
        job.ended().await;
        wait_until(&told, |event| event == JobEvent::Cancelled).await;
        worker.await;
        guest.verify().await;
        // The disk is free again.
        drop(disk.claim_whole("a switch").unwrap());
        disk.close().await.unwrap();
    });
}
