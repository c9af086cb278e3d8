//! Jobs: their states, and commands in every state under load and with faults.

use super::*;
use crate::OnError;
use crate::disk::job::{Events, Info, JobEvent, JobOptions, Status};
use crate::job::stream::StreamOptions;

/// The events of jobs, in order.
type Told = Rc<RefCell<Vec<(Info, JobEvent)>>>;

pub(super) async fn open_telling(files: &Rc<SimDir>, name: &str, kind: Kind) -> (Rc<Disk>, Told) {
    let leaf = chain::open(&**files, name, kind, true).await.unwrap();
    let told: Told = Rc::default();
    let sink = told.clone();
    let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| {
        if let DiskEvent::Job { job, what } = event {
            sink.borrow_mut().push((job, what));
        }
    });
    (disk, told)
}

/// Returns the events: states by their names, others by theirs in upper case.
fn story(told: &Told) -> Vec<String> {
    let told = told.borrow();
    let word = |(job, what): &(Info, JobEvent)| match what {
        JobEvent::Status => job.status.name().to_owned(),
        other => format!("{other:?}").to_uppercase(),
    };
    told.iter().map(word).collect()
}

pub(super) fn options() -> JobOptions {
    JobOptions::new("job0")
}

fn everything() -> StreamOptions {
    StreamOptions::default()
}

async fn wait_for_status(disk: &Rc<Disk>, status: Status) {
    while !disk.jobs().iter().any(|job| job.status == status) {
        executor::sleep(Duration::from_micros(50)).await;
    }
}

/// Creates a disk over a base, both slow enough to observe a job at work.
async fn stage() -> (Rc<SimDir>, Rc<Disk>, Told, Rc<Guest>, Kind) {
    let files = SimDir::new();
    let content = base_content(700);
    files.add("base", content.clone());
    let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
    for name in ["base", "leaf"] {
        files.get(name).unwrap().set_faults(Faults { delay: 300, ..Faults::default() });
    }
    let (disk, told) = open_telling(&files, "leaf", kind).await;
    let guest = Guest::new(disk.clone(), content);
    (files, disk, told, guest, kind)
}

#[test]
fn a_good_job_tells_its_life_and_is_gone() {
    seeds(20, |_| async {
        let (_, disk, told, guest, _) = stage().await;
        disk.start_stream(everything(), options()).await.unwrap();
        wait_for_stream(&disk).await;
        let expected = ["created", "running", "waiting", "pending", "COMPLETED", "concluded", "null"];
        assert_eq!(story(&told), expected);
        let (done, _) = told.borrow()[4].clone();
        assert_eq!((done.offset, done.error), (done.len, None));
        assert!(disk.jobs().is_empty() && disk.leaf().backing().is_none());
        guest.verify().await;
    });
}

#[test]
fn finalize_and_dismiss_wait_for_their_commands() {
    seeds(20, |_| async {
        let (files, disk, told, guest, _) = stage().await;
        let manual = JobOptions { auto_finalize: false, auto_dismiss: false, ..options() };
        disk.start_stream(everything(), manual.clone()).await.unwrap();
        let job = disk.job("job0").unwrap();
        for refused in [job.dismiss(), job.finalize(), job.complete(), job.resume()] {
            let error = refused.err().unwrap().to_string();
            let state = "Job 'job0' in state 'running' cannot accept command verb";
            assert!(error.starts_with(state) || error == "Can't resume a job that was not paused", "{error}");
        }
        wait_for_status(&disk, Status::Pending).await;
        let error = job.pause().err().unwrap().to_string();
        assert_eq!(error, "Job 'job0' in state 'pending' cannot accept command verb 'pause'");
        // Nothing is final yet, and the job still holds the disk.
        assert!(disk.leaf().backing().is_some());
        let error = disk.start_stream(everything(), JobOptions::new("job1")).await.err().unwrap();
        assert_eq!(error.to_string(), "Node 'virtio0' is busy: block device is in use by block job: stream");
        assert_eq!(disk.resize(disk.size() + 512).await.err().unwrap().kind(), ErrorKind::InUse);
        if random(2) == 0 {
            job.cancel().unwrap();
            wait_for_status(&disk, Status::Concluded).await;
            assert!(disk.leaf().backing().is_some());
            assert_eq!(story(&told)[4..], ["PENDING", "aborting", "CANCELLED", "concluded"]);
        } else {
            job.finalize().unwrap();
            wait_for_status(&disk, Status::Concluded).await;
            assert!(disk.leaf().backing().is_none());
            files.add("base", Vec::new());
            assert_eq!(story(&told)[4..], ["PENDING", "COMPLETED", "concluded"]);
        }
        // The ended job can still be queried, and does not block others.
        let error = job.cancel().err().unwrap().to_string();
        assert_eq!(error, "Job 'job0' in state 'concluded' cannot accept command verb 'cancel'");
        disk.start_stream(everything(), JobOptions::new("job1")).await.unwrap();
        assert_eq!(disk.jobs().len(), 2);
        job.dismiss().unwrap();
        wait_for_stream(&disk).await;
        assert!(disk.jobs().is_empty());
        guest.verify().await;
    });
}

