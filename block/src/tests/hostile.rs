//! Images whose metadata is wrong: an error or success, never a panic, a hang or a huge allocation.

use super::*;
use crate::Buf;
use crate::image::check::{self as judge, Repair};

/// Returns an image with data, zeros, holes and a backing file, to be mutated.
async fn victim(files: &Rc<SimDir>) -> Vec<u8> {
    let content = base_content(200);
    files.add("base", content.clone());
    create_qcow2_over(files, "victim", "base", Kind::Raw).await;
    let (disk, _) = open(files, "victim", Kind::Qcow2).await;
    Guest::new(disk.clone(), content).work(30).await;
    disk.close().await.unwrap();
    files.get("victim").unwrap().content()
}

fn word(image: &[u8], at: usize) -> u64 {
    image.get(at..at + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().unwrap()))
}

/// Returns an offset worth changing: in the header, in a table, or anywhere.
fn a_place(image: &[u8]) -> usize {
    let cluster = 1usize << image.get(23).map_or(16, |bits| *bits).min(21);
    let offset = |at| (word(image, at) & 0x00ff_ffff_ffff_fe00) as usize;
    let (l1, table) = (offset(40), offset(48));
    let start = match random(8) {
        0 | 1 => return random(112.min(image.len() as u64)) as usize,
        2 => l1,
        3 => table,
        4 => offset(table),
        5 | 6 => offset(l1),
        _ => return random(image.len() as u64) as usize,
    };
    start + random(cluster.min(256) as u64) as usize
}

fn mutate(image: &mut Vec<u8>) {
    for _ in 0..1 + random(4) {
        let at = a_place(image);
        let Some(target) = image.get_mut(at..) else { continue };
        match random(5) {
            0 => target[..1].iter_mut().for_each(|byte| *byte ^= 1 << random(8)),
            1 => target[..1].iter_mut().for_each(|byte| *byte = executor::random() as u8),
            // A word that is a plausible offset, an extreme, or a wild guess.
            _ => {
                let value = match random(6) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => random(40) * 512,
                    3 => 1 << 63 | random(40) << 16,
                    4 => 0x00ff_ffff_ffff_0000,
                    _ => executor::random(),
                };
                let aligned = at - at % 8;
                if let Some(bytes) = image.get_mut(aligned..aligned + 8) {
                    bytes.copy_from_slice(&value.to_be_bytes());
                }
            }
        }
    }
    if random(16) == 0 {
        image.truncate(random(image.len() as u64) as usize);
    }
}

/// Opens the image and sends it all kinds of requests. Returns the first error.
async fn use_it(files: &Rc<SimDir>) -> crate::Result<()> {
    let leaf = chain::open(&**files, "victim", Kind::Qcow2, true).await?;
    let disk = Disk::new("virtio0", leaf, false, files.clone(), |_| {});
    let size = disk.size().min(1 << 20);
    let mut outcome = Ok(());
    for _ in 0..20 {
        let ticket = disk.enter().await;
        // If the size is wrong, the disk's end is as good a place as its start.
        let base = if random(4) == 0 { disk.size() - size } else { 0 };
        let offset = base + random(size.max(1)).min(size);
        let len = random(base + size - offset + 1).min(100 << 10);
        let done = match random(6) {
            0 | 1 => disk.read(&ticket, offset, Buf::new(len as usize)).await,
            2 => disk.write(&ticket, offset, Buf::new(len as usize)).await,
            3 => disk.write_zeroes(&ticket, offset, len, true).await,
            4 => disk.discard(&ticket, offset, len).await,
            _ => disk.flush(&ticket).await,
        };
        outcome = outcome.and(done);
    }
    outcome = outcome.and(disk.stream_one().await.map(drop));
    // A disk of exabytes has too many holes to be streamed in a test.
    if disk.size() < 1 << 30 && stream_all(&disk).await.is_ok() {
        wait_for_stream(&disk).await;
    }
    outcome.and(disk.close().await)
}

#[test]
fn mutated_images_do_no_harm() {
    seeds(150, |_| async {
        let files = folder();
        let sound = victim(&files).await;
        let mut opened = 0;
        for _ in 0..8 {
            let mut image = sound.clone();
            mutate(&mut image);
            files.add("victim", image);
            opened += u64::from(use_it(&files).await.is_ok());
        }
        std::hint::black_box(opened);
    });
}

#[test]
fn garbage_is_refused() {
    seeds(100, |_| async {
        let files = folder();
        let len = [0, 1, 4, 71, 104, 511, 512, 4096, 70_000][random(9) as usize];
        let mut image: Vec<u8> = (0..len).map(|_| executor::random() as u8).collect();
        let with_magic = random(2) == 0 && len >= 24;
        if with_magic {
            image[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 2 + random(2) as u8]);
            image[20..24].copy_from_slice(&(9 + random(13) as u32).to_be_bytes());
        }
        files.add("victim", image);
        let error = chain::open(&*files, "victim", Kind::Qcow2, true).await.err().unwrap();
        assert!(error.to_string().contains("victim"), "{error}");
    });
}

