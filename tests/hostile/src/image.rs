//! Any bytes as an image: everything that a disk can be asked to do, on the simulator's storage.

use std::rc::Rc;
use std::time::Duration;

use block::check::{self, Repair};
use block::image::{self, Create};
use block::job::JobOptions;
use block::sim::Faults;
use block::stream::StreamOptions;
use block::{Buf, Disk, Kind, chain, map};
use executor::Executor;

use crate::mutate::hash;
use crate::watched::Folder;

/// Larger disks are not walked from end to end, because their holes are practically endless. In bytes.
const WALKED: u64 = 64 << 20;
/// The largest image in the corpora, in bytes; a larger one makes a fuzzer slow.
const LARGEST: usize = 512 << 10;
/// The largest growth of a file, in bytes.
const GROWTH: usize = 4 << 20;

/// Opens the bytes as a qcow2 image and uses it.
pub fn qcow2(data: &[u8]) {
    run(data, Kind::Qcow2);
}

/// Opens the bytes as a QED image and uses it.
pub fn qed(data: &[u8]) {
    run(data, Kind::Qed);
}

/// The simulator holds a file twice, and writes that are not synced once more; tables are kept as
/// clusters of up to 2 MiB.
pub(crate) fn memory(len: usize) -> usize {
    16 * len + 4 * GROWTH + (16 << 20)
}

fn run(data: &[u8], kind: Kind) {
    let data = data.to_vec();
    Executor::simulated(hash(&data)).block_on(async move {
        let files = Folder::new(data, GROWTH as u64);
        look(&files, kind).await;
        if executor::random().is_multiple_of(4) {
            let few = executor::random() as u32 % 30;
            files.set_faults(Faults { read: few, write: few, delay: 20, ..Faults::default() });
        }
        let _ = work(&files, kind).await;
        files.set_faults(Faults::default());
        let _ = check::check(&*files, "image", kind, Some(Repair::Leaks)).await;
        let _ = check::check(&*files, "image", kind, Some(Repair::All)).await;
        look(&files, kind).await;
    });
}

/// Everything that can be done with an image without writing to it.
async fn look(files: &Rc<Folder>, kind: Kind) {
    let _ = image::info(&**files, "image", kind).await;
    let _ = check::check(&**files, "image", kind, None).await;
    let Ok(leaf) = chain::open(&**files, "image", kind, false).await else { return };
    if leaf.size() <= WALKED {
        let _ = map::map(&leaf, |piece| assert!(piece.length > 0)).await;
    }
    let disk = Disk::new("disk", leaf, true, files.clone(), |_| {});
    for _ in 0..4 {
        let (offset, len) = some_range(&disk);
        let ticket = disk.enter().await;
        let _ = disk.read(&ticket, offset, Buf::new(len as usize)).await;
    }
    let _ = disk.close().await;
}

/// A range of the disk, mostly near its start or its end. Some ranges lie outside the disk.
fn some_range(disk: &Disk) -> (u64, u64) {
    let near = disk.size().min(1 << 20);
    let start = if executor::random().is_multiple_of(4) { disk.size() - near } else { 0 };
    let offset = start + executor::random() % (near + 1);
    let len = executor::random() % (128 << 10);
    if executor::random().is_multiple_of(64) {
        return (executor::random(), len);
    }
    (offset, len.min(disk.size() - offset))
}

async fn work(files: &Rc<Folder>, kind: Kind) -> block::Result<()> {
    let leaf = chain::open(&**files, "image", kind, true).await?;
    let disk = Disk::new("disk", leaf, false, files.clone(), |_| {});
    let workers: Vec<_> = (0..2).map(|_| executor::spawn(requests(disk.clone(), 12))).collect();
    for worker in workers {
        worker.await;
    }
    let _ = disk.resize(disk.size().saturating_add(executor::random() % (1 << 22) / 512 * 512)).await;
    requests(disk.clone(), 4).await;
    let _ = disk.stream_one().await;
    if disk.size() <= WALKED
        && disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await.is_ok()
    {
        while !disk.query_stream().is_empty() {
            executor::sleep(Duration::from_micros(50)).await;
        }
    }
    requests(disk.clone(), 4).await;
    disk.close().await
}

async fn requests(disk: Rc<Disk>, count: usize) {
    for _ in 0..count {
        let (offset, len) = some_range(&disk);
        let ticket = disk.enter().await;
        // A bad image may cause errors.
        let _ = match executor::random() % 8 {
            0 | 1 => disk.read(&ticket, offset, Buf::new(len as usize)).await,
            2..=4 => disk.write(&ticket, offset, Buf::from_bytes(&vec![0xda; len as usize])).await,
            5 => disk.write_zeroes(&ticket, offset, len, executor::random().is_multiple_of(2)).await,
            6 => disk.discard(&ticket, offset, len).await,
            _ => disk.flush(&ticket).await,
        };
    }
}

pub(crate) fn qcow2_corpus() -> Vec<Vec<u8>> {
    let choices = (0..24).map(|n| {
        let (cluster, extended_l2) = [
            (512, false),
            (4096, false),
            (16 << 10, true),
            (64 << 10, true),
            (8 << 10, false),
            (1024, false),
        ][n % 6];
        let version = if extended_l2 || n % 4 > 0 { 3 } else { 2 };
        Create {
            cluster_size: Some(cluster),
            extended_l2: Some(extended_l2),
            version: Some(version),
            refcount_bits: (version == 3).then_some(1 << (n % 7)),
            lazy_refcounts: (version == 3).then_some(n % 5 == 0),
            ..Create::default()
        }
    });
    corpus(Kind::Qcow2, choices)
}

pub(crate) fn qed_corpus() -> Vec<Vec<u8>> {
    let choices = (0..12).map(|n| {
        let (cluster, table) = [(4096, 1), (4096, 2), (16 << 10, 1), (64 << 10, 1)][n % 4];
        Create { cluster_size: Some(cluster), table_size: Some(table), ..Create::default() }
    });
    corpus(Kind::Qed, choices)
}

/// Images with data, zeros and holes; some have a backing file, and some are left as a kill leaves them.
fn corpus(kind: Kind, choices: impl Iterator<Item = Create>) -> Vec<Vec<u8>> {
    let make = |(n, options): (usize, Create)| {
        Executor::simulated(n as u64).block_on(async move {
            let files = Folder::new(Vec::new(), 64 << 20);
            let backing = (n % 3 > 0).then(|| ("base".to_owned(), Kind::Raw));
            let size = 512 * (60 + executor::random() % 140);
            let options = Create { backing, size: Some(size), ..options };
            image::create(&*files, "image", kind, &options).await.expect("sound options");
            let leaf = chain::open(&*files, "image", kind, true).await.expect("a sound image");
            let disk = Disk::new("disk", leaf, false, files.clone(), |_| {});
            requests(disk.clone(), 12).await;
            if n % 4 > 0 {
                disk.close().await.expect("storage without faults");
            }
            let mut image = files.content();
            // Space that was allocated ahead makes a fuzzer slow and tests nothing.
            let used = image.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            image.truncate(used.next_multiple_of(4096));
            assert!(image.len() <= LARGEST, "{} bytes of image", image.len());
            image
        })
    };
    choices.enumerate().map(make).collect()
}
