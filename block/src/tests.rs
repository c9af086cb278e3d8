//! Disks in the simulator: every guest operation is compared with a byte array, while the disk is
//! streamed and switched, and the power is cut at any change.
//!
//! Every test that calls [`seeds`] is a scenario: `cargo sim -- list` lists them, `cargo sim -- SCENARIO
//! SEED` replays one seed and prints what happens to the simulated files, `cargo sim -- SCENARIO --seeds
//! N` runs N seeds. In a plain test run, `MILLRACE_SEED=n` replays one seed and `MILLRACE_SEEDS=n` runs
//! that many.

mod abandoned;
mod adaptive;
mod backup;
mod chains;
mod commit;
mod copy_on_read;
mod depth;
mod devices;
mod faults;
mod followers;
mod gate;
mod growth;
mod hostile;
mod jobs;
mod kept;
mod large;
mod map;
mod mirror;
mod model;
mod owners;
mod parallel;
mod parts;
mod progress;
mod replica;
mod resize;
mod stage;
mod stamps;
mod stats;
mod steps;
mod tray;
mod tuning;
mod turns;
mod witness;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use executor::{Executor, spawn};

use crate::disk::switch::{DEADLINE, Target};
use crate::image::chain;
use crate::image::{self, Create};
use crate::job::JobOptions;
use crate::job::stream::{Order, StreamOptions, Tuning};
use crate::sim::{Faults, Nature, Sharing, SimDir};
use crate::{Buf, Disk, DiskEvent, ErrorKind, Kind};
use model::{Guest, random};

/// Creates a folder on some file system: with or without O_DIRECT, holes, allocation ahead, shared blocks.
fn folder() -> Rc<SimDir> {
    let odd = random(3) > 0;
    let drawn = Nature {
        alignment: [1, 512, 4096][random(3) as usize],
        fixed: false,
        allocates: random(3) > 0,
        punches: random(4) > 0,
        zeroes: random(2) == 0,
        sharing: [Sharing::Mixed, Sharing::Always, Sharing::Never][random(3) as usize],
        late: random(2) == 0,
    };
    SimDir::of(if odd { drawn } else { Nature::default() })
}

/// Starts to stream everything into the leaf, as `block_stream` with `all` does.
async fn stream_all(disk: &Rc<Disk>) -> crate::Result<()> {
    stream_tuned(disk, Tuning::default()).await
}

async fn stream_tuned(disk: &Rc<Disk>, tuning: Tuning) -> crate::Result<()> {
    let stream = StreamOptions { tuning, ..StreamOptions::default() };
    disk.start_stream(stream, JobOptions::block_stream(disk.name())).await
}

/// Waits until no stream of the disk runs, in simulated time.
async fn wait_for_stream(disk: &Disk) {
    while !disk.query_stream().is_empty() {
        executor::sleep(Duration::from_micros(50)).await;
    }
}

/// Runs a scenario for many seeds.
fn seeds<F: Future<Output = ()> + 'static>(count: u64, scenario: impl Fn(u64) -> F) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match number("MILLRACE_SEED") {
        Some(seed) => {
            trace();
            seed..seed + 1
        }
        None => 0..number("MILLRACE_SEEDS").unwrap_or(count),
    };
    for seed in range {
        let replay = Replay(seed);
        Executor::simulated(seed).block_on(scenario(seed));
        std::mem::forget(replay);
    }
}

/// Prints what happens to the simulated files of a seed that is replayed, as `MILLRACE_SIM_TRACE` asks for.
fn trace() {
    if std::env::var_os("MILLRACE_SIM_TRACE").is_some() {
        use tracing_subscriber::filter::LevelFilter;
        let lines = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        // Another scenario of this process may have begun it.
        let _ = lines.with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr).try_init();
    }
}

/// Prints the seed that failed.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        let thread = std::thread::current();
        let scenario = thread.name().and_then(|name| name.strip_prefix("tests::")).unwrap_or("SCENARIO");
        eprintln!("failed with seed {0}; replay it with: cargo sim -- {scenario} {0}", self.0);
    }
}

fn options(cluster_size: u64, extended_l2: bool) -> Create {
    Create { cluster_size: Some(cluster_size), extended_l2: Some(extended_l2), ..Create::default() }
}

fn qed(cluster_size: u64, table_size: u64) -> Create {
    Create { cluster_size: Some(cluster_size), table_size: Some(table_size), ..Create::default() }
}

