//! No file has two owners: not after a switch whose flush failed, not while a disk is being closed, not
//! on storage without locks.

use super::*;
use crate::OnError;
use crate::disk::job::{JobEvent, JobOptions};
use crate::disk::switch::Overlay;
use crate::job::stream::{Base, StreamOptions};

async fn read(disk: &Rc<Disk>, offset: u64, len: usize) -> Vec<u8> {
    let (ticket, buf) = (disk.enter().await, Buf::new(len));
    disk.read(&ticket, offset, buf.clone()).await.unwrap();
    buf.to_vec()
}

async fn write(disk: &Rc<Disk>, offset: u64, bytes: &[u8]) {
    let ticket = disk.enter().await;
    disk.write(&ticket, offset, Buf::from_bytes(bytes)).await.unwrap();
}

async fn flush(disk: &Rc<Disk>) -> crate::Result<()> {
    let ticket = disk.enter().await;
    disk.flush(&ticket).await
}

fn over(name: &str, kind: Kind) -> Create {
    Create { backing: Some((name.into(), kind)), ..options(64 << 10, true) }
}

/// A switch from `mid` to `top` while nothing can be written to `mid`, which has a completed write in memory.
#[test]
fn an_old_leaf_that_is_not_clean_is_not_streamed_into() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![7; 1 << 20]);
        image::create(&*files, "mid", Kind::Qcow2, &over("base", Kind::Raw)).await.unwrap();
        image::create(&*files, "top", Kind::Qcow2, &over("mid", Kind::Qcow2)).await.unwrap();
        let (disk, _) = open(&files, "mid", Kind::Qcow2).await;
        let target = Target { name: "top".into(), format: Some(Kind::Qcow2), notify: false };
        let prepared = disk.prepare_switch(&target).await.unwrap();
        write(&disk, 512 << 10, &[9; 4096]).await;
        let mid = files.get("mid").unwrap();
        mid.set_faults(Faults { write: 1000, ..Faults::default() });
        prepared.commit(DEADLINE).await.unwrap();
        let name = disk.leaf().backing().unwrap().node_name();
        let extent = StreamOptions { image: Some(name.clone()), ..StreamOptions::default() };
        // Its changes in memory cannot be written yet: the job is refused, and nothing changes.
        let error = disk.start_stream(extent.clone(), JobOptions::new("job0")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(read(&disk, 512 << 10, 4096).await, [9; 4096]);
        mid.set_faults(Faults::default());
        disk.start_stream(extent, JobOptions::new("job0")).await.unwrap();
        assert_eq!(read(&disk, 512 << 10, 4096).await, [9; 4096], "an answered write is gone");
        wait_for_stream(&disk).await;
        assert_eq!(disk.leaf().backing().unwrap().node_name(), name);
        flush(&disk).await.unwrap();
        disk.close().await.unwrap();
        check(&files, "mid", Kind::Qcow2, model::Leaks::None);
        files.add("base", Vec::new());
        let (disk, _) = open(&files, "top", Kind::Qcow2).await;
        let mut expected = vec![7; 1 << 20];
        expected[512 << 10..][..4096].fill(9);
        assert!(read(&disk, 0, 1 << 20).await == expected, "the image was destroyed");
    });
}

