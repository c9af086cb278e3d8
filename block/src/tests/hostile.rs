//! Images whose metadata is wrong: an error or success, never a panic, a hang or a huge allocation.

use super::*;
use crate::Buf;

/// An image with data, zeros, holes, a backing file and a snapshot-like shared cluster to mutate.
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

/// A place worth changing: header, tables, or anywhere.
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

/// Everything that a disk can be asked for; answers how far it came.
async fn use_it(files: &Rc<SimDir>) -> crate::Result<()> {
    let leaf = chain::open(&**files, "victim", Kind::Qcow2, true).await?;
    let disk = Disk::new("virtio0", leaf, false, files.clone(), |_| {});
    let size = disk.size().min(1 << 20);
    let mut outcome = Ok(());
    for _ in 0..20 {
        let ticket = disk.enter().await;
        // The end of a disk whose size is a lie is as good a place as its start.
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
    if disk.size() < 1 << 30 && disk.start_stream().is_ok() {
        while disk.query_stream().is_some() {
            executor::sleep(Duration::from_micros(50)).await;
        }
    }
    outcome.and(disk.close().await)
}

#[test]
fn mutated_images_do_no_harm() {
    seeds(150, |_| async {
        let files = SimDir::new();
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
        let files = SimDir::new();
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
        let files = SimDir::new();
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
        assert!(after[..104] == before[..104], "the header was overwritten");
        let l1 = word(&after, 40) as usize;
        assert!(
            after[table..table + 8] == before[table..table + 8]
                || after[table..table + 8] != after[l1..l1 + 8]
        );
        let (disk, _) = open(&files, "victim", Kind::Qcow2).await;
        guest.verify_on(&disk).await;
    });
}
