//! Adaptive mirrors, and mirrors that write behind the guest, to targets that are slower than it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use executor::{Executor, now, spawn};

use super::model::random;
use super::stage::Log;
use crate::disk::job::{Job, JobEvent, JobOptions, Status};
use crate::job::mirror::{Copies, CopyMode, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use crate::sim::{Faults, SimDir};
use crate::{Buf, Disk, Kind, chain};

const GRANULE: u64 = 64 << 10;

/// A disk on a raw image of noise, and a raw target.
struct Stage {
    files: Rc<SimDir>,
    disk: Rc<Disk>,
    log: Rc<Log>,
}

impl Stage {
    async fn new(size: u64) -> Self {
        let files = SimDir::new();
        let noise: Vec<u8> = (0..size / 8).flat_map(|_| executor::random().to_le_bytes()).collect();
        files.add("disk", noise);
        files.add("target", vec![0; size as usize]);
        let log: Rc<Log> = Rc::default();
        let sink = log.clone();
        let leaf = chain::open(&*files, "disk", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| sink.record(event));
        Stage { files, disk, log }
    }

    /// Sets how many bytes a second the target takes.
    fn target_takes(&self, rate: u64) {
        self.files.get("target").unwrap().set_faults(Faults { rate, ..Faults::default() });
    }

    async fn mirror(&self, mode: CopyMode, tuning: MirrorTuning) -> Rc<Job> {
        let target =
            MirrorTarget { name: "target".into(), format: Kind::Raw, existing: true, node_name: None };
        let mirror = MirrorOptions {
            target,
            sync: Sync::Full,
            mode,
            copies: Copies::default(),
            witness: None,
            tuning,
        };
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("mirror") };
        self.disk.start_mirror(mirror, options).await.unwrap();
        self.disk.job("mirror").unwrap()
    }

    /// Has the disk move, and checks that the target has what the disk had.
    async fn move_and_compare(&self, job: &Job) {
        job.complete().unwrap();
        assert_eq!(self.log.ended(job).await, None);
        assert_eq!(self.disk.leaf().name(), "target");
        let (source, target) = (self.files.get("disk").unwrap(), self.files.get("target").unwrap());
        let differs = source.content().iter().zip(target.content()).position(|(one, other)| *one != other);
        assert_eq!(differs, None, "the offset of the first byte that is another");
    }

    async fn write(&self, offset: u64, len: usize) {
        write(&self.disk, offset, len).await;
    }

    async fn flush(&self) {
        let ticket = self.disk.enter().await;
        self.disk.flush(&ticket).await.unwrap();
    }
}

/// Writes noise.
async fn write(disk: &Rc<Disk>, offset: u64, len: usize) {
    let buf = Buf::new(len);
    let noise: Vec<u8> = (0..len / 8).flat_map(|_| executor::random().to_le_bytes()).collect();
    buf.copy_from(&noise);
    let ticket = disk.enter().await;
    disk.write(&ticket, offset, buf).await.unwrap();
}

/// A guest that writes at random until it is stopped: bytes a second, at most, and where.
struct Writer {
    rate: u64,
    works_on: u64,
    len: usize,
    stop: Cell<bool>,
}

impl Writer {
    async fn work(self: Rc<Self>, disk: Rc<Disk>) {
        let mut next = now();
        while !self.stop.get() {
            write(&disk, random(self.works_on / self.len as u64) * self.len as u64, self.len).await;
            next = next.max(now().saturating_sub(Duration::from_millis(50)))
                + Duration::from_secs_f64(self.len as f64 / self.rate as f64);
            executor::sleep(next.saturating_sub(now())).await;
        }
    }
}

