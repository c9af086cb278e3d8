//! Streams with settings for their order and their effect on the guest.

use std::cell::Cell;
use std::ops::Range;

use async_trait::async_trait;

use super::*;
use crate::disk::job::{Job, JobKind, JobOptions, Strategy};
use crate::disk::{Claimant, Needs};
use crate::image::copy::{Populated, Stopped};
use crate::job::copier::order::Plan;
use crate::job::copier::{Copier, Work};
use crate::job::stream::Progress;
use crate::{Buf, Result};

const MIB: u64 = 1 << 20;

/// Creates a disk of `mib` MiB, all data, over a raw image.
async fn start(mib: u64) -> (Rc<SimDir>, Rc<Disk>, Kind) {
    let files = SimDir::new();
    files.add("base", vec![7; (mib * MIB) as usize]);
    let options = Create { backing: Some(("base".into(), Kind::Raw)), ..Create::default() };
    image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
    for name in ["base", "leaf"] {
        files.get(name).unwrap().set_faults(Faults { delay: 1000, ..Faults::default() });
    }
    let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
    (files, disk, Kind::Qcow2)
}

async fn read(disk: &Rc<Disk>, offset: u64) {
    let ticket = disk.enter().await;
    disk.read(&ticket, offset, Buf::new(4096)).await.unwrap();
}

async fn is_present(disk: &Rc<Disk>, offset: u64) -> bool {
    disk.leaf().map(offset, 512).await.unwrap().depth == 0
}

#[test]
fn what_a_guest_reads_is_copied_first() {
    Executor::simulated(1).block_on(async {
        let (_, disk, _) = start(32).await;
        let tuning = Tuning { order: Order::HotFirst, ..Tuning::default() };
        stream_tuned(&disk, tuning).await.unwrap();
        disk.job(disk.name()).unwrap().set_speed(100 * MIB).unwrap();
        read(&disk, 20 * MIB + 4096).await;
        while !is_present(&disk, 20 * MIB + MIB / 2).await {
            executor::sleep(Duration::from_micros(50)).await;
        }
        assert!(disk.query_stream()[0].offset < 10 * MIB);
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
    });
}

#[test]
fn a_recorded_boot_leads_the_next() {
    Executor::simulated(1).block_on(async {
        let (files, disk, _) = start(32).await;
        let record = Some("trace".to_owned());
        stream_tuned(&disk, Tuning { record, ..Tuning::default() }).await.unwrap();
        for offset in [30 * MIB, 12 * MIB, 12 * MIB + 4096] {
            read(&disk, offset).await;
        }
        wait_for_stream(&disk).await;
        let trace = String::from_utf8(files.get("trace").unwrap().content()).unwrap();
        let lines: Vec<_> = trace.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, [format!("{} 4096", 30 * MIB), format!("{} 8192", 12 * MIB)]);

        let options = Create { backing: Some(("base".into(), Kind::Raw)), ..Create::default() };
        image::create(&*files, "next", Kind::Qcow2, &options).await.unwrap();
        files.get("next").unwrap().set_faults(Faults { delay: 1000, ..Faults::default() });
        let (disk, _) = open(&files, "next", Kind::Qcow2).await;
        let order = Order::Trace("trace".into());
        stream_tuned(&disk, Tuning { order, ..Tuning::default() }).await.unwrap();
        disk.job(disk.name()).unwrap().set_speed(100 * MIB).unwrap();
        while !is_present(&disk, 30 * MIB).await || !is_present(&disk, 12 * MIB + 4096).await {
            executor::sleep(Duration::from_micros(50)).await;
        }
        assert!(disk.query_stream()[0].offset < 10 * MIB);
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
    });
}

#[test]
fn a_trace_that_is_none_is_refused_by_line() {
    Executor::simulated(1).block_on(async {
        let (files, disk, _) = start(1).await;
        files.add("trace", b"# well\n0 512\n\nx 5\n".to_vec());
        let options = |name: &str| Tuning { order: Order::Trace(name.into()), ..Tuning::default() };
        let error = stream_tuned(&disk, options("trace")).await.unwrap_err();
        assert!(error.to_string().contains("trace: line 4"), "{error}");
        let error = stream_tuned(&disk, options("gone")).await.unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
        // Ranges outside the disk, in any order and repeated, do not keep the stream from completing.
        files.add("trace", format!("{} 5000\n5 {}\n0 10\n0 10\n", u64::MAX - 5000, MIB * 9).into());
        stream_tuned(&disk, options("trace")).await.unwrap();
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none());
    });
}