fn some_layout() -> (Kind, Create) {
    let newer = |layout| {
        let (bits, lazy) = (Some(1 << random(7)), Some(random(2) == 0));
        (Kind::Qcow2, Create { refcount_bits: bits, lazy_refcounts: lazy, ..layout })
    };
    let older = |layout| (Kind::Qcow2, Create { version: Some(2), ..layout });
    match random(9) {
        0 => newer(options(512, false)),
        1 => newer(options(4096, false)),
        2 => newer(options(16 << 10, true)),
        3 => newer(options(64 << 10, random(2) == 0)),
        7 => older(options(512, false)),
        8 => older(options(4096 << random(5), false)),
        4 => (Kind::Qed, qed(4096, 1 << random(5))),
        5 => (Kind::Qed, qed(16 << 10, 1)),
        _ => (Kind::Qed, qed(64 << 10, 2)),
    }
}

/// Creates an image of any layout, and returns its format.
async fn create_over(files: &SimDir, name: &str, backing: &str, kind: Kind) -> Kind {
    let (leaf, options) = some_layout();
    let options = Create { backing: Some((backing.to_owned(), kind)), ..options };
    image::create(files, name, leaf, &options).await.unwrap();
    leaf
}

/// Makes an image of any layout, `leaf`, over a raw `base` of this many sectors. Returns both files, the
/// content of the disk, and the format of the leaf.
async fn leaf_over_base(sectors: u64) -> (Rc<SimDir>, Vec<u8>, Kind) {
    let files = folder();
    let content = base_content(sectors);
    files.add("base", content.clone());
    let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
    (files, content, kind)
}

async fn create_qcow2_over(files: &SimDir, name: &str, backing: &str, kind: Kind) {
    while create_over(files, name, backing, kind).await != Kind::Qcow2 {}
}

/// Checks an image by its specification alone.
fn check(files: &SimDir, name: &str, kind: Kind, leaks: model::Leaks) {
    check_since(files, name, kind, leaks, &[]);
}

/// Like [`check`], for an image that several sessions wrote to; see [`model::check_qed`].
fn check_since(files: &SimDir, name: &str, kind: Kind, leaks: model::Leaks, before: &[bool]) -> Vec<bool> {
    let content = files.get(name).unwrap().content();
    match kind {
        Kind::Raw => return Vec::new(),
        Kind::Qcow2 => model::check_refcounts(&content, leaks),
        Kind::Qed => return model::check_qed(&content, leaks, before),
    }
    Vec::new()
}

/// Closes a disk, and checks its image by the specification and by what its guest wrote.
async fn close_and_check(files: &Rc<SimDir>, name: &str, kind: Kind, disk: Rc<Disk>, guest: &Rc<Guest>) {
    disk.close().await.unwrap();
    drop(disk);
    check(files, name, kind, model::Leaks::Allowed);
    let (disk, _) = open(files, name, kind).await;
    guest.verify_on(&disk).await;
}

/// Checks the image `leaf` after a power cut, by its specification and by what its guest flushed.
async fn check_after_power_cut(after: &Rc<SimDir>, kind: Kind, guest: &Rc<Guest>) {
    check(after, "leaf", kind, model::Leaks::Allowed);
    let (disk, _) = open(after, "leaf", kind).await;
    guest.verify_after_power_cut(&disk).await;
}

/// Opens a disk. The ends of its streams go into the list.
async fn open(files: &Rc<SimDir>, name: &str, kind: Kind) -> (Rc<Disk>, Rc<RefCell<Vec<DiskEvent>>>) {
    let leaf = chain::open(&**files, name, kind, true).await.unwrap();
    let events: Rc<RefCell<Vec<DiskEvent>>> = Rc::default();
    let sink = events.clone();
    let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| {
        // The tests of jobs check the other events.
        if matches!(event, DiskEvent::StreamCompleted { .. }) {
            sink.borrow_mut().push(event);
        }
    });
    (disk, events)
}

/// Returns content with holes, of a size that is not a multiple of any cluster size.
fn base_content(sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; (sectors * 512) as usize];
    for sector in bytes.chunks_mut(512 * 16) {
        if random(3) > 0 {
            sector.iter_mut().for_each(|byte| *byte = executor::random() as u8);
        }
    }
    bytes
}