/// Random rates, working sets, and speeds of the target, which also change.
#[test]
fn an_adaptive_mirror_is_ready_as_long_as_its_target_takes_writes() {
    super::seeds(200, |_| async {
        let size = (1 + random(4)) << 20;
        let stage = Stage::new(size).await;
        let slowest = (128 << 10) << random(5);
        let steady = random(2) == 0;
        stage.target_takes(slowest);
        let workers = 1 + random(4);
        let writer = Rc::new(Writer {
            rate: ((64 << 10) << random(8)) / workers,
            works_on: (size >> random(6)).max(GRANULE),
            len: 4096 << random(5),
            stop: Cell::new(false),
        });
        let latency = random(3) == 0;
        let tuning = MirrorTuning {
            adaptive: true,
            window: [0, 0, GRANULE, 1 << 20][random(4) as usize],
            deadline: (random(4) == 0).then(|| Duration::from_secs(1 + random(30))),
            max_latency: latency.then(|| Duration::from_millis(1 + random(100))),
        };
        let begun = now();
        let tasks: Vec<_> = (0..workers).map(|_| spawn(writer.clone().work(stage.disk.clone()))).collect();
        let job = stage.mirror(CopyMode::Background, tuning).await;
        if !steady {
            let files = stage.files.clone();
            spawn(async move {
                for _ in 0..100 {
                    executor::sleep(Duration::from_millis(random(500))).await;
                    let rate = slowest * (1 + random(4));
                    files.get("target").unwrap().set_faults(Faults { rate, ..Faults::default() });
                }
            });
        }
        // As long as it takes without a writer.
        let alone = Duration::from_secs_f64(size as f64 / slowest as f64);
        let ready = executor::timeout(20 * alone + Duration::from_secs(200), stage.log.ready()).await;
        assert_eq!(ready, Some(true), "not ready: {writer_rate} bytes/s", writer_rate = writer.rate);
        let took = now() - begun;
        // Some writes are at the target when the mode changes, and in the window; and in less than the
        // shortest patience nothing is decided.
        let on_their_way = Duration::from_secs_f64((tuning.window + (1 << 20)) as f64 / slowest as f64);
        let most = 2 * alone + on_their_way + Duration::from_millis(500);
        assert!(!steady || latency || took <= most, "took {took:?}, alone {alone:?}");
        writer.stop.set(true);
        for task in tasks {
            task.await;
        }
        stage.move_and_compare(&job).await;
        stage.disk.close().await.unwrap();
    });
}

/// The row: a target of a fixed speed, and a writer of twice that, at random over the whole disk.
#[test]
fn an_adaptive_mirror_takes_at_most_twice_as_long_beside_a_writer_that_is_faster_than_its_target() {
    super::seeds(30, |_| async {
        let size = 8 << 20;
        let stage = Stage::new(size).await;
        stage.target_takes(2 << 20);
        let writer =
            Rc::new(Writer { rate: 1 << 20, works_on: size, len: 4096 << random(5), stop: Cell::new(false) });
        let begun = now();
        let tasks: Vec<_> = (0..4).map(|_| spawn(writer.clone().work(stage.disk.clone()))).collect();
        let tuning = MirrorTuning { adaptive: true, ..MirrorTuning::default() };
        let job = stage.mirror(CopyMode::Background, tuning).await;
        assert!(stage.log.ready().await);
        let took = now() - begun;
        assert!(took <= Duration::from_secs(8), "took {took:?} instead of 4 s");
        writer.stop.set(true);
        for task in tasks {
            task.await;
        }
        stage.move_and_compare(&job).await;
        stage.disk.close().await.unwrap();
    });
}

#[test]
fn a_guest_does_not_wait_for_a_target_that_is_written_behind_it() {
    Executor::simulated(1).block_on(async {
        let stage = Stage::new(1 << 20).await;
        let tuning = MirrorTuning { window: 128 << 10, ..MirrorTuning::default() };
        let job = stage.mirror(CopyMode::WriteBlocking, tuning).await;
        assert!(stage.log.ready().await);
        stage.target_takes(64 << 10);
        let begun = now();
        for n in 0..4 {
            stage.write(n * GRANULE, 32 << 10).await;
        }
        assert!(now() - begun < Duration::from_millis(1), "the window has room for them");
        stage.write(5 * GRANULE, 32 << 10).await;
        assert!(now() - begun >= Duration::from_millis(500), "until the first is written, there is no room");
        let begun = now();
        stage.flush().await;
        assert!(now() - begun >= Duration::from_millis(1900), "a flush covers the target, too");
        let written = stage.files.get("target").unwrap();
        let same = |range: std::ops::Range<usize>| {
            stage.files.get("disk").unwrap().content()[range.clone()] == written.content()[range]
        };
        assert!(same(0..1 << 20));
        // Completing does not wait for the guest's writes one after the other, and loses none.
        for n in 0..3 {
            stage.write(n * GRANULE, 32 << 10).await;
        }
        stage.move_and_compare(&job).await;
        stage.disk.close().await.unwrap();
    });
}

#[test]
fn a_mirror_with_writes_on_their_way_to_a_target_that_hangs_is_cancelled() {
    Executor::simulated(1).block_on(async {
        let stage = Stage::new(1 << 20).await;
        let tuning = MirrorTuning { window: 64 << 10, ..MirrorTuning::default() };
        let job = stage.mirror(CopyMode::WriteBlocking, tuning).await;
        assert!(stage.log.ready().await);
        stage.target_takes(1);
        for n in 0..8 {
            stage.write(n * GRANULE, 8 << 10).await;
        }
        // There is no room for this one.
        let disk = stage.disk.clone();
        let waiting = spawn(async move { write(&disk, 9 * GRANULE, 8 << 10).await });
        executor::sleep(Duration::from_millis(1)).await;
        job.cancel().unwrap();
        stage.log.wait(|event| event == JobEvent::Cancelled).await;
        assert_eq!(stage.disk.leaf().name(), "disk");
        stage.write(0, 4096).await;
        stage.target_takes(0);
        waiting.await;
    });
}