/// The header's cluster, the L1 table and the refcount table are not free, whatever their counts say.
#[test]
fn tables_that_are_counted_as_free_are_not_given_away() {
    seeds(50, |_| async {
        let files = folder();
        let content = base_content(200);
        files.add("base", content.clone());
        create_qcow2_over(&files, "victim", "base", Kind::Raw).await;
        let file = files.get("victim").unwrap();
        let mut image = file.content();
        let table = word(&image, 48) as usize;
        let block = word(&image, table) as usize;
        if random(4) == 0 {
            image[table..table + 8].fill(0);
        } else {
            let cluster = 1 << image[23];
            image[block..block + cluster].fill(0);
        }
        let before = image.clone();
        files.add("victim", image);
        let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work_through_errors(20).await;
        let _ = guest.flush_now().await;
        guest.verify().await;
        let after = files.get("victim").unwrap().content();
        // Except for the corrupt bit, which version 2 does not have.
        let mark = if before[7] > 2 { 2 } else { 0 };
        assert!(
            after[..79] == before[..79]
                && after[79] & !mark == before[79]
                && after[80..104] == before[80..104],
            "the header was overwritten"
        );
        let l1 = word(&after, 40) as usize;
        assert!(
            after[table..table + 8] == before[table..table + 8]
                || after[table..table + 8] != after[l1..l1 + 8]
        );
        let _ = disk.close().await;
        let leaf = chain::open(&*files, "victim", Kind::Qcow2, false).await.unwrap();
        guest.verify_on(&Disk::new("virtio0", leaf, true, files.clone(), |_| {})).await;
    });
}