#[test]
fn live_copy_under_a_busy_guest() {
    seeds(300, |_| async {
        let files = folder();
        let content = base_content(700 + random(300));
        files.add("base", content.clone()).set_faults(Faults { delay: 300, ..Faults::default() });
        let (disk, events) = open(&files, "base", Kind::Raw).await;
        disk.set_copy_on_read(random(2) == 0);
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work(60))).collect();

        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        files.get("leaf").unwrap().set_faults(Faults { delay: 300, ..Faults::default() });
        executor::sleep(Duration::from_micros(random(2000))).await;
        let format = (random(2) == 0).then_some(kind);
        let target = Target { name: "leaf".into(), format, notify: random(2) == 0 };
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        let base_after_switch = files.get("base").unwrap().content();
        assert!(disk.leaf().backing().is_some());

        executor::sleep(Duration::from_micros(random(2000))).await;
        let order = [Order::Sequential, Order::HotFirst][random(2) as usize].clone();
        let max_latency = (random(2) == 0).then_some(Duration::from_micros(200));
        stream_tuned(&disk, Tuning { order, max_latency, record: None }).await.unwrap();
        if random(2) == 0 {
            // Stopped somewhere, then resumed.
            executor::sleep(Duration::from_micros(random(3000))).await;
            match disk.stop_stream().await {
                Ok(()) if events.borrow().is_empty() => stream_all(&disk).await.unwrap(),
                Ok(()) => {}
                Err(e) => assert_eq!(e.kind(), ErrorKind::NotActive),
            }
        }
        let mut last = 0;
        while let Some(progress) = disk.query_stream().pop() {
            assert!(progress.offset >= last && progress.offset <= progress.len);
            last = progress.offset;
            executor::sleep(Duration::from_micros(50)).await;
        }
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        assert!(disk.leaf().backing().is_none());
        assert_eq!(files.get("base").unwrap().content(), base_after_switch, "the old image is left alone");
        let DiskEvent::StreamCompleted { len, offset, error, .. } = events.borrow()[0].clone() else {
            unreachable!("no other event is kept");
        };
        assert_eq!((offset, error), (len, None));
        assert_eq!(events.borrow().len(), 1);
        disk.close().await.unwrap();

        // Reopened alone, it has all data, and exact metadata.
        let (disk, _) = open(&files, "leaf", kind).await;
        assert!(disk.leaf().backing().is_none());
        guest.verify_on(&disk).await;
        check(&files, "leaf", kind, model::Leaks::None);
    });
}

#[test]
fn single_clusters_stream_to_the_end() {
    seeds(60, |_| async {
        let (files, content, kind) = leaf_over_base(200).await;
        let (disk, events) = open(&files, "leaf", kind).await;
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(10).await;
        let mut last = 0;
        loop {
            let progress = disk.stream_one().await.unwrap();
            assert!(progress.offset > last || progress.offset == progress.len);
            last = progress.offset;
            if progress.offset == progress.len {
                break;
            }
        }
        // Clusters that the cursor passed are present, so the backing file is gone.
        assert!(disk.leaf().backing().is_none());
        assert!(events.borrow().is_empty());
        assert_eq!(disk.stream_one().await.unwrap().offset, disk.size());
        guest.verify().await;
    });
}

#[test]
fn a_power_cut_loses_nothing_that_was_flushed() {
    seeds(600, |_| async {
        let (files, content, kind) = leaf_over_base(300).await;
        let leaf = files.get("leaf").unwrap();
        leaf.set_faults(Faults { delay: 100, ..Faults::default() });
        let (disk, events) = open(&files, "leaf", kind).await;
        disk.set_copy_on_read(random(2) == 0);
        files.cut_after(1 + random(150));
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_until_error(60))).collect();
        if random(3) > 0 {
            stream_all(&disk).await.unwrap();
        }
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;

        let after = files.after_power_cut();
        let completed = events
            .borrow()
            .iter()
            .any(|event| matches!(event, DiskEvent::StreamCompleted { error: None, .. }));
        if completed {
            // After the event the old image can be deleted, whatever fails next.
            after.add("base", Vec::new());
        }
        check(&after, "leaf", kind, model::Leaks::Allowed);
        let (disk, _) = open(&after, "leaf", kind).await;
        assert!(!completed || disk.leaf().backing().is_none());
        guest.verify_after_power_cut(&disk).await;

        // The stream continues from what is there.
        stream_all(&disk).await.unwrap();
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
        guest.verify_after_power_cut(&disk).await;
        disk.close().await.unwrap();
        // Opening does not repair the leaks of a qcow2 image.
        check(
            &after,
            "leaf",
            kind,
            if kind == Kind::Qed { model::Leaks::None } else { model::Leaks::Allowed },
        );
    });
}