#[test]
fn a_mirror_whose_target_hangs_while_it_copies_is_cancelled_and_keeps_no_guest() {
    Executor::simulated(1).block_on(async {
        for (mode, window, adaptive) in [
            (CopyMode::Background, 0, false),
            (CopyMode::WriteBlocking, 0, false),
            (CopyMode::WriteBlocking, 64 << 10, false),
            (CopyMode::Background, 64 << 10, true),
        ] {
            let stage = Stage::new(4 << 20).await;
            stage.target_takes(64 << 10);
            let tuning = MirrorTuning { window, adaptive, ..MirrorTuning::default() };
            let job = stage.mirror(mode, tuning).await;
            executor::sleep(Duration::from_secs(10)).await;
            assert_eq!(job.info().status, Status::Running);
            // What is in flight ends at the old speed, and nothing that begins later.
            stage.target_takes(1);
            // Writes that wait for room or for their share.
            let waiting: Vec<_> = (0..8u64)
                .map(|n| {
                    let disk = stage.disk.clone();
                    spawn(async move { write(&disk, n * GRANULE, 32 << 10).await })
                })
                .collect();
            executor::sleep(Duration::from_secs(1)).await;
            job.cancel().unwrap();
            let ended = stage.log.wait(|event| event == JobEvent::Cancelled);
            assert!(executor::timeout(Duration::from_secs(60), ended).await.is_some(), "{mode:?} {window}");
            // Others go on at once.
            let begun = now();
            stage.write(3 << 20, 4096).await;
            stage.flush().await;
            assert!(now() - begun < Duration::from_secs(1));
            stage.target_takes(0);
            for task in waiting {
                task.await;
            }
        }
    });
}

#[test]
fn a_client_that_chooses_the_mode_of_an_adaptive_mirror_has_the_last_word() {
    Executor::simulated(1).block_on(async {
        let stage = Stage::new(4 << 20).await;
        stage.target_takes(1 << 20);
        let writer =
            Rc::new(Writer { rate: 4 << 20, works_on: 4 << 20, len: 64 << 10, stop: Cell::new(false) });
        let task = spawn(writer.clone().work(stage.disk.clone()));
        let tuning = MirrorTuning { adaptive: true, window: 256 << 10, ..MirrorTuning::default() };
        let job = stage.mirror(CopyMode::Background, tuning).await;
        job.write_both(false).unwrap();
        // Without that it would be ready within 8 s.
        executor::sleep(Duration::from_secs(40)).await;
        let info = job.info();
        assert_eq!((info.status, info.following.map(|now| now.active)), (Status::Running, Some(false)));
        job.write_both(true).unwrap();
        assert!(stage.log.ready().await);
        let following = job.info().following.unwrap();
        assert!(following.active && following.queued > 0, "the window is the client's, too: {following:?}");
        assert!(!job.info().synced, "something is on its way");
        writer.stop.set(true);
        task.await;
        stage.flush().await;
        assert!(job.info().synced);
        stage.move_and_compare(&job).await;
        stage.disk.close().await.unwrap();
    });
}

/// The guest's writes to both sides leave the copier its share, whatever is in flight.
#[test]
fn a_window_does_not_keep_the_copier_from_its_end() {
    super::seeds(40, |_| async {
        let size = 2 << 20;
        let stage = Stage::new(size).await;
        stage.target_takes(512 << 10);
        let writer = Rc::new(Writer {
            rate: 64 << 20,
            works_on: size,
            len: 4096 << random(5),
            stop: Cell::new(false),
        });
        let tasks: Vec<_> = (0..8).map(|_| spawn(writer.clone().work(stage.disk.clone()))).collect();
        let begun = now();
        let tuning = MirrorTuning { window: GRANULE << random(3), ..MirrorTuning::default() };
        let job = stage.mirror(CopyMode::WriteBlocking, tuning).await;
        assert!(stage.log.ready().await);
        let took = now() - begun;
        // After that comes what is in the queue, where the writes to one granule wait for each other. Without
        // a share of its own the copier alone would take longer.
        assert!(took <= Duration::from_secs(9), "took {took:?}; 6 s with two thirds of the target");
        writer.stop.set(true);
        for task in tasks {
            task.await;
        }
        stage.move_and_compare(&job).await;
        stage.disk.close().await.unwrap();
    });
}