#[test]
fn a_paused_job_rests_and_goes_on() {
    seeds(40, |_| async {
        let (files, disk, told, guest, _) = stage().await;
        let worker = spawn(guest.clone().work(40));
        disk.start_stream(everything(), options()).await.unwrap();
        executor::sleep(Duration::from_micros(random(1500))).await;
        // If the copies were fast, its result is being made final by now.
        let Ok(job) = disk.job("job0") else { return };
        if job.info().status != Status::Running {
            return;
        }
        job.pause().unwrap();
        assert_eq!(job.pause().err().unwrap().to_string(), "Job is already paused");
        wait_for_status(&disk, Status::Paused).await;
        worker.await;
        let offset = job.info().offset;
        let reads = files.get("base").unwrap();
        reads.set_faults(Faults { read: 1000, ..Faults::default() });
        executor::sleep(Duration::from_secs(60)).await;
        assert_eq!(job.info().offset, offset, "a paused job goes on");
        reads.set_faults(Faults::default());
        assert!(job.info().paused && !job.info().busy);
        if random(2) == 0 {
            job.cancel().unwrap();
            wait_for_stream(&disk).await;
            let end = story(&told);
            assert_eq!(end[end.len() - 5..], ["running", "aborting", "CANCELLED", "concluded", "null"]);
            assert!(disk.leaf().backing().is_some());
            stream_all(&disk).await.unwrap();
        } else {
            job.resume().unwrap();
        }
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
        guest.verify().await;
    });
}

#[test]
fn a_speed_is_kept() {
    seeds(3, |seed| async move {
        let files = folder();
        let content = vec![7; 512 << 10];
        files.add("base", content.clone());
        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        let (disk, _) = open_telling(&files, "leaf", kind).await;
        let speed = (32 << 10) << (seed % 3);
        let start = executor::now();
        disk.start_stream(everything(), JobOptions { speed, ..options() }).await.unwrap();
        wait_for_stream(&disk).await;
        let (took, expected) = ((executor::now() - start).as_secs_f64(), (512 << 10) as f64 / speed as f64);
        assert!(took > expected * 0.8 && took < expected * 1.1 + 0.2, "{took} s, not {expected}");
    });
}

