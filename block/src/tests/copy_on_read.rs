//! Copy-on-read: data that was read stays in the leaf, without slowing the guest down or failing its
//! requests.

use super::*;
use crate::Buf;

async fn read(disk: &Rc<Disk>, offset: u64, len: usize) -> crate::Result<Vec<u8>> {
    let ticket = disk.enter().await;
    let buf = Buf::new(len);
    disk.read(&ticket, offset, buf.clone()).await.map(|()| buf.to_vec())
}

/// Returns the number of data bytes that only the backing chain has.
async fn absent_data(disk: &Rc<Disk>) -> u64 {
    let leaf = disk.leaf();
    let (mut at, mut absent) = (0, 0);
    while at < leaf.size() {
        let run = leaf.map(at, leaf.size() - at).await.unwrap();
        absent += if run.data && run.depth > 0 { run.len } else { 0 };
        at += run.len;
    }
    absent
}

#[test]
fn what_was_read_is_in_the_leaf_once_the_disk_is_drained() {
    seeds(60, |_| async {
        let (files, content, kind) = leaf_over_base(400).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        disk.set_copy_on_read(true);
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work(20))).collect();
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        disk.close().await.unwrap();
        check(&files, "leaf", kind, model::Leaks::None);

        // Everything was read, so nothing comes from the old image any more.
        let (disk, _) = open(&files, "leaf", kind).await;
        assert_eq!(absent_data(&disk).await, 0);
        guest.verify_on(&disk).await;
    });
}

#[test]
fn a_read_does_not_wait_for_its_copy() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![7; 512 * 400]);
        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        read(&disk, 0, 512).await.unwrap();
        files.get("leaf").unwrap().set_faults(Faults { delay: 1_000_000_000, ..Faults::default() });
        disk.set_copy_on_read(true);
        let before = executor::now();
        assert_eq!(read(&disk, 512 * 100, 512).await.unwrap(), [7; 512]);
        assert!(executor::now() - before < Duration::from_millis(1));
        // But a drain does.
        disk.close().await.unwrap();
        assert!(executor::now() - before > Duration::from_millis(1));
    });
}

#[test]
fn a_copy_that_fails_fails_no_read() {
    seeds(40, |_| async {
        let (files, content, kind) = leaf_over_base(400).await;
        let leaf = files.get("leaf").unwrap();
        let (disk, _) = open(&files, "leaf", kind).await;
        disk.set_copy_on_read(true);
        leaf.set_faults(Faults {
            write: 500,
            limit: Some(leaf.content().len() as u64 + 8192),
            ..Faults::default()
        });
        for _ in 0..30 {
            let at = random(380) as usize * 512;
            let len = 512 * (1 + random(20) as usize);
            assert!(read(&disk, at as u64, len).await.unwrap() == content[at..at + len]);
        }
        leaf.set_faults(Faults::default());
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(20).await;
        guest.verify().await;
    });
}

#[test]
fn without_room_reads_go_on_without_copies() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("base", vec![7; 512 * 400]);
        create_over(&files, "leaf", "base", Kind::Raw).await;
        let kind = create_over(&files, "leaf", "base", Kind::Raw).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        disk.set_copy_on_read(true);
        let filter = disk.copy_on_read.borrow().clone().unwrap();
        let all = filter.bounce.acquire(u64::MAX).await;
        assert_eq!(read(&disk, 0, 512 * 400).await.unwrap(), vec![7; 512 * 400]);
        drop(disk.drain(DEADLINE).await.unwrap());
        assert_eq!(absent_data(&disk).await, 512 * 400);
        drop(all);
        read(&disk, 0, 512 * 400).await.unwrap();
        drop(disk.drain(DEADLINE).await.unwrap());
        assert_eq!(absent_data(&disk).await, 0);
    });
}

/// In version 2 of qcow2, absence means zeros once there is no backing file.
#[test]
fn a_late_copy_brings_nothing_back() {
    seeds(20, |seed| async move {
        let files = SimDir::new();
        let base = files.add("base", vec![7; 1 << 20]);
        let layout = match seed % 2 {
            0 => Create { version: Some(2), ..options(64 << 10, false) },
            _ => options(64 << 10, random(2) == 0),
        };
        let options = Create { backing: Some(("base".into(), Kind::Raw)), ..layout };
        image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        disk.set_copy_on_read(true);
        // One read of the base that takes long.
        base.set_faults(Faults { delay: 10_000_000_000, ..Faults::default() });
        let reading = {
            let disk = disk.clone();
            spawn(async move { read(&disk, 128 << 10, 4096).await.unwrap() })
        };
        executor::sleep(Duration::from_micros(1)).await;
        base.set_faults(Faults::default());
        stream_all(&disk).await.unwrap();
        wait_for_stream(&disk).await;
        assert!(disk.leaf().backing().is_none() && !reading.is_finished());
        let ticket = disk.enter().await;
        disk.write_zeroes(&ticket, 128 << 10, 64 << 10, true).await.unwrap();
        disk.flush(&ticket).await.unwrap();
        drop(ticket);
        assert_eq!(read(&disk, 128 << 10, 4096).await.unwrap(), [0; 4096]);
        reading.await;
        drop(disk.drain(DEADLINE).await.unwrap());
        assert_eq!(read(&disk, 128 << 10, 4096).await.unwrap(), [0; 4096], "old data is back");
    });
}
