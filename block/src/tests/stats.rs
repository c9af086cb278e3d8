//! The counters of a disk.

use super::*;
use crate::Buf;
use crate::disk::stats::Requests;

const CLUSTER: u64 = 4096;

/// Creates a disk of 64 clusters over a base full of data.
async fn full() -> (Rc<SimDir>, Rc<Disk>) {
    let files = SimDir::new();
    files.add("base", vec![7; 64 * CLUSTER as usize]);
    let options = Create { backing: Some(("base".into(), Kind::Raw)), ..options(CLUSTER, false) };
    image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
    let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
    (files, disk)
}

#[test]
fn requests_are_counted_by_kind_and_outcome() {
    Executor::simulated(1).block_on(async {
        let (files, disk) = full().await;
        assert_eq!(disk.stats().idle(), None);
        let ticket = disk.enter().await;
        disk.read(&ticket, 0, Buf::new(CLUSTER as usize)).await.unwrap();
        disk.write(&ticket, CLUSTER, Buf::new(2 * CLUSTER as usize)).await.unwrap();
        disk.write_zeroes(&ticket, 0, CLUSTER, true).await.unwrap();
        disk.discard(&ticket, 8 * CLUSTER, CLUSTER).await.unwrap();
        disk.flush(&ticket).await.unwrap();
        disk.read(&ticket, 64 * CLUSTER, Buf::new(512)).await.unwrap_err();
        files.get("base").unwrap().set_faults(Faults { read: 1000, ..Faults::default() });
        disk.read(&ticket, 20 * CLUSTER, Buf::new(512)).await.unwrap_err();
        let stats = disk.stats();
        let counts = |r: &Requests| (r.done.get(), r.bytes.get(), r.failed.get(), r.invalid.get());
        assert_eq!(counts(&stats.reads), (1, CLUSTER, 1, 1));
        assert_eq!(counts(&stats.writes), (2, 3 * CLUSTER, 0, 0));
        assert_eq!(counts(&stats.discards), (1, CLUSTER, 0, 0));
        assert_eq!(counts(&stats.flushes), (1, 0, 0, 0));
        // A refused request has no latency.
        let latency = &stats.reads.latency;
        assert_eq!(latency.between(0, u64::MAX), 2);
        executor::sleep(Duration::from_secs(3)).await;
        assert_eq!(disk.stats().idle(), Some(Duration::from_secs(3)));
    });
}

#[test]
fn who_waits_for_a_job_is_counted_and_a_switch_keeps_the_count() {
    Executor::simulated(2).block_on(async {
        let (files, disk) = full().await;
        let slow = Faults { delay: 100_000, ..Faults::default() };
        files.get("base").unwrap().set_faults(slow);
        stream_all(&disk).await.unwrap();
        let mut waited = 0;
        // A write to each cluster in turn meets the copies that are in flight.
        for cluster in 0..64 {
            let ticket = disk.enter().await;
            disk.write(&ticket, cluster * CLUSTER, Buf::new(512)).await.unwrap();
            waited = disk.stats().waits.count.get();
        }
        assert!(waited > 0, "no write met the stream");
        let stats = disk.stats();
        assert!(stats.waits.time.get() > Duration::ZERO);
        while !disk.query_stream().is_empty() {
            executor::sleep(Duration::from_millis(10)).await;
        }
        let copied = disk.stats().copied;
        assert!(copied.copied.get() + copied.offloaded.get() > 0);
        files.get("base").unwrap().set_faults(Faults::default());
        image::create(
            &*files,
            "next",
            Kind::Qcow2,
            &Create { backing: Some(("leaf".into(), Kind::Qcow2)), ..options(CLUSTER, false) },
        )
        .await
        .unwrap();
        let target = Target { name: "next".into(), format: Some(Kind::Qcow2), notify: false };
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        assert_eq!(disk.stats().waits.count.get(), stats.waits.count.get());
        assert_eq!(disk.stats().writes.done.get(), 64);
    });
}