#[test]
fn a_bound_on_latency_slows_the_stream_down_and_not_for_ever() {
    /// Returns the time that a stream takes under a guest. A short bound makes all the guest's requests late.
    fn taken(max_latency: Duration) -> Duration {
        Executor::simulated(1).block_on(async move {
            let (_, disk, _) = start(100).await;
            let tuning = Tuning { max_latency: Some(max_latency), ..Tuning::default() };
            let before = executor::now();
            stream_tuned(&disk, tuning).await.unwrap();
            while !disk.query_stream().is_empty() {
                read(&disk, random(100 * 256) * 4096).await;
            }
            assert!(disk.leaf().backing().is_none());
            executor::now() - before
        })
    }
    let (slow, fast) = (taken(Duration::from_micros(1)), taken(Duration::from_secs(1)));
    assert!(slow > fast * 2, "{slow:?} {fast:?}");
}

#[test]
fn clusters_are_streamed_wherever_they_are_asked_for() {
    Executor::simulated(1).block_on(async {
        let (_, disk, _) = start(1).await;
        let cluster = 64 << 10;
        let (progress, absent) = disk.stream_at(5 * cluster + 1).await.unwrap();
        assert_eq!((progress.offset, absent), (6 * cluster, MIB - cluster));
        // The cursor did not move: the next one is at the start.
        assert_eq!(disk.stream_one().await.unwrap().offset, cluster);
        assert_eq!(
            disk.stream_at(5 * cluster).await.unwrap(),
            (Progress { offset: 7 * cluster, ..progress.clone() }, MIB - 3 * cluster)
        );
        for n in (1..16).rev() {
            assert!(disk.leaf().backing().is_some());
            disk.stream_at(n * cluster).await.unwrap();
        }
        assert!(disk.leaf().backing().is_none());
        assert_eq!(disk.stream_at(0).await.unwrap(), (Progress { offset: MIB, ..progress }, 0));
    });
}

/// Work whose copies take a while, and are counted.
struct Counted {
    most: Option<u64>,
    in_flight: Cell<u64>,
    peak: Cell<u64>,
    copied: Cell<u64>,
}

const UNIT: u64 = 64 << 10;
const WORK: u64 = 64 * MIB;

#[async_trait(?Send)]
impl Work for Rc<Counted> {
    fn size(&self) -> u64 {
        WORK
    }

    fn unit(&self) -> u64 {
        UNIT
    }

    async fn next(&self, range: Range<u64>, most: u64) -> Result<Option<Range<u64>>> {
        let is_left = self.copied.get() < WORK && !range.is_empty();
        Ok(is_left.then(|| range.start..range.end.min(range.start + most)))
    }

    async fn look(&self, _: u64, len: u64) -> Result<(u64, bool)> {
        Ok((len, true))
    }

    async fn copy(&self, range: Range<u64>) -> std::result::Result<Populated, Stopped> {
        let len = range.end - range.start;
        self.in_flight.set(self.in_flight.get() + len);
        self.peak.set(self.peak.get().max(self.in_flight.get()));
        executor::sleep(Duration::from_millis(1)).await;
        self.in_flight.set(self.in_flight.get() - len);
        self.copied.set(self.copied.get() + len);
        Ok(Populated { copied: len, ..Populated::default() })
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn most_in_flight(&self) -> Option<u64> {
        self.most
    }
}

struct Copying(Rc<Disk>, Rc<Counted>);

#[async_trait(?Send)]
impl Strategy for Copying {
    async fn run(&self, job: &Rc<Job>) -> Result<()> {
        let plan = Plan::new(WORK, Vec::new(), None);
        Copier::new(&self.0, job, self.1.clone(), plan, None).run().await
    }

    async fn finish(&self, _: &Rc<Job>) -> Result<()> {
        Ok(())
    }

    async fn clean(&self) {}
}

#[test]
fn a_limit_of_the_bytes_in_flight_is_kept_and_used() {
    let peak = |most| {
        Executor::simulated(1).block_on(async move {
            let (_, disk, _) = start(1).await;
            let (in_flight, peak, copied) = Default::default();
            let work = Rc::new(Counted { most, in_flight, peak, copied });
            let claim = disk.claim(Claimant::Job(JobKind::Verify), Needs::Leaf, "virtio0").unwrap();
            let copying = Copying(disk.clone(), work.clone());
            disk.start_job(JobOptions::new("job"), JobKind::Verify, claim, copying).ended().await;
            assert_eq!(work.copied.get(), WORK);
            work.peak.get()
        })
    };
    assert!(peak(None) >= 2 * MIB);
    // A limit that is no multiple of a unit is rounded up to one, as in QEMU.
    for (most, bytes) in [(1, UNIT), (UNIT, UNIT), (3 * UNIT + 5, 4 * UNIT), (2 * MIB, 2 * MIB)] {
        assert_eq!(peak(Some(most)), bytes);
    }
}