/// If an image in the middle cannot be made durable, its stream fails, but the guest's flushes do not:
/// the image contains nothing that the guest has written.
#[test]
fn a_stream_into_a_backing_file_that_fails_fails_no_flush() {
    seeds(50, |_| async {
        let files = SimDir::new();
        files.add("base", vec![7; 1 << 20]).set_faults(Faults { delay: 100, ..Faults::default() });
        image::create(&*files, "mid", Kind::Qcow2, &over("base", Kind::Raw)).await.unwrap();
        image::create(&*files, "top", Kind::Qcow2, &over("mid", Kind::Qcow2)).await.unwrap();
        let (disk, _) = open(&files, "top", Kind::Qcow2).await;
        let name = disk.leaf().backing().unwrap().node_name();
        let extent = StreamOptions { image: Some(name), ..StreamOptions::default() };
        disk.start_stream(extent.clone(), JobOptions::new("job0")).await.unwrap();
        let mid = files.get("mid").unwrap();
        // From some time on, neither copies nor tables can be written.
        executor::sleep(Duration::from_micros(random(2000))).await;
        mid.set_faults(Faults { write: 1000, ..Faults::default() });
        wait_for_stream(&disk).await;
        write(&disk, 4096, &[9; 4096]).await;
        flush(&disk).await.unwrap();
        mid.set_faults(Faults::default());
        // Once they can, the next stream continues where that one ended.
        disk.start_stream(extent, JobOptions::new("job1")).await.unwrap();
        wait_for_stream(&disk).await;
        flush(&disk).await.unwrap();
        disk.close().await.unwrap();
        check(&files, "mid", Kind::Qcow2, model::Leaks::None);
        files.add("base", Vec::new());
        let (disk, _) = open(&files, "top", Kind::Qcow2).await;
        let mut expected = vec![7; 1 << 20];
        expected[4096..][..4096].fill(9);
        assert!(read(&disk, 0, 1 << 20).await == expected);
    });
}

/// Snapshots, streams into any image of the chain and flushes, on storage that fails now and then:
/// completed writes are there, whichever switch, stream or end of either failed.
#[test]
fn inner_streams_after_switches_whose_flush_failed() {
    seeds(150, |_| async {
        let files = SimDir::new();
        let content = base_content(300);
        files.add("base", content.clone());
        let first = create_over(&files, "image0", "base", Kind::Raw).await;
        let (disk, _) = open(&files, "image0", first).await;
        let guest = Guest::new(disk.clone(), content);
        let mut images = vec![("image0".to_owned(), first)];
        for n in 1..4 {
            let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_through_errors(20))).collect();
            let (below, kind) = images.last().cloned().unwrap();
            let name = format!("image{n}");
            let new = create_over(&files, &name, &below, kind).await;
            files.get(&name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
            let target = Target { name: name.clone(), format: Some(new), notify: false };
            let faults =
                Faults { write: [0, 100, 1000][random(3) as usize], delay: 100, ..Faults::default() };
            if let Ok(prepared) = disk.prepare_switch(&target).await {
                executor::sleep(Duration::from_micros(random(1000))).await;
                files.get(&below).unwrap().set_faults(faults);
                if prepared.commit(DEADLINE).await.is_ok() {
                    images.push((name, new));
                }
            }
            // Into any image, down to any other.
            for _ in 0..1 + random(3) {
                if random(2) == 0 {
                    files.get(&below).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
                }
                let chain: Vec<_> = std::iter::successors(Some(disk.leaf()), |node| node.backing())
                    .map(|n| n.node_name())
                    .collect();
                let at = random(chain.len() as u64 - 1) as usize;
                let base = chain.get(at + 1 + random(3) as usize).filter(|_| random(2) == 0).cloned();
                let extent = StreamOptions {
                    image: Some(chain[at].clone()),
                    base: base.map(Base::Node),
                    ..StreamOptions::default()
                };
                let on_error = [OnError::Report, OnError::Ignore][random(2) as usize];
                let _ = disk.start_stream(extent, JobOptions { on_error, ..JobOptions::new("job0") }).await;
                wait_for_stream(&disk).await;
                if disk.leaf().backing().is_none() {
                    break;
                }
            }
            for worker in workers {
                worker.await;
            }
            for (name, _) in &images {
                files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
            }
            guest.verify().await;
        }
        guest.flush_now().await.unwrap();
        let (leaf, kind) = images.last().cloned().unwrap();
        disk.close().await.unwrap();
        for (name, kind) in &images {
            // Written in several sessions, some of which could not end.
            check(&files, name, *kind, model::Leaks::Any);
        }
        let (disk, _) = open(&files, &leaf, kind).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn an_old_leaf_ends_its_life_once_it_can() {
    seeds(20, |_| async {
        let files = SimDir::new();
        files.add("base", vec![7; 1 << 20]);
        let mid = create_over(&files, "mid", "base", Kind::Raw).await;
        let top = create_over(&files, "top", "mid", mid).await;
        let (disk, _) = open(&files, "mid", mid).await;
        let target = Target { name: "top".into(), format: Some(top), notify: false };
        let prepared = disk.prepare_switch(&target).await.unwrap();
        write(&disk, 0, &[9; 4096]).await;
        let file = files.get("mid").unwrap();
        file.set_faults(Faults { write: 1000, ..Faults::default() });
        prepared.commit(DEADLINE).await.unwrap();
        assert!(disk.leaf().backing().unwrap().is_writable());
        file.set_faults(Faults::default());
        // By a stream, or at the disk's end.
        let old = disk.leaf().backing().unwrap();
        if random(2) == 0 {
            stream_all(&disk).await.unwrap();
            wait_for_stream(&disk).await;
        } else {
            disk.close().await.unwrap();
        }
        assert!(!old.is_writable());
        check(&files, "mid", mid, model::Leaks::None);
    });
}

#[test]
fn an_image_of_the_chain_is_no_target() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![7; 1 << 20]);
        image::create(&*files, "low", Kind::Qcow2, &over("base", Kind::Raw)).await.unwrap();
        image::create(&*files, "mid", Kind::Qcow2, &over("low", Kind::Qcow2)).await.unwrap();
        image::create(&*files, "leaf", Kind::Qcow2, &over("mid", Kind::Qcow2)).await.unwrap();
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        let before: Vec<_> =
            ["base", "low", "mid", "leaf"].map(|name| files.get(name).unwrap().content()).into();
        let to = |name: &str, format| Target { name: name.into(), format: Some(format), notify: false };
        // Back to a backing file of its own: every image over it would change with it.
        for (name, kind) in [("base", Kind::Raw), ("low", Kind::Qcow2), ("mid", Kind::Qcow2)] {
            let error = disk.prepare_switch(&to(name, kind)).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = format!("{name}: is a backing file of the running image, whose content depends on it");
            assert_eq!(error.to_string(), text);
        }
        // A snapshot would empty it.
        for name in ["base", "low"] {
            let overlay = Overlay {
                name: name.into(),
                format: Kind::Qcow2,
                existing: false,
                node_name: None,
                notify: false,
            };
            let error = disk.prepare_overlay(&overlay).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            assert!(
                error.to_string().starts_with(&format!("{name}: this program has the image open")),
                "{error}"
            );
        }
        // So would a record of the reads, and another disk's overlay.
        let tuning = Tuning { record: Some("low".into()), ..Tuning::default() };
        let extent = StreamOptions { tuning, ..StreamOptions::default() };
        disk.start_stream(extent, JobOptions::new("job0")).await.unwrap();
        wait_for_stream(&disk).await;
        let after: Vec<_> = ["base", "low", "mid"].map(|name| files.get(name).unwrap().content()).into();
        assert!(before[..3] == after[..], "an image of the running chain was changed");
        let error = chain::open(&*files, "leaf", Kind::Qcow2, true).await.err().unwrap().to_string();
        assert_eq!(
            error,
            "leaf: this program has the image open already, as the image of a disk that is written"
        );
    });
}

