//! The map as a client gets it, by small disks in the simulator.

use super::*;
use crate::disk::switch::{DEADLINE, Target};
use crate::image::{self, Create, chain};
use crate::sim::SimDir;
use crate::{Buf, Kind};
use executor::Executor;

const CLUSTER: u64 = 4096;

/// Decodes the runs of an answer: the first cell, the number of cells, and the byte of each.
pub(crate) fn decode(map: &Map, mut at: u64) -> Vec<(u64, u64, u8)> {
    let mut bytes = map.runs.iter().copied();
    let number = |bytes: &mut dyn Iterator<Item = u8>| {
        let mut shift = 0;
        let mut value = 0_u64;
        for byte in bytes {
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    };
    let mut runs = Vec::new();
    while let Some(gap) = number(&mut bytes) {
        at += gap;
        let len = number(&mut bytes).unwrap();
        runs.push((at, len, bytes.next().unwrap()));
        at += len;
    }
    runs
}

const fn whole(state: u8) -> u8 {
    state | 31 << 3
}

const ZERO: u8 = whole(2);
const DATA: u8 = whole(3);
const WRITTEN: u8 = whole(5);
const ABSENT: u8 = 1 | 1 << 3;

/// A disk of 64 clusters over a base of 32, full of data.
async fn disk() -> (Rc<SimDir>, Rc<Disk>) {
    let files = SimDir::new();
    files.add("base", vec![7; 32 * CLUSTER as usize]);
    for name in ["leaf", "next"] {
        let options = Create {
            cluster_size: Some(CLUSTER),
            size: Some(64 * CLUSTER),
            backing: Some(("base".into(), Kind::Raw)),
            ..Create::default()
        };
        image::create(&*files, name, Kind::Qcow2, &options).await.unwrap();
    }
    let leaf = chain::open(&*files, "leaf", Kind::Qcow2, true).await.unwrap();
    (files.clone(), Disk::new("virtio0", leaf, false, files, |_| {}))
}

async fn write(disk: &Rc<Disk>, cluster: u64, clusters: u64) {
    let ticket = disk.enter().await;
    disk.write(&ticket, cluster * CLUSTER, Buf::new((clusters * CLUSTER) as usize)).await.unwrap();
}

async fn since(disk: &Disk, since: u64) -> Map {
    disk.block_map(Question { since: Some(since), ..Question::default() }).await.unwrap()
}

#[test]
fn a_map_and_then_only_what_changes() {
    Executor::simulated(1).block_on(async {
        let (_, disk) = disk().await;
        let map = disk.block_map(Question::default()).await.unwrap();
        assert_eq!((map.total, map.cell_size, map.resync, map.next), (64, CLUSTER, false, None));
        // A short backing file defines what is behind its end too, as QEMU has it.
        assert_eq!(decode(&map, 0), [(0, 64, ABSENT)]);
        write(&disk, 3, 2).await;
        let ticket = disk.enter().await;
        disk.write_zeroes(&ticket, 10 * CLUSTER, CLUSTER, true).await.unwrap();
        drop(ticket);
        let delta = since(&disk, map.generation).await;
        assert_eq!(decode(&delta, 0), [(3, 2, WRITTEN), (10, 1, ZERO)]);
        assert!(!delta.resync);
        let again = since(&disk, delta.generation).await;
        assert!(again.runs.is_empty());
        // A write in place changes nothing, one over zeros does.
        write(&disk, 3, 1).await;
        write(&disk, 10, 1).await;
        assert_eq!(decode(&since(&disk, again.generation).await, 0), [(10, 1, WRITTEN)]);
        let all = disk.block_map(Question::default()).await.unwrap();
        let expected = [(0, 3), (5, 5), (11, 53)].map(|(at, len)| (at, len, ABSENT));
        let absent: Vec<_> = decode(&all, 0).into_iter().filter(|run| run.2 == ABSENT).collect();
        assert_eq!(absent, expected);
    });
}

#[test]
fn a_switch_asks_for_a_new_beginning() {
    Executor::simulated(1).block_on(async {
        let (_, disk) = disk().await;
        write(&disk, 0, 1).await;
        let map = disk.block_map(Question::default()).await.unwrap();
        assert_eq!(decode(&map, 0)[0], (0, 1, WRITTEN));
        let target = Target { name: "next".into(), format: Some(Kind::Qcow2), notify: false };
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        let map = since(&disk, map.generation).await;
        assert!(map.resync);
        assert_eq!(decode(&map, 0), [(0, 64, ABSENT)]);
        assert!(since(&disk, u64::MAX).await.resync, "a generation that never was");
        assert!(!since(&disk, map.generation).await.resync);
    });
}

#[test]
fn cells_have_the_size_that_is_asked_for() {
    Executor::simulated(1).block_on(async {
        let (_, disk) = disk().await;
        write(&disk, 3, 2).await;
        let ask =
            |cell_size, first, cells| Question { cell_size: Some(cell_size), first, cells, since: None };
        let map = disk.block_map(ask(4 * CLUSTER, 0, None)).await.unwrap();
        // A quarter of a cell is written.
        assert_eq!(decode(&map, 0), [(0, 2, 5 | 7 << 3), (2, 14, ABSENT)]);
        let map = disk.block_map(ask(CLUSTER / 2, 5, Some(2))).await.unwrap();
        assert_eq!(decode(&map, 5), [(5, 1, ABSENT), (6, 1, WRITTEN)]);
        let map = disk.block_map(ask(1 << 62, 0, None)).await.unwrap();
        assert_eq!(decode(&map, 0), [(0, 1, 5 | 1 << 3)]);
        let map = disk.block_map(ask(512, u64::MAX, Some(u64::MAX))).await.unwrap();
        assert!(map.runs.is_empty() && map.next.is_none());
        for wrong in [0, 256, 513, u64::MAX] {
            disk.block_map(ask(wrong, 0, None)).await.unwrap_err();
        }
    });
}

#[test]
fn a_raw_disk_has_data_and_zeros() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("raw", vec![7; 4 * RAW_CELL as usize]);
        let leaf = chain::open(&*files, "raw", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files, |_| {});
        let map = disk.block_map(Question::default()).await.unwrap();
        assert_eq!(decode(&map, 0), [(0, 4, DATA)]);
        let ticket = disk.enter().await;
        disk.write(&ticket, RAW_CELL, Buf::from_bytes(&[1; 512])).await.unwrap();
        disk.write_zeroes(&ticket, 2 * RAW_CELL, RAW_CELL, true).await.unwrap();
        let delta = since(&disk, map.generation).await;
        assert_eq!(decode(&delta, 0), [(1, 1, WRITTEN), (2, 1, ZERO)]);
        disk.write(&ticket, 2 * RAW_CELL, Buf::from_bytes(&[1; RAW_CELL as usize])).await.unwrap();
        let delta = since(&disk, delta.generation).await;
        assert_eq!(decode(&delta, 0), [(2, 1, WRITTEN)]);
        disk.discard(&ticket, 2 * RAW_CELL, RAW_CELL).await.unwrap();
        let delta = since(&disk, delta.generation).await;
        assert_eq!(decode(&delta, 0), [(2, 1, ZERO)]);
        disk.write(&ticket, 2 * RAW_CELL, Buf::from_bytes(&[1; RAW_CELL as usize])).await.unwrap();
        assert_eq!(decode(&since(&disk, delta.generation).await, 0), [(2, 1, WRITTEN)]);
    });
}