#[test]
fn a_bad_target_leaves_the_disk_running() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let content = base_content(100);
        files.add("base", content.clone());
        files.add("short", vec![7; 512 * 10]);
        files.add("other", content.clone());
        create_over(&files, "elsewhere", "other", Kind::Raw).await;
        let (disk, _) = open(&files, "base", Kind::Raw).await;
        let guest = Guest::new(disk.clone(), content);
        let cases = [
            ("missing", Some(Kind::Qcow2), true, ErrorKind::NotFound),
            ("short", Some(Kind::Raw), false, ErrorKind::Invalid),
            ("short", Some(Kind::Qcow2), true, ErrorKind::Invalid),
            ("short", None, true, ErrorKind::Invalid),
            ("elsewhere", None, true, ErrorKind::Invalid),
            ("base", Some(Kind::Raw), true, ErrorKind::Invalid),
        ];
        for (name, format, notify, kind) in cases {
            let target = Target { name: name.into(), format, notify };
            let error = disk.prepare_switch(&target).await.err().unwrap();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(name) && !error.to_string().contains('\n'), "{error}");
            guest.clone().work(3).await;
            guest.verify().await;
        }
        assert_eq!(disk.leaf().name(), "base");
    });
}

#[test]
fn a_switch_that_cannot_drain_gives_up_and_the_guest_goes_on() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let content = base_content(100);
        files.add("base", content.clone());
        create_over(&files, "leaf", "base", Kind::Raw).await;
        let (disk, _) = open(&files, "base", Kind::Raw).await;
        let target = Target { name: "leaf".into(), format: None, notify: false };
        let stuck = disk.enter().await;
        let prepared = disk.prepare_switch(&target).await.unwrap();
        assert_eq!(stream_all(&disk).await.err().unwrap().kind(), ErrorKind::InUse);
        let error = prepared.commit(DEADLINE).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(disk.leaf().name(), "base");
        drop(stuck);
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(5).await;
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        guest.verify().await;
    });
}

#[test]
fn chains_are_refused_by_name() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", base_content(10));
        let a = create_over(&files, "a", "base", Kind::Raw).await;
        let b = create_over(&files, "b", "a", a).await;
        assert!(chain::open(&*files, "b", b, true).await.is_ok());
        // `a` over `b` over `a`.
        let looped = Create { backing: Some(("b".into(), b)), ..Create::default() };
        image::create(&*files, "a", a, &looped).await.unwrap();
        let error = chain::open(&*files, "b", b, true).await.err().unwrap();
        assert!(error.to_string().contains("loop"), "{error}");
        let missing = Create { backing: Some(("gone".into(), Kind::Raw)), ..Create::default() };
        let error = image::create(&*files, "c", Kind::Qcow2, &missing).await.err().unwrap();
        assert!(error.to_string().contains("gone"), "{error}");
        // An image that is its own backing file would be emptied.
        let before = files.get("b").unwrap().content();
        let itself = Create { backing: Some(("b".into(), Kind::Qcow2)), ..Create::default() };
        let error = image::create(&*files, "b", Kind::Qcow2, &itself).await.err().unwrap();
        assert!(error.to_string().contains("own backing file"), "{error}");
        assert!(files.get("b").unwrap().content() == before);
        for (name, protocol) in [("json:{}", "json"), ("http://host/x", "http"), ("a:b/c", "a"), (":x", "")] {
            let error = chain::resolve("/d/image", name).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("protocol '{protocol}'")), "{error}");
        }
        // A colon after the first '/' is part of a file's name, as for QEMU.
        for name in ["dir/a:b", "./a:b", "/a:b"] {
            let found = chain::resolve("/d/image", name).unwrap();
            assert_eq!(found, if name.starts_with('/') { "/a:b".into() } else { format!("/d/{name}") });
        }
        assert_eq!(chain::resolve("/d/image", "file:base.img").unwrap(), "base.img");
        assert_eq!(chain::resolve("/d/image", "base.img").unwrap(), "/d/base.img");
        assert_eq!(chain::resolve("image", "base.img").unwrap(), "base.img");
    });
}