#[test]
fn an_error_does_what_the_policy_says() {
    seeds(40, |seed| async move {
        let (files, disk, told, guest, kind) = stage().await;
        let on_error = [OnError::Report, OnError::Stop, OnError::Ignore, OnError::Enospc][seed as usize % 4];
        let no_space = random(2) == 0;
        let (base, leaf) = (files.get("base").unwrap(), files.get("leaf").unwrap());
        if no_space {
            let limit = Some(leaf.content().len() as u64);
            leaf.set_faults(Faults { limit, delay: 100, ..Faults::default() });
        } else {
            base.set_faults(Faults { read: 1000, delay: 100, ..Faults::default() });
        }
        let manual = JobOptions { on_error, auto_dismiss: false, ..options() };
        disk.start_stream(everything(), manual).await.unwrap();
        let job = disk.job("job0").unwrap();
        let stops = on_error == OnError::Stop || (on_error == OnError::Enospc && no_space);
        if stops {
            wait_for_status(&disk, Status::Paused).await;
            assert!(job.info().paused && job.info().io_status != crate::disk::job::IoStatus::Ok);
            assert!(job.info().error.is_none() && job.info().detail.is_some(), "{:?}", job.info());
            // Resumed too early it stops again; without the cause it continues.
            job.resume().unwrap();
            executor::sleep(Duration::from_millis(50)).await;
            wait_for_status(&disk, Status::Paused).await;
            for file in [&base, &leaf] {
                file.set_faults(Faults { delay: 100, ..Faults::default() });
            }
            job.resume().unwrap();
            wait_for_status(&disk, Status::Concluded).await;
            assert_eq!((job.info().error, job.info().detail), (None, None));
            assert!(disk.leaf().backing().is_none());
            assert!(story(&told).iter().filter(|what| what.contains("STOP")).count() >= 2);
        } else {
            wait_for_status(&disk, Status::Concluded).await;
            let action = if on_error == OnError::Ignore { "IGNORE" } else { "REPORT" };
            let what = story(&told);
            assert!(what[2].starts_with("ERROR") && what[2].contains(action), "{what:?}");
            assert_eq!(what[2].contains("READ"), !no_space, "{what:?}: {:?}", job.info().error);
            assert_eq!(what[what.len() - 3..], ["aborting", "COMPLETED", "concluded"]);
            let info = job.info();
            let words = if no_space { "No space left on device" } else { "Input/output error" };
            assert_eq!(info.error.as_deref(), Some(words));
            // The message says where.
            let name = if no_space { "leaf" } else { "base" };
            assert!(info.detail.as_ref().is_some_and(|text| text.contains(name)), "{info:?}");
            assert!(disk.leaf().backing().is_some());
            for file in [&base, &leaf] {
                file.set_faults(Faults { delay: 100, ..Faults::default() });
            }
        }
        job.dismiss().unwrap();
        guest.clone().work(10).await;
        guest.verify().await;
        disk.start_stream(everything(), options()).await.unwrap();
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
        disk.close().await.unwrap();
        check(&files, "leaf", kind, model::Leaks::Allowed);
    });
}

#[test]
fn any_command_at_any_time_under_load_and_faults() {
    seeds(40, |_| async {
        let (files, disk, told, guest, kind) = stage().await;
        let faults = Faults { read: 20, write: 20, delay: 200, ..Faults::default() };
        for name in ["base", "leaf"] {
            files.get(name).unwrap().set_faults(faults);
        }
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_through_errors(60))).collect();
        for round in 0..3 {
            let policies = [OnError::Report, OnError::Stop, OnError::Ignore, OnError::Enospc];
            let options = JobOptions {
                speed: [0, 100_000, 10_000_000][random(3) as usize],
                on_error: policies[random(4) as usize],
                auto_finalize: random(2) == 0,
                auto_dismiss: random(2) == 0,
                ..JobOptions::new(format!("job{round}"))
            };
            disk.start_stream(everything(), options.clone()).await.unwrap();
            for _ in 0..random(20) {
                executor::sleep(Duration::from_micros(random(500))).await;
                let Ok(job) = disk.job(&options.id) else { break };
                // Each is executed or refused by the state; none hangs.
                let _ = match random(6) {
                    0 => job.pause(),
                    1 => job.resume(),
                    2 => job.set_speed(random(1 << 22)),
                    3 => job.finalize(),
                    4 => job.dismiss(),
                    _ if random(4) == 0 => job.cancel(),
                    _ => job.complete(),
                };
            }
            if let Ok(job) = disk.job(&options.id) {
                let _ = job.cancel();
                job.ended().await;
                let _ = job.dismiss();
            }
            assert!(disk.jobs().is_empty());
            let is_end = |(job, what): &&(Info, JobEvent)| {
                job.id == options.id && matches!(what, JobEvent::Completed | JobEvent::Cancelled)
            };
            let ends = told.borrow().iter().filter(is_end).count();
            assert_eq!(ends, 1, "a job has one end: {:?}", story(&told));
        }
        for worker in workers {
            worker.await;
        }
        for name in ["base", "leaf"] {
            files.get(name).unwrap().set_faults(Faults::default());
        }
        let completed =
            told.borrow().iter().any(|(job, what)| *what == JobEvent::Completed && job.error.is_none());
        assert_eq!(completed, disk.leaf().backing().is_none());
        guest.verify().await;
        disk.close().await.unwrap();
        check(&files, "leaf", kind, model::Leaks::Allowed);
    });
}

#[test]
fn the_jobs_of_2011_tell_only_their_states() {
    seeds(10, |_| async {
        let (_, disk, told, _, _) = stage().await;
        assert_eq!(JobOptions::new("x").events, Events::Job);
        stream_all(&disk).await.unwrap();
        wait_for_stream(&disk).await;
        assert_eq!(story(&told), ["created", "running", "waiting", "pending", "concluded", "null"]);
    });
}
