//! Commits under a guest's load: of the leaf and of images behind it, in chains of images of all sizes; power
//! cuts, failures, and jobs beside them.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use executor::spawn;

use super::model::{self, Guest, random};
use super::parts::chain_of;
use super::stage::Log;
use super::{base_content, check, create_over, folder, open, seeds, some_layout};
use crate::disk::job::{Job, JobEvent, JobOptions, Status};
use crate::image::{self, Create};
use crate::job::mirror::commit::{CommitOptions, Named};
use crate::job::mirror::{Copies, CopyMode, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use crate::job::stream::{Base, StreamOptions};
use crate::sim::{Faults, SimDir};
use crate::{Buf, Disk, ErrorAction, ErrorKind, Kind, OnError, chain};

/// A chain's images, the last one first.
const NAMES: [&str; 5] = ["base", "a", "b", "c", "leaf"];
/// The index of the leaf.
const LEAF: usize = NAMES.len() - 1;

/// Reads all of a disk.
async fn content(disk: &Rc<Disk>) -> Vec<u8> {
    let (ticket, buf) = (disk.enter().await, Buf::new(disk.size() as usize));
    disk.read(&ticket, 0, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Makes a chain of images that have sizes of their own, each with some data. Returns their formats and the
/// content of the leaf.
async fn chain_of_sizes(files: &Rc<SimDir>) -> (Vec<Kind>, Vec<u8>) {
    let sectors = || 200 + random(3) * 50;
    let mut bytes = base_content(sectors());
    let mut kinds = Vec::new();
    for (n, name) in NAMES.into_iter().enumerate() {
        let size = bytes.len() as u64;
        let kind = match n.checked_sub(1) {
            None if random(2) == 0 => {
                files.add(name, bytes.clone());
                Kind::Raw
            }
            None => {
                let (kind, layout) = some_layout();
                let create = Create { size: Some(size), ..layout };
                image::create(&**files, name, kind, &create).await.unwrap();
                bytes.fill(0);
                kind
            }
            Some(below) => {
                let (kind, layout) = some_layout();
                let backing = Some((NAMES[below].to_owned(), kinds[below]));
                let size = sectors() * 512;
                let create = Create { size: Some(size), backing, ..layout };
                image::create(&**files, name, kind, &create).await.unwrap();
                bytes.resize(size as usize, 0);
                kind
            }
        };
        let (disk, _) = open(files, name, kind).await;
        Guest::new(disk.clone(), bytes).work(8).await;
        bytes = content(&disk).await;
        disk.close().await.unwrap();
        kinds.push(kind);
    }
    (kinds, bytes)
}

/// A disk on a chain of slow images, with a guest.
pub(super) struct Stage {
    pub files: Rc<SimDir>,
    pub disk: Rc<Disk>,
    pub log: Rc<Log>,
    pub guest: Rc<Guest>,
    pub kinds: Vec<Kind>,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let files = folder();
        let (kinds, content) = match random(2) {
            0 => {
                let (mut kinds, content) = chain_of(&files, &NAMES[1..]).await;
                kinds.insert(0, Kind::Raw);
                (kinds, content)
            }
            _ => chain_of_sizes(&files).await,
        };
        let log: Rc<Log> = Rc::default();
        let sink = log.clone();
        let leaf = chain::open(&*files, "leaf", kinds[LEAF], true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| sink.record(event));
        for name in NAMES {
            files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
        Stage { guest: Guest::new(disk.clone(), content), files, disk, log, kinds }
    }

    fn node(&self, name: &str) -> Named {
        let nodes = std::iter::successors(Some(self.disk.leaf()), |node| node.backing());
        Named::Node(nodes.into_iter().find(|node| node.name() == name).unwrap().node_name())
    }

    /// The options of a commit from the image `top` of [`NAMES`] into `base`.
    pub(super) fn options(&self, top: usize, base: usize) -> CommitOptions {
        let top = (top < LEAF || random(2) == 0).then(|| self.node(NAMES[top]));
        let base =
            Some(if random(2) == 0 { self.node(NAMES[base]) } else { Named::File(NAMES[base].into()) });
        CommitOptions { top, base, ..CommitOptions::default() }
    }

    pub(super) async fn start(&self, commit: CommitOptions, options: JobOptions) -> crate::Result<Rc<Job>> {
        let options = JobOptions { auto_dismiss: false, ..options };
        let id = options.id.clone();
        self.disk.start_commit(commit, options).await?;
        self.disk.job(&id)
    }

    /// The names of the disk's images.
    fn chain(&self) -> BTreeSet<String> {
        std::iter::successors(Some(self.disk.leaf()), |node| node.backing())
            .map(|node| node.name().to_owned())
            .collect()
    }
}

/// Draws the top and the base of a commit. Images are closed beside reads, so that QED ones may leak their
/// ends.
fn part() -> (usize, usize) {
    let top = if random(3) == 0 { LEAF } else { 1 + random(LEAF as u64 - 1) as usize };
    (top, random(top as u64) as usize)
}

#[test]
fn images_are_committed_under_load_and_power_cuts() {
    seeds(300, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let cut = random(2) == 0;
        let workers = guest.workers(2, 70, cut);
        let (top, base) = part();
        let options = stage.options(top, base);
        if cut {
            files.cut_after(1 + random(400));
        }
        let started = stage.start(options, JobOptions::new("commit")).await;
        assert!(started.is_ok() || cut, "{:?}", started.err());
        let mut error = Some("not started".to_owned());
        if let Ok(job) = started {
            if top == LEAF && log.ready().await {
                if random(2) == 0 {
                    guest.clone().work_until_error(20).await;
                }
                // It may have failed by now.
                let _ = job.complete();
            }
            error = log.ended(&job).await;
        }
        assert!(error.is_none() || cut, "{error:?}");
        // They are not needed any more, by the running disk either.
        let gone = if error.is_none() { &NAMES[base + 1..=top] } else { &[] };
        for name in gone {
            let faults = Faults { read: 1000, write: 1000, sync: 1000, ..Faults::default() };
            files.get(name).unwrap().set_faults(faults);
        }
        for worker in workers {
            worker.await;
        }
        guest.clone().work_until_error(20).await;
        let leaf = disk.leaf().name().to_owned();
        assert!(leaf == "leaf" || (top == LEAF && leaf == NAMES[base]));
        if !cut {
            let stays = NAMES.into_iter().filter(|name| !gone.contains(name));
            assert_eq!(stage.chain(), stays.map(str::to_owned).collect());
            guest.verify().await;
        }
        let closed = disk.close().await;
        assert!(closed.is_ok() || cut, "{closed:?}");
        let files = if cut { files.after_power_cut() } else { files.clone() };
        for name in gone.iter().filter(|name| **name != leaf) {
            files.add(name, Vec::new());
        }
        for (name, kind) in NAMES.into_iter().zip(kinds).filter(|(name, _)| !gone.contains(name)) {
            check(&files, name, *kind, model::Leaks::Any);
        }
        let kind = kinds[NAMES.into_iter().position(|name| name == leaf).unwrap()];
        let (disk, _) = open(&files, &leaf, kind).await;
        match cut {
            true => guest.verify_after_power_cut(&disk).await,
            false => guest.verify_on(&disk).await,
        }
    });
}

#[test]
fn a_base_that_fails_or_is_full_is_no_guests_error() {
    seeds(150, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let (top, base) = part();
        let fault = random(3);
        let (is_full, is_unsynced) = (fault == 0, fault == 1);
        let file = files.get(NAMES[base]).unwrap();
        let slow = Faults { delay: 100, ..Faults::default() };
        let limit = is_full.then(|| file.content().len() as u64);
        // Fails if any of its requests does.
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(80))).collect();
        let stop = random(2) == 0;
        let on_error = if stop { OnError::Stop } else { OnError::Report };
        let options = JobOptions { on_error, ..JobOptions::new("commit") };
        let job = stage.start(stage.options(top, base), options).await.unwrap();
        let (write, sync) = (if fault == 2 { 100 } else { 0 }, if is_unsynced { 300 } else { 0 });
        file.set_faults(Faults { write, sync, limit, ..slow });
        let (mut stops, mut completing) = (0, false);
        while !job.has_ended() {
            let info = job.info();
            if info.paused && matches!(info.status, Status::Paused | Status::Standby) {
                stops += 1;
                if stops > 5 {
                    file.set_faults(slow);
                }
                // A file whose sync has failed once never syncs again.
                let _ = if is_unsynced && stops > 8 { job.cancel() } else { job.resume() };
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
        let failed = job.info().error.is_some() || log.has(|event| event == JobEvent::Cancelled);
        assert!(stop || !log.has(|event| matches!(event, JobEvent::Error(_, ErrorAction::Stop))));
        let gone: &[&str] = if failed { &[] } else { &NAMES[base + 1..=top] };
        let stays = NAMES.into_iter().filter(|name| !gone.contains(name));
        assert_eq!(stage.chain(), stays.map(str::to_owned).collect());
        guest.clone().work(20).await;
        guest.verify().await;
        // The base stands in the way of no other job, and the disk ends well.
        let target =
            MirrorTarget { name: "target".into(), format: Kind::Raw, existing: false, node_name: None };
        let mirror = MirrorOptions {
            target,
            sync: Sync::Full,
            mode: CopyMode::Background,
            copies: Copies::default(),
            witness: None,
            tuning: MirrorTuning::default(),
        };
        disk.start_mirror(mirror, JobOptions::new("mirror")).await.unwrap();
        disk.job("mirror").unwrap().cancel().unwrap();
        let leaf = disk.leaf().name().to_owned();
        disk.close().await.unwrap();
        for (name, kind) in NAMES.into_iter().zip(kinds).filter(|(name, _)| !gone.contains(name)) {
            check(files, name, *kind, model::Leaks::Any);
        }
        let kind = kinds[NAMES.into_iter().position(|name| name == leaf).unwrap()];
        let (disk, _) = open(files, &leaf, kind).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_commit_works_beside_a_stream_of_other_images() {
    seeds(80, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let worker = spawn(guest.clone().work(60));
        // The stream has the leaf and 'c', the commit 'b' as its overlay, 'a' and 'base'.
        let Named::Node(bottom) = stage.node("c") else { unreachable!("nodes are named") };
        let stream = StreamOptions { base: Some(Base::Bottom(bottom)), ..StreamOptions::default() };
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("stream") };
        let (first, second, third) = (random(2) == 0, stage.options(1, 0), stage.options(3, 2));
        let started = async |stream| disk.start_stream(stream, options.clone()).await.unwrap();
        if first {
            started(stream.clone()).await;
        }
        let job = stage.start(second, JobOptions::new("commit")).await.unwrap();
        if !first {
            started(stream).await;
        }
        let stream = disk.job("stream").unwrap();
        if !stream.has_ended() && !job.has_ended() {
            let text = disk.check_commit(&third).unwrap_err().to_string();
            assert!(text.contains("is busy: block device is in use by block job: "), "{text}");
        }
        assert_eq!((log.ended(&job).await, log.ended(&stream).await), (None, None));
        assert!(stream.info().error.is_none());
        worker.await;
        assert_eq!(stage.chain(), ["leaf", "b", "base"].map(str::to_owned).into());
        for gone in ["a", "c"] {
            files.get(gone).unwrap().set_faults(Faults { read: 1000, ..Faults::default() });
        }
        guest.verify().await;
        disk.close().await.unwrap();
        check(files, "b", kinds[2], model::Leaks::Any);
        let (disk, _) = open(files, "leaf", kinds[LEAF]).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_commit_is_paused_cancelled_and_begun_again() {
    seeds(80, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, kinds } = &stage;
        let worker = spawn(guest.clone().work(80));
        let (top, base) = part();
        let manual = JobOptions { auto_finalize: false, ..JobOptions::new("first") };
        let job = stage.start(stage.options(top, base), manual).await.unwrap();
        let text = stage.start(stage.options(top, base), JobOptions::new("other")).await.err().unwrap();
        assert_eq!(text.kind(), ErrorKind::InUse);
        if job.pause().is_ok() {
            while !matches!(job.info().status, Status::Paused | Status::Standby | Status::Pending) {
                log.changed.wait().await;
            }
            let _ = job.resume();
        }
        for _ in 0..random(100) {
            executor::yield_now().await;
        }
        if random(2) == 0 && top == LEAF && log.ready().await {
            let _ = if random(2) == 0 { job.complete() } else { job.leave() };
        }
        for _ in 0..random(100) {
            executor::yield_now().await;
        }
        let _ = job.cancel();
        job.ended().await;
        assert_eq!(stage.chain(), NAMES.map(str::to_owned).into(), "nothing was made final");
        let job = stage.start(stage.options(top, base), JobOptions::new("second")).await.unwrap();
        while !job.has_ended() {
            match job.info().status {
                Status::Ready if job.complete().is_ok() => job.ended().await,
                _ => log.changed.wait().await,
            }
        }
        assert!(job.info().error.is_none());
        worker.await;
        guest.verify().await;
        let leaf = disk.leaf().name().to_owned();
        disk.close().await.unwrap();
        let kind = kinds[NAMES.into_iter().position(|name| name == leaf).unwrap()];
        let (disk, _) = open(files, &leaf, kind).await;
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_base_that_hung_at_the_end_of_a_commit_is_committed_into_again() {
    seeds(40, |_| async {
        let stage = Stage::new().await;
        let Stage { files, disk, log, guest, .. } = &stage;
        let job = stage.start(stage.options(LEAF, 0), JobOptions::new("first")).await.unwrap();
        assert!(log.ready().await);
        let base = files.get(NAMES[0]).unwrap();
        // Longer than the end of a job waits.
        base.set_faults(Faults { delay: 60_000_000, ..Faults::default() });
        let flush = spawn({
            let guest = guest.clone();
            async move { guest.flush_now().await.unwrap() }
        });
        for _ in 0..random(20) {
            executor::yield_now().await;
        }
        job.cancel().unwrap();
        job.ended().await;
        base.set_faults(Faults { delay: 100, ..Faults::default() });
        flush.await;
        let again = async {
            loop {
                match stage.start(stage.options(LEAF, 0), JobOptions::new("second")).await {
                    Ok(job) => return job,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::InUse, "{e}"),
                }
                // In the simulation's time.
                executor::sleep(Duration::from_secs(1)).await;
            }
        };
        let job = executor::timeout(Duration::from_secs(600), again).await.expect("the base is free again");
        while !job.has_ended() {
            match job.info().status {
                Status::Ready if job.complete().is_ok() => job.ended().await,
                _ => log.changed.wait().await,
            }
        }
        assert_eq!(job.info().error, None);
        assert_eq!(disk.leaf().name(), NAMES[0]);
        guest.verify().await;
        disk.close().await.unwrap();
    });
}

#[test]
fn a_disk_is_closed_beside_a_commit_that_starts() {
    seeds(60, |_| async {
        let stage = Stage::new().await;
        let (top, base) = part();
        let options = stage.options(top, base);
        let disk = stage.disk.clone();
        let starting = spawn(async move { disk.start_commit(options, JobOptions::new("commit")).await });
        for _ in 0..random(200) {
            executor::yield_now().await;
        }
        stage.disk.close().await.unwrap();
        // Refused, or started and ended.
        let _ = starting.await;
        assert!(stage.disk.active_jobs().is_empty());
        let leaf = stage.disk.leaf().name().to_owned();
        for (name, kind) in NAMES.into_iter().zip(&stage.kinds) {
            check(&stage.files, name, *kind, model::Leaks::Any);
        }
        assert_eq!(leaf, "leaf");
        let (disk, _) = open(&stage.files, "leaf", stage.kinds[LEAF]).await;
        stage.guest.verify_on(&disk).await;
    });
}

#[test]
fn images_that_are_not_in_this_order_are_refused_in_qemus_words() {
    seeds(1, |_| async {
        let stage = Stage::new().await;
        let refused = async |top: Option<Named>, base: Option<Named>, backing_file: Option<&str>| {
            let backing_file = backing_file.map(str::to_owned);
            let commit = CommitOptions { top, base, backing_file, ..CommitOptions::default() };
            let error = stage.disk.start_commit(commit, JobOptions::new("commit")).await.unwrap_err();
            error.to_string()
        };
        let file = |name: &str| Some(Named::File(name.to_owned()));
        let node = |name: &str| Some(stage.node(name));
        assert_eq!(refused(file("none"), None, None).await, "Top image file none not found");
        assert_eq!(refused(None, file("none"), None).await, "Can't find 'none' in the backing chain");
        assert_eq!(refused(file("a"), file("b"), None).await, "Can't find 'b' in the backing chain");
        let Some(Named::Node(b)) = node("b") else { unreachable!("nodes are named") };
        let text = format!("'{b}' is not in this backing file chain");
        assert_eq!(refused(node("a"), node("b"), None).await, text);
        for (top, base) in [("b", "b"), ("base", "base")] {
            assert_eq!(refused(node(top), node(base), None).await, "cannot commit an image into itself");
        }
        assert_eq!(refused(node("base"), None, None).await, "cannot commit an image into itself");
        let text = "'backing-file' specified, but 'top' is the active layer";
        assert_eq!(refused(None, None, Some("x")).await, text);
        stage.disk.close().await.unwrap();
    });
}

/// The name that the overlay records is the client's, and found again.
#[test]
fn the_overlay_records_the_name_that_is_given() {
    seeds(20, |_| async {
        let files = folder();
        files.add("base", base_content(100));
        let kind = create_over(&files, "top", "base", Kind::Raw).await;
        let over = create_over(&files, "leaf", "top", kind).await;
        let (disk, _) = open(&files, "leaf", over).await;
        let Some(top) = disk.leaf().backing() else { panic!("it has a backing file") };
        let top = Some(Named::Node(top.node_name()));
        let name = |name: &str| CommitOptions {
            top: top.clone(),
            backing_file: Some(name.into()),
            ..Default::default()
        };
        let wrong = disk.start_commit(name("ssh://x/y"), JobOptions::new("commit")).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unsupported);
        disk.start_commit(name("./base"), JobOptions::new("commit")).await.unwrap();
        disk.job("commit").unwrap().ended().await;
        assert_eq!(disk.leaf().recorded_backing().unwrap().name, "./base");
        disk.close().await.unwrap();
    });
}