/// Returns the offsets of metadata in a sound image of 64 KiB clusters without subclusters: the header,
/// the L1 table, the refcount table and its block, and the L2 table.
fn metadata(image: &[u8]) -> [(&'static str, usize); 5] {
    let table = word(image, 48) as usize;
    let l1 = word(image, 40) as usize;
    [
        ("header", 0),
        ("L1 table", l1),
        ("refcount table", table),
        ("refcount block", word(image, table) as usize),
        ("L2 table", (word(image, l1) & OFFSET) as usize),
    ]
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const CLUSTER: usize = 64 << 10;

async fn plain(files: &Rc<SimDir>, version: u32) -> Vec<u8> {
    let size = Some(20 * CLUSTER as u64);
    let options = Create { size, version: Some(version), ..options(CLUSTER as u64, false) };
    image::create(&**files, "victim", Kind::Qcow2, &options).await.unwrap();
    let (disk, _) = open(files, "victim", Kind::Qcow2).await;
    let ticket = disk.enter().await;
    disk.write(&ticket, 0, Buf::from_bytes(&[7; 4 * CLUSTER])).await.unwrap();
    drop(ticket);
    disk.close().await.unwrap();
    files.get("victim").unwrap().content()
}

/// Checks that each cluster of metadata is unchanged, except for the corrupt bit in the header.
fn assert_intact(before: &[u8], after: &[u8], what: &str) {
    for (name, at) in metadata(before) {
        let mut now = after[at..at + CLUSTER].to_vec();
        if at == 0 && before[7] == 3 {
            assert_eq!(now[79], 2, "{what}: not marked corrupt");
            now[79] = 0;
        }
        assert!(now == before[at..at + CLUSTER], "{what}: the {name} was changed");
    }
}

/// Checks a disk on an image that a change found to be corrupt: writes fail, sound data can be read, and
/// opening the image for writing fails with an error that says what to do.
async fn assert_refused(files: &Rc<SimDir>, disk: &Rc<Disk>, error: &crate::Error, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    let text = error.to_string();
    assert!(text.contains("victim") && text.contains("millrace image check --repair all"), "{what}: {text}");
    assert!(!text.contains('\n'), "{what}: {text}");
    let ticket = disk.enter().await;
    for offset in [1, 15].map(|n| n * CLUSTER as u64) {
        let refused = disk.write(&ticket, offset, Buf::new(512)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
    assert!(disk.write_zeroes(&ticket, 0, CLUSTER as u64, true).await.is_err(), "{what}");
    let buf = Buf::new(CLUSTER);
    disk.read(&ticket, 2 * CLUSTER as u64, buf.clone()).await.unwrap();
    assert!(buf.to_vec() == [7; CLUSTER], "{what}");
    drop(ticket);
    disk.close().await.unwrap();
    let version = files.get("victim").unwrap().content()[7];
    let opened = chain::open(&**files, "victim", Kind::Qcow2, true).await;
    match version {
        3 => assert!(opened.err().unwrap().to_string().contains("--repair all"), "{what}"),
        _ => drop(opened.unwrap()),
    }
    assert!(chain::open(&**files, "victim", Kind::Qcow2, false).await.is_ok(), "{what}");
}

#[test]
fn a_guest_cluster_that_is_metadata_is_not_written() {
    Executor::simulated(1).block_on(async {
        for (version, target) in [2, 3].into_iter().flat_map(|v| (0..6).map(move |n| (v, n))) {
            let files = SimDir::new();
            let mut image = plain(&files, version).await;
            let l2 = metadata(&image)[4].1;
            let past = ("nowhere", image.len().next_multiple_of(CLUSTER) + 8 * CLUSTER);
            let (what, at) = *metadata(&image).get(target).unwrap_or(&past);
            image[l2..l2 + 8].copy_from_slice(&(at as u64 | COPIED).to_be_bytes());
            files.add("victim", image.clone());
            if at == 0 {
                // An entry cannot refer to the header: 0 means absent.
                continue;
            }
            let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
            let ticket = disk.enter().await;
            // Writes to other places still succeed.
            disk.write(&ticket, 3 * CLUSTER as u64, Buf::from_bytes(&[7; 512])).await.unwrap();
            let error = disk.write(&ticket, 512, Buf::from_bytes(&[9; 1024])).await.unwrap_err();
            drop(ticket);
            assert_refused(&files, &disk, &error, what).await;
            assert_intact(&image, &files.get("victim").unwrap().content(), what);

            // After a repair the image can be written without harm.
            if at < image.len() {
                let report = judge::check(&*files, "victim", Kind::Qcow2, Some(Repair::All)).await;
                assert_eq!(report.unwrap().corruptions, 0, "{what}");
                let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
                let ticket = disk.enter().await;
                disk.write(&ticket, 0, Buf::from_bytes(&[9; CLUSTER])).await.unwrap();
                drop(ticket);
                disk.close().await.unwrap();
                let content = files.get("victim").unwrap().content();
                model::check_refcounts(&content, model::Leaks::None);
                assert_eq!((content[79], word(&content, 40)), (image[79], word(&image, 40)), "{what}");
            }
        }
    });
}

#[test]
fn tables_that_share_a_cluster_are_not_written() {
    Executor::simulated(1).block_on(async {
        for (from, to) in (0..5).flat_map(|from| (0..5).map(move |to| (from, to))) {
            let files = SimDir::new();
            let mut image = plain(&files, 3).await;
            let places = metadata(&image);
            // The field that refers to the place, in the header or in a table.
            let (field, flag) = match places[from].0 {
                "L1 table" => (40, 0),
                "refcount table" => (48, 0),
                "refcount block" => (places[2].1, 0),
                "L2 table" => (places[1].1, COPIED),
                _ => continue,
            };
            let (what, at) = places[to];
            if from == to || at == 0 {
                continue;
            }
            image[field..field + 8].copy_from_slice(&(at as u64 | flag).to_be_bytes());
            files.add("victim", image.clone());
            let Ok(leaf) = chain::open(&*files, "victim", Kind::Qcow2, true).await else { continue };
            let disk = Disk::new("virtio0", leaf, false, files.clone(), |_| {});
            let ticket = disk.enter().await;
            let error = disk.write(&ticket, 10 * CLUSTER as u64, Buf::new(512)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{from} at the {what}: {error}");
            assert!(disk.discard(&ticket, 0, CLUSTER as u64).await.is_err(), "{from} at the {what}");
            drop(ticket);
            disk.close().await.unwrap();
            image[79] = 2;
            assert!(files.get("victim").unwrap().content() == image, "{from} at the {what}");
        }
    });
}

/// Metadata is not freed, even if a wrong reference to it is dropped and its refcount becomes 0.
#[test]
fn metadata_is_never_given_back() {
    Executor::simulated(1).block_on(async {
        for target in 1..5 {
            let files = SimDir::new();
            let mut image = plain(&files, 3).await;
            let (what, at) = metadata(&image)[target];
            let l2 = metadata(&image)[4].1;
            // Not COPIED, so that a write allocates a new cluster and drops this reference.
            image[l2..l2 + 8].copy_from_slice(&(at as u64).to_be_bytes());
            files.add("victim", image.clone());
            let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
            let ticket = disk.enter().await;
            for n in [0, 8, 9, 10, 11, 12] {
                let bytes = vec![n as u8 + 1; CLUSTER];
                disk.write(&ticket, n * CLUSTER as u64, Buf::from_bytes(&bytes)).await.unwrap();
                disk.flush(&ticket).await.unwrap();
            }
            drop(ticket);
            disk.close().await.unwrap();
            let content = files.get("victim").unwrap().content();
            assert_eq!(metadata(&content), metadata(&image), "{what}");
            let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
            let ticket = disk.enter().await;
            let buf = Buf::new(CLUSTER);
            disk.read(&ticket, 12 * CLUSTER as u64, buf.clone()).await.unwrap();
            assert!(buf.to_vec() == [13; CLUSTER], "{what}");
            disk.read(&ticket, 2 * CLUSTER as u64, buf.clone()).await.unwrap();
            assert!(buf.to_vec() == [7; CLUSTER], "{what}");
        }
    });
}