/// A stop that somebody is waiting for already, jobs that wait for commands, a resize, a cluster that is
/// being copied: a disk is closed only when nothing of it is in flight.
#[test]
fn a_disk_is_closed_when_nothing_is_in_flight() {
    seeds(60, |seed| async move {
        let files = SimDir::new();
        let content = base_content(700);
        files.add("base", content.clone()).set_faults(Faults { delay: 2000, ..Faults::default() });
        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        let leaf = files.get("leaf").unwrap();
        leaf.set_faults(Faults { delay: 500, ..Faults::default() });
        let ended: Rc<RefCell<u32>> = Rc::default();
        let disk = {
            let (ended, node) = (ended.clone(), chain::open(&*files, "leaf", kind, true).await.unwrap());
            Disk::new("virtio0", node, false, files.clone(), move |event| {
                if let DiskEvent::Job { what: JobEvent::Completed | JobEvent::Cancelled, .. } = event {
                    *ended.borrow_mut() += 1;
                }
            })
        };
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(5).await;
        let options = JobOptions {
            auto_finalize: seed % 2 == 0,
            auto_dismiss: random(2) == 0,
            ..JobOptions::new("job0")
        };
        let busy = disk.clone();
        let work = match seed % 4 {
            0 | 1 => {
                disk.start_stream(StreamOptions::default(), options).await.unwrap();
                executor::sleep(Duration::from_micros(random(3000))).await;
                spawn(async move {
                    let _ = busy.stop_stream().await;
                })
            }
            2 => spawn(async move {
                let _ = busy.stream_at(random(300) * 512).await;
            }),
            _ => spawn(async move {
                let _ = busy.resize(busy.size() + (64 << 10)).await;
            }),
        };
        executor::sleep(Duration::from_micros(random(300))).await;
        disk.close().await.unwrap();
        let closed = leaf.content();
        assert_eq!(*ended.borrow(), u32::from(seed % 4 < 2), "a job outlives its disk");
        assert_eq!(stream_all(&disk).await.unwrap_err().to_string(), "Device 'virtio0' is being closed");
        executor::sleep(Duration::from_secs(1)).await;
        work.await;
        assert!(leaf.content() == closed, "the image was written after the disk's end");
        check(&files, "leaf", kind, model::Leaks::None);
        let (disk, _) = open(&files, "leaf", kind).await;
        guest.grow(disk.size() / 512);
        guest.verify_on(&disk).await;
    });
}