#[test]
fn a_large_answer_comes_in_parts() {
    Executor::simulated(1).block_on(async {
        let (files, disk) = disk().await;
        drop(disk);
        let options = Create { cluster_size: Some(512), size: Some(140_000 * 512), ..Create::default() };
        image::create(&*files, "large", Kind::Qcow2, &options).await.unwrap();
        let leaf = chain::open(&*files, "large", Kind::Qcow2, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files, |_| {});
        let ticket = disk.enter().await;
        for cluster in (0..140_000).step_by(2) {
            disk.write(&ticket, cluster * 512, Buf::from_bytes(&[1; 512])).await.unwrap();
        }
        drop(ticket);
        let (mut first, mut parts, mut runs) = (0, 0, Vec::new());
        loop {
            let map = disk.block_map(Question { first, ..Question::default() }).await.unwrap();
            assert!(map.runs.len() <= MOST_BYTES + 32);
            runs.extend(decode(&map, first));
            parts += 1;
            let Some(next) = map.next else { break };
            assert!(next > first);
            first = next;
        }
        assert!(parts > 1);
        assert_eq!(runs.len(), 140_000);
        assert!(runs.iter().enumerate().all(|(n, run)| (run.0, run.1) == (n as u64, 1)));
    });
}

#[test]
fn a_disk_that_grows_beside_a_question_has_the_map_of_its_old_size_or_its_new_one() {
    /// The cells of the old size and of the new one, in clusters of 4 a cell: the last cell of the old size
    /// is cut, and has data and zeros.
    const SIZES: [u64; 2] = [64 * 4 + 2, 80 * 4];
    for seed in 0..120 {
        Executor::simulated(seed).block_on(async move {
            let (files, _) = disk().await;
            let size = Some(SIZES[0] * CLUSTER);
            let options = Create { cluster_size: Some(CLUSTER), size, ..Create::default() };
            image::create(&*files, "alone", Kind::Qcow2, &options).await.unwrap();
            let leaf = chain::open(&*files, "alone", Kind::Qcow2, true).await.unwrap();
            let disk = Disk::new("virtio0", leaf, false, files, |_| {});
            let since = disk.block_map(Question::default()).await.unwrap().generation;
            // Every other cell, so that the answer to a question for changes is made range by range.
            for cluster in (0..SIZES[0]).step_by(2).filter(|cluster| cluster / 4 % 2 == 0) {
                write(&disk, cluster, 1).await;
                let ticket = disk.enter().await;
                disk.write_zeroes(&ticket, (cluster + 1) * CLUSTER, CLUSTER, true).await.unwrap();
            }
            let since = (seed % 2 == 0).then_some(since);
            let growing = executor::spawn({
                let disk = disk.clone();
                async move { disk.resize(SIZES[1] * CLUSTER).await.unwrap() }
            });
            for _ in 0..seed / 8 {
                executor::yield_now().await;
            }
            let question = Question { since, cell_size: Some(4 * CLUSTER), ..Question::default() };
            let map = disk.block_map(question).await.unwrap();
            assert!(SIZES.contains(&(map.size / CLUSTER)), "{}", map.size);
            let total = map.size.div_ceil(4 * CLUSTER);
            let cells: u64 = decode(&map, 0).iter().map(|(_, cells, _)| cells).sum();
            assert_eq!(cells, if since.is_some() && !map.resync { 33 } else { total });
            growing.await;
            assert_eq!(disk.block_map(question).await.unwrap().total, 80);
        });
    }
}
