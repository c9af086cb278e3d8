//! Disks that grow under a guest at work, with power cuts.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use executor::{Executor, spawn};

use super::model::{self, Guest, random};
use super::{base_content, check, open, seeds, some_layout};
use crate::image::{self, Create};
use crate::sim::{Faults, SimDir};
use crate::{Buf, Disk, ErrorKind, Kind};

/// Creates a disk of `sectors` over a longer backing file.
async fn start(sectors: u64) -> (Rc<SimDir>, Vec<u8>, Kind) {
    let files = SimDir::new();
    let mut base = base_content(sectors + 2000);
    // Nothing of it may show through where the disk grows.
    base[sectors as usize * 512..].fill(0xee);
    files.add("base", base.clone());
    let (kind, layout) = some_layout();
    let options = Create { backing: Some(("base".into(), Kind::Raw)), size: Some(sectors * 512), ..layout };
    image::create(&*files, "leaf", kind, &options).await.unwrap();
    base.truncate(sectors as usize * 512);
    (files, base, kind)
}

async fn assert_zero_from(disk: &Rc<Disk>, offset: u64) {
    let ticket = disk.enter().await;
    let buf = Buf::new((disk.size() - offset) as usize);
    disk.read(&ticket, offset, buf.clone()).await.unwrap();
    let at = buf.to_vec().iter().position(|byte| *byte != 0);
    assert_eq!(at, None, "past {offset} of {}", disk.size());
}

#[test]
fn growing_under_a_guest_survives_power_cuts() {
    seeds(300, |_| async {
        let sectors = 100 + random(400);
        let (files, content, kind) = start(sectors).await;
        let leaf = files.get("leaf").unwrap();
        leaf.set_faults(Faults { delay: 100, ..Faults::default() });
        let (disk, _) = open(&files, "leaf", kind).await;
        files.cut_after(1 + random(80));
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work_until_error(30))).collect();
        let mut durable = sectors * 512;
        let mut asked = durable;
        for _ in 0..3 {
            asked += (1 + random(1000)) * 512;
            match disk.resize(asked).await {
                Ok(()) => durable = asked,
                Err(_) => break,
            }
        }
        for worker in workers {
            worker.await;
        }

        let after = files.after_power_cut();
        check(&after, "leaf", kind, model::Leaks::Allowed);
        let (disk, _) = open(&after, "leaf", kind).await;
        assert!((durable..=asked).contains(&disk.size()), "{durable} {asked} {}", disk.size());
        guest.verify_after_power_cut(&disk).await;
        assert_zero_from(&disk, sectors * 512).await;
        // The disk can grow from there.
        disk.resize(disk.size() + (1 + random(3000)) * 512).await.unwrap();
        assert_zero_from(&disk, sectors * 512).await;
        guest.verify_after_power_cut(&disk).await;
        disk.close().await.unwrap();
    });
}

#[test]
fn what_is_written_behind_an_old_end_outlives_zeros_up_to_it() {
    seeds(200, |_| async {
        let (files, _, kind) = start(1001).await;
        files.get("leaf").unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        let (disk, _) = open(&files, "leaf", kind).await;
        for round in 0..4 {
            let old = disk.size();
            let zeroing = spawn({
                let disk = disk.clone();
                async move {
                    executor::sleep(Duration::from_micros(random(200))).await;
                    let ticket = disk.enter().await;
                    let (start, len) = (old - 900 * 512, 900 * 512);
                    match random(2) {
                        0 => disk.write_zeroes(&ticket, start, len, true).await.unwrap(),
                        _ => disk.discard(&ticket, start, len).await.unwrap(),
                    }
                }
            });
            disk.resize(old + 512 * (1 + random(9))).await.unwrap();
            let new = vec![round + 1; (disk.size() - old) as usize];
            let ticket = disk.enter().await;
            disk.write(&ticket, old, Buf::from_bytes(&new)).await.unwrap();
            zeroing.await;
            let found = Buf::new(new.len());
            disk.read(&ticket, old, found.clone()).await.unwrap();
            assert!(found.to_vec() == new, "what the guest wrote behind {old} is gone");
        }
    });
}

#[test]
fn what_an_image_kept_behind_its_end_reads_as_zeros() {
    seeds(40, |_| async {
        let (files, content, kind) = start(101).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        let ticket = disk.enter().await;
        disk.write(&ticket, 100 * 512, Buf::from_bytes(&[5; 512])).await.unwrap();
        drop(ticket);
        disk.close().await.unwrap();
        // The file ends with that cluster, whose rest another program left filled with something.
        let mut bytes = files.get("leaf").unwrap().content();
        let at = bytes.windows(512).rposition(|sector| sector == [5; 512]).unwrap() + 512;
        bytes[at..].fill(0xdd);
        files.add("leaf", bytes);
        let (disk, _) = open(&files, "leaf", kind).await;
        disk.resize((102 + random(300)) * 512).await.unwrap();
        assert_zero_from(&disk, 101 * 512).await;
        let ticket = disk.enter().await;
        let buf = Buf::new(100 * 512);
        disk.read(&ticket, 0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == content[..100 * 512]);
    });
}

#[test]
fn large_tables_move_in_one_piece() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        for (cluster, size) in [(512, 3 << 30), (4096, 1 << 40)] {
            let options = Create { size: Some(1 << 20), cluster_size: Some(cluster), ..Create::default() };
            image::create(&*files, "a", Kind::Qcow2, &options).await.unwrap();
            let (disk, _) = open(&files, "a", Kind::Qcow2).await;
            let write = async |disk: &Rc<Disk>, offset| {
                let ticket = disk.enter().await;
                disk.write(&ticket, offset, Buf::from_bytes(&[7; 3000])).await.unwrap();
            };
            write(&disk, 512).await;
            let told = Rc::new(Cell::new(0));
            let listener = told.clone();
            disk.on_capacity(move |size| listener.set(size));
            for size in [10 << 20, size / 2, size] {
                disk.resize(size).await.unwrap();
                assert_eq!(told.get(), size);
                write(&disk, size - 3000 / 512 * 512 - 512).await;
            }
            disk.close().await.unwrap();
            model::check_refcounts(&files.get("a").unwrap().content(), model::Leaks::None);
            let (disk, _) = open(&files, "a", Kind::Qcow2).await;
            assert_eq!(disk.size(), size);
        }
    });
}

#[test]
fn refusals() {
    Executor::simulated(1).block_on(async {
        let (files, content, kind) = start(100).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        for (size, kind) in [
            (99 * 512, ErrorKind::Unsupported),
            (100 * 512 + 1, ErrorKind::Invalid),
            (1 << 62, ErrorKind::Invalid),
        ] {
            let error = disk.resize(size).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        disk.resize(100 * 512).await.unwrap();
        let _claim = disk.claim_whole("a stream").unwrap();
        assert_eq!(disk.resize(200 * 512).await.unwrap_err().kind(), ErrorKind::InUse);
        files.add("raw", content);
        let (disk, _) = open(&files, "raw", Kind::Raw).await;
        disk.resize(300 * 512).await.unwrap();
        assert_eq!((disk.size(), files.get("raw").unwrap().content().len()), (300 * 512, 300 * 512));
        assert_zero_from(&disk, 100 * 512).await;
    });
}