/// A switch that waits for other disks fails if its disk is closed.
#[test]
fn a_prepared_switch_ends_with_its_disk() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![7; 1 << 20]);
        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        let target = Target { name: "leaf".into(), format: Some(kind), notify: false };
        for ready in [false, true] {
            let (disk, _) = open(&files, "base", Kind::Raw).await;
            let options = target.clone();
            let prepare = move |disk: Rc<Disk>| async move { disk.prepare_switch(&options).await };
            let step = crate::disk::step::Step::prepare(&disk.handle(), prepare).await.unwrap();
            if ready {
                step.close(DEADLINE).await.unwrap();
            }
            disk.close().await.unwrap();
            assert!(step.commit().await.is_err());
            assert_eq!(disk.leaf().name(), "base");
        }
        let (disk, _) = open(&files, "base", Kind::Raw).await;
        let prepared = disk.prepare_switch(&target).await.unwrap();
        let closing = {
            let disk = disk.clone();
            spawn(async move { disk.close().await })
        };
        executor::sleep(Duration::from_millis(1)).await;
        assert_eq!(prepared.commit(DEADLINE).await.err().unwrap().kind(), ErrorKind::InUse);
        closing.await.unwrap().unwrap();
        assert_eq!(disk.leaf().name(), "base");
    });
}

/// Single clusters streamed beside switches: the image that was populated is the one that is completed.
#[test]
fn single_clusters_are_streamed_beside_switches() {
    seeds(60, |_| async {
        let files = SimDir::new();
        files.add("base", vec![7; 256 << 10]);
        let low = create_over(&files, "low", "base", Kind::Raw).await;
        let high = create_over(&files, "high", "low", low).await;
        for name in ["base", "low", "high"] {
            files.get(name).unwrap().set_faults(Faults { delay: 200, ..Faults::default() });
        }
        let (disk, _) = open(&files, "low", low).await;
        let clusters = {
            let disk = disk.clone();
            spawn(async move {
                for n in 0..40 {
                    let _ = disk.stream_at(n * (16 << 10)).await;
                }
            })
        };
        executor::sleep(Duration::from_micros(random(8000))).await;
        let target = Target { name: "high".into(), format: Some(high), notify: false };
        let switched = loop {
            match disk.prepare_switch(&target).await {
                Ok(prepared) => break prepared.commit(DEADLINE).await,
                Err(e) => assert_eq!(e.kind(), ErrorKind::InUse, "{e}"),
            }
            executor::sleep(Duration::from_micros(100)).await;
        };
        switched.unwrap();
        let as_backing = files.get("low").unwrap().content();
        clusters.await;
        assert!(files.get("low").unwrap().content() == as_backing, "a backing file was written");
        assert!(read(&disk, 0, 256 << 10).await == vec![7; 256 << 10]);
        disk.close().await.unwrap();
    });
}
