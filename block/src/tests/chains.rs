//! Chains of up to four images of any formats and sizes, under a guest that reads, writes, discards and
//! flushes while the disk grows, fails, fills up, is closed and opened, and loses power again and again.

use super::*;
use crate::Buf;

/// A chain: names and formats from the bottom, and the content of the leaf's disk.
struct Chain {
    layers: Vec<(String, Kind)>,
    content: Vec<u8>,
}

/// Builds a chain, each layer written by a guest.
async fn build(files: &Rc<SimDir>) -> Chain {
    let mut layers: Vec<(String, Kind)> = Vec::new();
    let mut content = Vec::new();
    for n in 0..1 + random(4) {
        let name = format!("layer{n}");
        let size = 512 * (150 + random(250));
        content.resize(size as usize, 0);
        if n == 0 && random(2) == 0 {
            content = base_content(size / 512);
            files.add(&name, content.clone());
            layers.push((name, Kind::Raw));
            continue;
        }
        let (kind, options) = some_layout();
        let options = Create { backing: layers.last().cloned(), size: Some(size), ..options };
        image::create(&**files, &name, kind, &options).await.unwrap();
        let (disk, _) = open(files, &name, kind).await;
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(random(25)).await;
        guest.verify().await;
        content = model::read_all(&disk).await;
        disk.close().await.unwrap();
        layers.push((name, kind));
    }
    Chain { layers, content }
}

/// Returns the bytes of all files below the leaf.
fn below(files: &SimDir, chain: &Chain) -> Vec<Vec<u8>> {
    let (_, below) = chain.layers.split_last().unwrap();
    below.iter().map(|(name, _)| files.get(name).unwrap().content()).collect()
}

fn some_faults(len: u64) -> Faults {
    let few = |odds: u64, most: u64| if random(odds) == 0 { random(most) as u32 } else { 0 };
    let limit = (random(4) == 0).then(|| len + random(200 << 10));
    Faults {
        read: few(3, 40),
        write: few(3, 80),
        sync: few(8, 100),
        limit,
        delay: random(200),
        ..Faults::default()
    }
}

/// Grows the disk now and then, and the guest's model with it. Returns the smallest and the largest size
/// that the disk may have.
async fn grow(disk: &Rc<Disk>, guest: &Rc<Guest>) -> (u64, u64) {
    let mut sure = disk.size();
    let mut asked = sure;
    for _ in 0..random(3) {
        executor::sleep(Duration::from_micros(random(2000))).await;
        asked = sure + 512 * (1 + random(300));
        match disk.resize(asked).await {
            Ok(()) => sure = asked,
            Err(_) => return (sure, asked),
        }
        guest.grow(sure / 512);
    }
    (sure, asked)
}

/// Checks that the part of the disk that the guest does not know reads as zeros.
async fn assert_new_sectors_are_zero(disk: &Rc<Disk>, guest: &Guest) {
    let known = guest.sectors() * 512;
    let ticket = disk.enter().await;
    let buf = Buf::new((disk.size() - known) as usize);
    disk.read(&ticket, known, buf.clone()).await.unwrap();
    assert!(buf.to_vec().iter().all(|byte| *byte == 0), "something shows through where the disk grew");
}

#[test]
fn chains_survive_power_cuts_again_and_again() {
    seeds(700, |_| async {
        let mut files = folder();
        let chain = build(&files).await;
        let untouched = below(&files, &chain);
        let (leaf, kind) = chain.layers.last().cloned().unwrap();
        let mut known: Option<Rc<Guest>> = None;
        for _ in 0..1 + random(3) {
            let (disk, events) = open(&files, &leaf, kind).await;
            disk.set_copy_on_read(random(4) == 0);
            let guest = match &known {
                None => Guest::new(disk.clone(), chain.content.clone()),
                Some(guest) => guest.on(disk.clone()),
            };
            let used = check_since(&files, &leaf, kind, model::Leaks::Any, &[]);
            // The disk may have been growing when the power was cut.
            assert_new_sectors_are_zero(&disk, &guest).await;
            guest.grow(disk.size() / 512);
            for (name, _) in &chain.layers {
                let file = files.get(name).unwrap();
                file.set_faults(some_faults(file.content().len() as u64));
            }
            files.cut_after(1 + random(120));
            let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_through_errors(40))).collect();
            let (sure, asked) = grow(&disk, &guest).await;
            if random(4) == 0 && disk.leaf().backing().is_some() {
                let _ = stream_all(&disk).await;
            }
            for worker in workers {
                worker.await;
            }
            wait_for_stream(&disk).await;
            let closed = random(3) == 0 && disk.close().await.is_ok();
            if closed {
                guest.everything_is_durable();
            }
            files = files.after_power_cut();
            let completed = events
                .borrow()
                .iter()
                .any(|event| matches!(event, DiskEvent::StreamCompleted { error: None, .. }));
            check_since(&files, &leaf, kind, model::Leaks::Allowed, &used);
            let (disk, _) = open(&files, &leaf, kind).await;
            assert!(!completed || disk.leaf().backing().is_none());
            // A raw file may be longer, up to the end of its last block.
            let most = if kind == Kind::Raw { asked.next_multiple_of(4096) } else { asked };
            assert!((sure..=most).contains(&disk.size()), "{sure} {asked} {}", disk.size());
            guest.verify_after_power_cut(&disk).await;
            assert!(below(&files, &chain) == untouched, "a backing file was changed");
            disk.close().await.unwrap();
            known = Some(guest);
        }
        // The chain can be used from there on, with storage that does not fail.
        let (disk, _) = open(&files, &leaf, kind).await;
        let guest = known.unwrap().on(disk.clone());
        let used = check_since(&files, &leaf, kind, model::Leaks::Any, &[]);
        assert_new_sectors_are_zero(&disk, &guest).await;
        guest.grow(disk.size() / 512);
        guest.clone().work(15).await;
        guest.verify().await;
        disk.close().await.unwrap();
        let (disk, _) = open(&files, &leaf, kind).await;
        guest.verify_on(&disk).await;
        check_since(&files, &leaf, kind, model::Leaks::Allowed, &used);
    });
}

#[test]
fn chains_are_closed_and_opened_and_their_metadata_stays_exact() {
    seeds(200, |_| async {
        let files = folder();
        let chain = build(&files).await;
        let untouched = below(&files, &chain);
        let (leaf, kind) = chain.layers.last().cloned().unwrap();
        let (disk, _) = open(&files, &leaf, kind).await;
        let mut guest = Guest::new(disk.clone(), chain.content.clone());
        disk.close().await.unwrap();
        for _ in 0..4 {
            let (disk, _) = open(&files, &leaf, kind).await;
            let used = check_since(&files, &leaf, kind, model::Leaks::Any, &[]);
            guest = guest.on(disk.clone());
            for (name, _) in &chain.layers {
                files.get(name).unwrap().set_faults(Faults { delay: random(200), ..Faults::default() });
            }
            let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work(15))).collect();
            grow(&disk, &guest).await;
            for worker in workers {
                worker.await;
            }
            guest.verify().await;
            disk.close().await.unwrap();
            check_since(&files, &leaf, kind, model::Leaks::None, &used);
            assert!(below(&files, &chain) == untouched, "a backing file was changed");
        }
    });
}
