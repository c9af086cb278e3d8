//! Long chains: their limit and their cost, and that neither their length nor their fragmentation blocks
//! the disk's thread or overflows its stack.

use std::cell::Cell;

use super::*;
use crate::disk::job::JobOptions;
use crate::disk::switch::Overlay;
use crate::image::chain::LONGEST;
use crate::job::stream::{Base, StreamOptions};

const SIZE: u64 = 1 << 20;

fn name(n: usize) -> String {
    format!("image{n:05}")
}

/// Adds images `1..=last` to a chain over image 0, which must exist and be raw. Those from 3 on are
/// copies of image 2 with the name of another backing file.
async fn pile(files: &Rc<SimDir>, last: usize) {
    let options = Create { backing: Some((name(0), Kind::Raw)), ..options(4096, false) };
    image::create(&**files, &name(1), Kind::Qcow2, &options).await.unwrap();
    let options = Create { backing: Some((name(1), Kind::Qcow2)), ..options };
    image::create(&**files, &name(2), Kind::Qcow2, &options).await.unwrap();
    let second = files.get(&name(2)).unwrap().content();
    let at = second.windows(name(1).len()).position(|bytes| bytes == name(1).as_bytes()).unwrap();
    for n in 3..=last {
        let mut image = second.clone();
        image[at..at + name(1).len()].copy_from_slice(name(n - 1).as_bytes());
        files.add(&name(n), image);
    }
}

async fn read(disk: &Rc<Disk>, offset: u64, len: usize) -> Vec<u8> {
    let (ticket, buf) = (disk.enter().await, Buf::new(len));
    disk.read(&ticket, offset, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Returns the CPU time of this thread.
fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn the_longest_chain_is_opened_read_streamed_and_dropped() {
    // On a stack of a thread's default size.
    let whole = || {
        Executor::simulated(1).block_on(async {
            let files = SimDir::new();
            files.add(&name(0), (0..SIZE).map(|n| (n >> 12) as u8 | 1).collect());
            let content = files.get(&name(0)).unwrap().content();
            pile(&files, LONGEST - 1).await;
            let (disk, _) = open(&files, &name(LONGEST - 1), Kind::Qcow2).await;
            assert_eq!(disk.leaf().depth(), LONGEST);
            assert!(read(&disk, 0, SIZE as usize).await == content);
            assert_eq!(disk.leaf().map(0, SIZE).await.unwrap().depth, LONGEST - 1);
            let ticket = disk.enter().await;
            disk.write(&ticket, 100, Buf::from_bytes(&[9; 10])).await.unwrap();
            drop(ticket);
            stream_all(&disk).await.unwrap();
            wait_for_stream(&disk).await;
            assert!(disk.leaf().backing().is_none(), "dropped, all of it");
            disk.close().await.unwrap();
        });
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(whole).unwrap().join().unwrap();
}

#[test]
fn one_image_too_many_is_refused_in_time() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add(&name(0), vec![7; SIZE as usize]);
        pile(&files, LONGEST + 3).await;
        let text =
            |image: &str| format!("{image}: the chain of backing files is longer than {LONGEST} images");
        let error = chain::open(&*files, &name(LONGEST), Kind::Qcow2, true).await.err().unwrap();
        // The error names the image that is one too many, at the bottom.
        assert_eq!(error.to_string(), text(&name(0)));
        // Created over a chain that is just short enough.
        let last = (name(LONGEST - 1), Kind::Qcow2);
        let options = Create { backing: Some(last), ..options(64 << 10, false) };
        let error = image::create(&*files, "more", Kind::Qcow2, &options).await.unwrap_err();
        assert!(error.to_string().ends_with(&text("more")), "{error}");
        assert!(files.get("more").is_err(), "a file is left");
        // The disk runs on a chain of the maximum length.
        let (disk, _) = open(&files, &name(LONGEST - 1), Kind::Qcow2).await;
        let overlay = |name: &str, existing| Overlay {
            name: name.into(),
            format: Kind::Qcow2,
            existing,
            node_name: None,
            notify: false,
        };
        let error = disk.prepare_overlay(&overlay("more", false)).await.err().unwrap();
        assert_eq!(error.to_string(), text("more"));
        assert!(files.get("more").is_err(), "a file is left");
        let error = disk.prepare_overlay(&overlay(&name(LONGEST), true)).await.err().unwrap();
        assert_eq!(error.to_string(), text(&name(LONGEST)));
        for format in [Some(Kind::Qcow2), None] {
            let target = Target { name: name(LONGEST), format, notify: false };
            let error = disk.prepare_switch(&target).await.err().unwrap();
            assert_eq!(error.to_string(), text(&name(LONGEST)));
        }
        disk.close().await.unwrap();
        // One image less, and an overlay is allowed.
        let (disk, _) = open(&files, &name(LONGEST - 2), Kind::Qcow2).await;
        disk.prepare_overlay(&overlay("more", false)).await.unwrap().commit(DEADLINE).await.unwrap();
        disk.close().await.unwrap();
        assert_eq!(chain::open(&*files, "more", Kind::Qcow2, true).await.unwrap().depth(), LONGEST);
    });
}

/// Data that stays in the base is not examined byte by byte.
#[test]
fn a_stream_to_a_base_costs_what_it_copies() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let size = 64 << 20;
        files.add("base", vec![1; size]);
        for (image, backing, kind) in [("low", "base", Kind::Raw), ("leaf", "low", Kind::Qcow2)] {
            let options = Create { backing: Some((backing.into(), kind)), ..options(64 << 10, true) };
            image::create(&*files, image, Kind::Qcow2, &options).await.unwrap();
        }
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        let start = spent();
        let extent = StreamOptions { base: Some(Base::File("base".into())), ..StreamOptions::default() };
        disk.start_stream(extent, JobOptions::new("job0")).await.unwrap();
        wait_for_stream(&disk).await;
        let took = spent() - start;
        // Byte by byte it takes minutes; this takes milliseconds, apart from the simulator's own time.
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(disk.leaf().backing().unwrap().name(), "base");
    });
}

/// Other tasks run while a fragmented disk is scanned.
#[test]
fn looking_through_many_pieces_lets_others_have_their_turn() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let size = 8 << 20;
        files.add("base", vec![1; size]);
        let low = Create { backing: Some(("base".into(), Kind::Raw)), ..options(512, false) };
        image::create(&*files, "low", Kind::Qcow2, &low).await.unwrap();
        // Every other cluster of 512 bytes is present.
        let (disk, _) = open(&files, "low", Kind::Qcow2).await;
        for at in (0..size as u64).step_by(1024) {
            let ticket = disk.enter().await;
            disk.write(&ticket, at, Buf::from_bytes(&[2; 512])).await.unwrap();
        }
        let (turns, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let other = {
            let (turns, done) = (turns.clone(), done.clone());
            spawn(async move {
                while !done.get() {
                    turns.set(turns.get() + 1);
                    executor::yield_now().await;
                }
            })
        };
        // All tables are in memory from here on.
        disk.stream_at(0).await.unwrap();
        let before = turns.get();
        let (_, absent) = disk.stream_at(size as u64).await.unwrap();
        done.set(true);
        other.await;
        assert_eq!(absent, size as u64 / 2 - 512);
        assert!(turns.get() - before > 100, "{} turns in {} pieces", turns.get() - before, size / 512);
    });
}
