//! Presets that our own jobs do.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;

use block::image::{self, Create};
use block::job::JobOptions;
use block::job::mirror::{Copies, CopyMode, MirrorOptions, MirrorTarget, MirrorTuning, Sync};
use block::job::stream::{Order as StreamOrder, StreamOptions, Tuning};
use block::{Disk, Job, Kind, Result};
use executor::JoinHandle;
use workload::Requests;

use super::guest::{Guest, Way};
use super::world::{FAR_SOURCE, FAR_TARGET, TARGET, TRACE, World};
use super::{HANDOVER, Mover, Order, Progress};
use crate::policy::Phase;
use crate::record::End;

/// The number of an earlier boot's requests that a trace has.
const TRACED: usize = 100_000;

/// A job at work.
struct Running {
    job: RefCell<Option<Rc<Job>>>,
    phase: Cell<Phase>,
    data: u64,
}

impl Mover for Running {
    fn progress(&self) -> Progress {
        let info = self.job.borrow().as_ref().map(|job| job.info());
        let both = info.as_ref().and_then(|info| info.following).is_some_and(|following| following.active);
        // What it holds is known by its data: holes count for nothing.
        let (todo, done) =
            info.map_or((self.data, 0), |info| (info.len - info.offset.min(info.len), info.offset));
        Progress {
            phase: self.phase.get(),
            todo: todo.min(self.data),
            fresh: self.data.saturating_sub(done).min(todo),
            both,
            rounds: 0,
        }
    }
}

type Started = (Rc<dyn Mover>, JoinHandle<Result<End>>);

fn running(world: &World) -> Rc<Running> {
    Rc::new(Running { job: RefCell::default(), phase: Cell::new(Phase::Before), data: world.data })
}

/// Waits for the end of a job, and returns how it ended.
async fn ended(job: &Job) -> Result<End> {
    job.ended().await;
    Ok(if job.info().error.is_some() { End::Failed } else { End::Moved })
}

/// Starts a mirror, and moves the disk to its target as soon as it is ready.
pub(super) fn mirror(world: &World, disk: Rc<Disk>, mode: CopyMode, tuning: MirrorTuning) -> Started {
    let running = running(world);
    let (state, event) = (running.clone(), world.job_event.clone());
    let task = executor::spawn(async move {
        let target =
            MirrorTarget { name: FAR_TARGET.into(), format: Kind::Raw, existing: true, node_name: None };
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("move") };
        let copies = Copies::default();
        let mirror = MirrorOptions { target, sync: Sync::Full, mode, copies, witness: None, tuning };
        disk.start_mirror(mirror, options).await?;
        let job = disk.job("move")?;
        state.job.replace(Some(job.clone()));
        while job.complete().is_err() && job.info().error.is_none() {
            event.wait().await;
        }
        let end = ended(&job).await;
        state.phase.set(Phase::Done);
        end
    });
    (running, task)
}

/// Moves the guest at once, to an image over the source's, and streams the rest.
pub(super) fn stream(world: &World, guest: &Rc<Guest>, disk: Rc<Disk>, order: Order, seed: u64) -> Started {
    let running = running(world);
    let state = running.clone();
    let (hosts, delay, size) = (world.hosts.clone(), world.delay, world.size);
    let guest = guest.clone();
    if order == Order::Trace {
        hosts.add_file(TRACE, trace(&guest, size, seed));
    }
    let event = world.job_event.clone();
    let task = executor::spawn(async move {
        let backing = Some((FAR_SOURCE.to_owned(), Kind::Raw));
        let create = Create { size: Some(size), backing, ..Create::default() };
        image::create(&*hosts, TARGET, Kind::Qcow2, &create).await?;
        let begin = executor::now();
        state.phase.set(Phase::Stopped);
        guest.stop().await;
        disk.close().await?;
        executor::sleep(2 * delay + HANDOVER).await;
        let leaf = block::chain::open(&*hosts, TARGET, Kind::Qcow2, true).await?;
        let disk = Disk::new("virtio0", leaf, false, hosts, move |_| event.notify());
        guest.go_on_there(Way::Disk(disk.clone()));
        guest.stood_still(executor::now() - begin);
        state.phase.set(Phase::After);
        let order = match order {
            Order::Sequential => StreamOrder::Sequential,
            Order::Hot => StreamOrder::HotFirst,
            Order::Trace => StreamOrder::Trace(TRACE.to_owned()),
        };
        let tuning = Tuning { order, ..Tuning::default() };
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("move") };
        disk.start_stream(StreamOptions { tuning, ..StreamOptions::default() }, options).await?;
        let job = disk.job("move")?;
        state.job.replace(Some(job.clone()));
        let end = ended(&job).await;
        state.phase.set(Phase::Done);
        end
    });
    (running, task)
}

/// The reads of another run of the same guest, as a trace of an earlier boot.
fn trace(guest: &Guest, size: u64, seed: u64) -> Vec<u8> {
    let mut text = String::new();
    let earlier = Requests::new(guest.spec(), size, seed ^ 0x7ace).expect("the experiment was checked");
    for op in earlier.take(TRACED).filter(|op| op.kind == workload::Kind::Read) {
        let _ = writeln!(text, "{} {}", op.offset, op.len);
    }
    text.into_bytes()
}
