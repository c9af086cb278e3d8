//! Disks on storage unlike the files of a usual file system: devices of fixed size, and storage that
//! cannot punch holes or is full for a moment.

use super::*;
use crate::Buf;

/// Adds a device of this size, with old content of somebody else.
fn device(files: &SimDir, name: &str, size: u64) {
    let noise = (0..size / 8).flat_map(|_| executor::random().to_le_bytes()).collect();
    let alignment = [1, 512, 4096][random(3) as usize];
    let (punches, late) = (random(2) == 0, random(2) == 0);
    let nature = Nature { alignment, fixed: true, punches, zeroes: punches, late, ..Nature::default() };
    files.add(name, noise).set_nature(nature);
}

fn device_layout() -> Create {
    match random(3) {
        0 => options(4096, false),
        1 => options(16 << 10, true),
        _ => options(64 << 10, random(2) == 0),
    }
}

/// A live copy to a device with enough room, under a guest, until the power is cut or the disk is closed.
#[test]
fn a_live_copy_to_a_device() {
    seeds(80, |_| async {
        let files = folder();
        let content = base_content(500 + random(200));
        files.add("base", content.clone());
        device(&files, "device", 4 << 20);
        let options = Create { backing: Some(("base".into(), Kind::Raw)), ..device_layout() };
        image::create(&*files, "device", Kind::Qcow2, &options).await.unwrap();
        files.get("device").unwrap().set_faults(Faults { delay: 200, ..Faults::default() });
        let (disk, events) = open(&files, "device", Kind::Qcow2).await;
        let guest = Guest::new(disk.clone(), content);
        if random(2) == 0 {
            files.cut_after(1 + random(300));
        }
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_until_error(40))).collect();
        stream_all(&disk).await.unwrap();
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;
        assert_eq!(files.get("device").unwrap().content().len(), 4 << 20);
        if disk.close().await.is_ok() {
            guest.everything_is_durable();
        }
        let after = files.after_power_cut();
        let completed = matches!(events.borrow()[0], DiskEvent::StreamCompleted { error: None, .. });
        if completed {
            after.add("base", Vec::new());
        }
        check(&after, "device", Kind::Qcow2, model::Leaks::Allowed);
        let (disk, _) = open(&after, "device", Kind::Qcow2).await;
        assert!(!completed || disk.leaf().backing().is_none());
        guest.verify_after_power_cut(&disk).await;
    });
}

/// A guest's mkfs discards a whole disk: no zeros may be written for it.
#[test]
fn a_discard_of_a_raw_disk_writes_no_zeros() {
    for (punches, unmap) in [(false, true), (true, false), (true, true)] {
        Executor::simulated(1).block_on(async move {
            let files = SimDir::of(Nature { punches, zeroes: false, ..Nature::default() });
            files.add("disk", vec![7; 1 << 20]);
            let (disk, _) = open(&files, "disk", Kind::Raw).await;
            disk.set_unmap(unmap);
            let ticket = disk.enter().await;
            disk.discard(&ticket, 0, 1 << 20).await.unwrap();
            disk.flush(&ticket).await.unwrap();
            let found = files.get("disk").unwrap().content();
            let expected = if punches && unmap { 0 } else { 7 };
            assert!(found.iter().all(|byte| *byte == expected), "{punches} {unmap}");
            // A range that is zeroed must read as zeros, whatever that takes.
            disk.write_zeroes(&ticket, 0, 1 << 19, true).await.unwrap();
            let found = files.get("disk").unwrap().content();
            assert!(found[..1 << 19].iter().all(|byte| *byte == 0));
        });
    }
}

#[test]
fn a_raw_disk_on_a_device_that_grew_is_made_larger() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        device(&files, "device", 1 << 20);
        let (disk, _) = open(&files, "device", Kind::Raw).await;
        let none = disk.resize(2 << 20).await.unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NoSpace, "{none}");
        files.get("device").unwrap().set_device_size(2 << 20);
        disk.resize(2 << 20).await.unwrap();
        let ticket = disk.enter().await;
        disk.write(&ticket, (2 << 20) - 512, Buf::from_bytes(&[9; 512])).await.unwrap();
        assert_eq!(files.get("device").unwrap().content()[(2 << 20) - 512..], [9; 512]);
    });
}

/// The file system is full for a moment. Then space is allocated ahead again, and the closed file
/// contains only the clusters in use.
#[test]
fn space_ahead_comes_back_after_a_moment_without() {
    for kind in [Kind::Qcow2, Kind::Qed] {
        Executor::simulated(3).block_on(async move {
            let files = SimDir::new();
            let options = Create { size: Some(64 << 20), cluster_size: Some(65536), ..Create::default() };
            image::create(&*files, "disk", kind, &options).await.unwrap();
            let (disk, _) = open(&files, "disk", kind).await;
            let file = files.get("disk").unwrap();
            let write = async |n: u64| {
                let ticket = disk.enter().await;
                disk.write(&ticket, n << 16, Buf::from_bytes(&[1; 65536])).await.unwrap();
                executor::sleep(Duration::from_millis(1)).await;
            };
            let limit = Some(file.content().len() as u64 + (1 << 20));
            file.set_faults(Faults { limit, ..Faults::default() });
            for n in 0..4 {
                write(n).await;
            }
            file.set_faults(Faults::default());
            for n in 4..100 {
                write(n).await;
            }
            let ahead = file.content().len() as u64;
            disk.close().await.unwrap();
            let closed = file.content().len() as u64;
            assert!(ahead > closed + (256 << 10), "{kind}: nothing is allocated ahead: {ahead}, {closed}");
            assert!((100 << 16..112 << 16).contains(&closed), "{kind}: {closed} bytes after the close");
        });
    }
}
