//! A disk on a chain of slow images with a guest, and the events of its jobs.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event;

use super::model::{Guest, random};
use super::parts::chain_of;
use super::{folder, some_layout};
use crate::disk::job::{Info, Job, JobEvent, JobOptions, Status};
use crate::image::{self, Create};
use crate::job::mirror::{Copies, CopyMode, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use crate::sim::{Faults, SimDir};
use crate::{Disk, DiskEvent, Kind, Result, chain};

/// Names of a chain's images, the last one first.
pub(super) const CHAIN: [&str; 3] = ["base", "middle", "leaf"];

pub(super) fn sync() -> Sync {
    [Sync::Full, Sync::Full, Sync::Top, Sync::None][random(4) as usize]
}

pub(super) fn mode() -> CopyMode {
    [CopyMode::Background, CopyMode::WriteBlocking][random(2) as usize]
}

pub(super) fn copies() -> Copies {
    let granularity = [None, Some(512), Some(4096), Some(1 << 20)][random(4) as usize];
    Copies { granularity, buffer: [None, None, Some(1), Some(100_000)][random(4) as usize] }
}

/// With and without a window, of which some are smaller than a write, and a controller.
pub(super) fn tuning() -> MirrorTuning {
    let window = [0, 4096, 64 << 10, 1 << 20][random(4) as usize];
    let max_latency = (random(4) == 0).then(|| Duration::from_micros(50 + random(2000)));
    MirrorTuning { window, adaptive: random(4) == 0, deadline: None, max_latency }
}

pub(super) fn is_end(event: JobEvent) -> bool {
    matches!(event, JobEvent::Completed | JobEvent::Cancelled)
}

/// The events of a disk's jobs, which can be awaited.
#[derive(Default)]
pub(super) struct Log {
    events: RefCell<Vec<(Info, JobEvent)>>,
    pub(super) changed: Event,
}

impl Log {
    pub(super) fn record(&self, event: DiskEvent) {
        if let DiskEvent::Job { job, what } = event {
            self.events.borrow_mut().push((job, what));
            self.changed.notify();
        }
    }

    pub(super) fn has(&self, what: impl Fn(JobEvent) -> bool) -> bool {
        self.events.borrow().iter().any(|(_, event)| what(*event))
    }

    pub(super) async fn wait(&self, what: impl Fn(JobEvent) -> bool) {
        while !self.has(&what) {
            self.changed.wait().await;
        }
    }

    /// Waits until the mirror is ready, or has ended. Returns true if it is ready.
    pub(super) async fn ready(&self) -> bool {
        self.wait(|event| event == JobEvent::Ready || is_end(event)).await;
        !self.has(is_end)
    }

    /// The mirror as it was when it became ready.
    pub(super) fn at_ready(&self) -> Option<Info> {
        let events = self.events.borrow();
        events.iter().find(|(_, event)| *event == JobEvent::Ready).map(|(info, _)| info.clone())
    }

    /// Waits for the end of the mirror, and returns its error.
    pub(super) async fn ended(&self, job: &Job) -> Option<String> {
        job.ended().await;
        self.wait(is_end).await;
        let events = self.events.borrow();
        let (info, _) = events.iter().find(|(_, event)| is_end(*event)).unwrap();
        info.error.clone()
    }

    /// Waits until the job has this state. It must get there.
    pub(super) async fn reaches(&self, job: &Job, status: Status) {
        while job.info().status != status {
            self.changed.wait().await;
        }
    }
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
        let (kinds, content) = chain_of(&files, &CHAIN[1..]).await;
        let log: Rc<Log> = Rc::default();
        let sink = log.clone();
        let leaf = chain::open(&*files, "leaf", kinds[1], true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files.clone(), move |event| sink.record(event));
        let stage = Stage { guest: Guest::new(disk.clone(), content), files, disk, log, kinds };
        stage.slow(&CHAIN);
        stage
    }

    pub(super) fn slow(&self, names: &[&str]) {
        for name in names {
            self.files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
    }

    /// Makes a target image of any layout, or has the mirror make it.
    pub(super) async fn target(&self, sync: Sync) -> MirrorTarget {
        let by_mirror = random(2) == 0;
        let (format, create) = match sync {
            Sync::Full if random(2) == 0 => (Kind::Raw, Create::default()),
            _ => some_layout(),
        };
        if !by_mirror {
            let backing = match sync {
                Sync::Full => None,
                Sync::Top => Some(("middle".to_owned(), self.kinds[0])),
                Sync::None => Some(("leaf".to_owned(), self.kinds[1])),
            };
            let create = Create { size: Some(self.disk.size()), backing, ..create };
            image::create(&*self.files, "target", format, &create).await.unwrap();
        }
        MirrorTarget { name: "target".into(), format, existing: !by_mirror, node_name: None }
    }

    pub(super) async fn start(
        &self,
        target: MirrorTarget,
        sync: Sync,
        options: JobOptions,
    ) -> Result<Rc<Job>> {
        self.start_with(target, sync, None, options).await
    }

    /// Starts a mirror, with a witness if that is not `None`.
    pub(super) async fn start_with(
        &self,
        target: MirrorTarget,
        sync: Sync,
        witness: Option<&str>,
        options: JobOptions,
    ) -> Result<Rc<Job>> {
        let options = JobOptions { auto_dismiss: false, ..options };
        let (id, witness) = (options.id.clone(), witness.map(str::to_owned));
        self.disk
            .start_mirror(
                MirrorOptions { target, sync, mode: mode(), copies: copies(), witness, tuning: tuning() },
                options,
            )
            .await?;
        self.disk.job(&id)
    }

    /// Starts a mirror to a slow target.
    pub(super) async fn mirror(&self, target: MirrorTarget, sync: Sync) -> Rc<Job> {
        let job = self.start(target, sync, JobOptions::new("mirror")).await.unwrap();
        self.slow(&["target"]);
        job
    }

    /// The image that the disk runs on, and its format; `format` is the target's.
    pub(super) fn owner(&self, format: Kind) -> (&'static str, Kind) {
        match self.disk.leaf().name() {
            "target" => ("target", format),
            _ => ("leaf", self.kinds[1]),
        }
    }
}
