//! Requests on fragmented disks: memory is bounded, and the thread's other tasks get their turns.

use std::any::Any;
use std::cell::Cell;
use std::ptr::NonNull;

use super::*;
use crate::job::backup::BackupOptions;
use crate::job::mirror::{MirrorTarget, Sync};

/// Counts the turns that another task of the thread gets until it is dropped.
struct Ticker(Rc<Cell<u64>>, executor::JoinHandle<()>);

impl Ticker {
    fn start(look: impl Fn() + 'static) -> Self {
        let turns: Rc<Cell<u64>> = Rc::default();
        let count = turns.clone();
        let task = spawn(async move {
            loop {
                look();
                count.set(count.get() + 1);
                executor::yield_now().await;
            }
        });
        Ticker(turns, task)
    }

    fn turns(&self) -> u64 {
        self.0.get()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.1.cancel();
    }
}

/// Creates a disk of 4 MiB in which `piece` makes every other piece of 2 KiB.
async fn striped(files: &Rc<SimDir>, piece: impl AsyncFn(&Rc<Disk>, u64)) -> Rc<Disk> {
    let options = Create { size: Some(4 << 20), ..options(64 << 10, true) };
    image::create(&**files, "disk", Kind::Qcow2, &options).await.unwrap();
    let (disk, _) = open(files, "disk", Kind::Qcow2).await;
    for n in 0..1024 {
        piece(&disk, n * 4096).await;
    }
    disk
}

#[test]
fn a_read_in_many_pieces_has_few_of_them_in_memory() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let disk = striped(&files, async |disk, at| {
            let ticket = disk.enter().await;
            disk.write(&ticket, at, Buf::from_bytes(&[7; 2048])).await.unwrap();
        });
        let disk = disk.await;
        let memory: Rc<Vec<Cell<u8>>> = Rc::new(vec![Cell::new(9); 4 << 20]);
        let start = NonNull::new(memory.as_ptr().cast_mut().cast::<u8>()).unwrap();
        let keep: Rc<dyn Any> = memory.clone();
        // SAFETY: one range that lives as long as `keep`, in cells.
        let buf = unsafe { Buf::foreign([(start, memory.len())], keep) };
        let most = Rc::new(Cell::new(0));
        let ticker = {
            let (memory, most) = (memory.clone(), most.clone());
            Ticker::start(move || most.set(most.get().max(Rc::strong_count(&memory))))
        };
        let ticket = disk.enter().await;
        disk.read(&ticket, 0, buf).await.unwrap();
        drop(ticker);
        assert!(most.get() < 300, "{} handles to the buffer at once", most.get());
        assert!(
            memory
                .chunks(2048)
                .enumerate()
                .all(|(n, piece)| { piece.iter().all(|byte| byte.get() == if n % 2 == 0 { 7 } else { 0 }) })
        );
    });
}

#[test]
fn what_needs_no_wait_lets_others_have_their_turns() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let disk = striped(&files, async |disk, at| {
            let ticket = disk.enter().await;
            disk.write(&ticket, at, Buf::from_bytes(&[7; 2048])).await.unwrap();
            disk.write_zeroes(&ticket, at, 2048, false).await.unwrap();
        });
        let disk = disk.await;
        let leaf = disk.leaf();
        let ticker = Ticker::start(|| ());
        let before = ticker.turns();
        leaf.read(0, Buf::new(4 << 20)).await.unwrap();
        let read = ticker.turns() - before;
        assert!(read >= 2, "{read} turns in a read of 2048 pieces");
        assert!(leaf.next_absent(2048..2049, 1).await.unwrap().is_some());
        let before = ticker.turns();
        leaf.write_zero_bytes(0, 4 << 20).await.unwrap();
        let zeroed = ticker.turns() - before;
        assert!(zeroed >= 2, "{zeroed} turns in zeroing 2048 pieces that are zero");

        // Tables map 32 KiB each.
        let options = Create { size: Some(1 << 30), ..options(512, false) };
        image::create(&*files, "large", Kind::Qcow2, &options).await.unwrap();
        let (disk, _) = open(&files, "large", Kind::Qcow2).await;
        let before = ticker.turns();
        disk.discard(&disk.enter().await, 0, 1 << 30).await.unwrap();
        let discarded = ticker.turns() - before;
        assert!(discarded >= 32, "{discarded} turns in a discard over 32768 tables");
        let before = ticker.turns();
        assert!(disk.leaf().next_absent(0..1 << 30, u64::MAX).await.unwrap().is_some());
        let looked = ticker.turns() - before;
        assert!(looked >= 32, "{looked} turns in a look at 32768 tables");
    });
}

#[test]
fn a_backup_of_the_leaf_alone_can_be_cancelled_while_it_looks_for_what_the_leaf_has() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        // Tables map 32 KiB each.
        for (name, behind) in [("base", None), ("leaf", Some(("base".to_owned(), Kind::Qcow2)))] {
            let options = Create { size: Some(1 << 30), backing: behind, ..options(512, false) };
            image::create(&*files, name, Kind::Qcow2, &options).await.unwrap();
        }
        let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
        let ticker = Ticker::start(|| ());
        let node_name = None;
        let target = MirrorTarget { name: "copy".into(), format: Kind::Qcow2, existing: false, node_name };
        let options = JobOptions { auto_dismiss: false, ..JobOptions::new("backup") };
        disk.start_backup(BackupOptions { target, sync: Sync::Top }, options).await.unwrap();
        let job = disk.job("backup").unwrap();
        let before = ticker.turns();
        while ticker.turns() < before + 8 {
            executor::yield_now().await;
        }
        job.cancel().unwrap();
        job.ended().await;
        assert_eq!(job.info().offset, 0);
        let turns = ticker.turns() - before;
        assert!(turns < 256, "{turns} turns, and all tables take 512");
        disk.close().await.unwrap();
    });
}

/// Pieces are copied together with their neighbours: a copy does not take longer the more there are.
#[test]
fn many_small_pieces_cost_what_a_large_one_does() {
    let time = |holes: bool| {
        Executor::simulated(1).block_on(async move {
            let files = SimDir::new();
            let mut content = vec![5; 8 << 20];
            if holes {
                content.chunks_mut(4096).step_by(2).for_each(|piece| piece.fill(0));
            }
            files.add("base", content.clone());
            let options = Create { backing: Some(("base".into(), Kind::Raw)), ..options(64 << 10, true) };
            image::create(&*files, "leaf", Kind::Qcow2, &options).await.unwrap();
            let (disk, _) = open(&files, "leaf", Kind::Qcow2).await;
            for name in ["base", "leaf"] {
                files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
            }
            let start = executor::now();
            stream_all(&disk).await.unwrap();
            wait_for_stream(&disk).await;
            let time = executor::now() - start;
            assert!(model::read_all(&disk).await == content);
            disk.close().await.unwrap();
            check(&files, "leaf", Kind::Qcow2, model::Leaks::None);
            time
        })
    };
    let (whole, pieces) = (time(false), time(true));
    assert!(pieces < whole * 4, "{pieces:?} for 2048 pieces, {whole:?} for one");
}
