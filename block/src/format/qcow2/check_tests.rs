//! Repairs that are cut off, and metadata that is nothing but noise.

use std::rc::Rc;

use executor::Executor;

use super::super::COPIED;
use super::check;
use crate::image::chain;
use crate::image::check::Repair;
use crate::image::{self, Create};
use crate::sim::{Faults, Nature, SimDir};
use crate::storage::Storage;
use crate::{Buf, Disk, Kind};

const SIZE: u64 = 300 * 512;

fn random(n: u64) -> u64 {
    executor::random() % n
}

async fn open(files: &Rc<SimDir>) -> crate::Result<Rc<Disk>> {
    let leaf = chain::open(&**files, "image", Kind::Qcow2, true).await?;
    Ok(Disk::new("virtio0", leaf, false, files.clone(), |_| {}))
}

async fn content(disk: &Rc<Disk>) -> crate::Result<Vec<u8>> {
    let ticket = disk.enter().await;
    let buf = Buf::new(disk.size() as usize);
    disk.read(&ticket, 0, buf.clone()).await?;
    Ok(buf.to_vec())
}

/// An image with some data: the bytes of its file, and the content of its disk.
async fn image() -> (Vec<u8>, Vec<u8>) {
    let files = SimDir::new();
    let (cluster_size, extended_l2) = [(512, false), (4096, false), (16 << 10, true)][random(3) as usize];
    let options = Create {
        size: Some(SIZE),
        cluster_size: Some(cluster_size),
        extended_l2: Some(extended_l2),
        ..Create::default()
    };
    image::create(&*files, "image", Kind::Qcow2, &options).await.unwrap();
    let disk = open(&files).await.unwrap();
    for _ in 0..20 {
        let ticket = disk.enter().await;
        let bytes = vec![random(256) as u8; 512 * (1 + random(8) as usize)];
        disk.write(&ticket, random(SIZE / 512 - 8) * 512, Buf::from_bytes(&bytes)).await.unwrap();
    }
    let held = content(&disk).await.unwrap();
    disk.close().await.unwrap();
    (files.get("image").unwrap().content(), held)
}

#[test]
fn a_repair_that_is_cut_off_is_repaired_by_the_next() {
    for seed in 0..300 {
        Executor::simulated(seed).block_on(async move {
            let (mut bytes, held) = image().await;
            // Dirty and stale: every count of the first refcount block is random.
            bytes[79] |= 1;
            let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let (block, cluster) = (word(word(48)), 1 << bytes[23]);
            bytes[block..block + cluster].iter_mut().skip(1).step_by(2).for_each(|n| *n = random(3) as u8);
            // On a device, refcounts written anew have the room that is left on it.
            let fixed = random(2) == 0;
            if fixed {
                bytes.resize(
                    bytes.len().next_multiple_of(cluster) + (8 + random(8) as usize) * cluster + 512,
                    0xaa,
                );
            }
            let files = SimDir::of(Nature { fixed, ..Nature::default() });
            let file = files.add("image", bytes);
            file.set_faults(Faults { delay: 20, ..Faults::default() });
            if random(4) > 0 {
                files.cut_after(1 + random(12));
            }
            let storage: Rc<dyn Storage> = file;
            let _ = check(&storage, Some(Repair::All)).await;

            let after = files.after_power_cut();
            let disk = open(&after).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert!(content(&disk).await.unwrap() == held, "seed {seed}");
            disk.close().await.unwrap();
            let storage: Rc<dyn Storage> = after.get("image").unwrap();
            let report = check(&storage, None).await.unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "seed {seed}: {report:#?}");
            assert_eq!(after.get("image").unwrap().content()[79] & 3, 0);
        });
    }
}

#[test]
fn noise_ends_in_a_report_or_an_error() {
    for seed in 0..1500 {
        Executor::simulated(seed).block_on(async move {
            let (mut bytes, _) = image().await;
            let most = if random(2) == 0 { 128 } else { bytes.len() as u64 };
            for _ in 0..1 + random(6) {
                let at = random(most) as usize;
                let end = (at + 1 + random(12) as usize).min(bytes.len());
                let fill = [0, 0xff, random(256) as u8][random(3) as usize];
                bytes[at..end].fill(fill);
            }
            let files = SimDir::new();
            let storage: Rc<dyn Storage> = files.add("image", bytes);
            let repair = [None, Some(Repair::Leaks), Some(Repair::All)][random(3) as usize];
            let Ok(report) = check(&storage, repair).await else { return };
            assert!(storage.len() < 1 << 26, "seed {seed}");
            if repair == Some(Repair::All) {
                let again = check(&storage, None).await.unwrap();
                assert_eq!(
                    (again.corruptions, again.leaks),
                    (report.corruptions, report.leaks),
                    "seed {seed}"
                );
                if report.corruptions == 0 {
                    assert!(content(&open(&files).await.unwrap()).await.is_ok(), "seed {seed}");
                }
            }
        });
    }
}

/// A million entries name one table, and as many snapshots as there can be name one L1 table: a check that
/// followed each would not end.
#[test]
fn what_is_named_over_and_over_is_read_once() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let entries = 1u64 << 20;
        let cluster = 64u64 << 10;
        let size = Some(entries * cluster / 8 * cluster);
        let options =
            Create { size, cluster_size: Some(cluster), extended_l2: Some(false), ..Create::default() };
        image::create(&*files, "image", Kind::Qcow2, &options).await.unwrap();
        let mut bytes = files.get("image").unwrap().content();
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap());
        let end = bytes.len().next_multiple_of(cluster as usize) as u64;
        // A table full of entries that name it, then the snapshots.
        let snapshots = 65536u32;
        bytes.resize((end + cluster) as usize + snapshots as usize * 40, 0);
        for at in (l1..l1 + entries * 8).chain(end..end + cluster).step_by(8) {
            bytes[at as usize..at as usize + 8].copy_from_slice(&(end | COPIED).to_be_bytes());
        }
        bytes[60..64].copy_from_slice(&snapshots.to_be_bytes());
        bytes[64..72].copy_from_slice(&(end + cluster).to_be_bytes());
        for snapshot in bytes[(end + cluster) as usize..].chunks_mut(40) {
            snapshot[..8].copy_from_slice(&l1.to_be_bytes());
            snapshot[8..12].copy_from_slice(&(entries as u32).to_be_bytes());
        }
        let storage: Rc<dyn Storage> = files.add("image", bytes);
        let report = check(&storage, None).await.unwrap();
        assert!(report.corruptions > entries, "{}", report.corruptions);
        assert!(check(&storage, Some(Repair::Leaks)).await.is_ok());
    });
}
