//! The cache drops the slices that were used longest ago, and never those that the file does not have yet.

use super::*;
use crate::sim::SimFile;
use executor::{Executor, spawn};

const TABLE: u64 = 4096;

async fn filled(capacity: u64) -> (Rc<SimFile>, Rc<Cache>) {
    let content: Vec<u8> = (0..100 * TABLE).map(|at| (at / TABLE) as u8).collect();
    let file = SimFile::new("tables", content);
    (file.clone(), Rc::new(Cache::new(file, ByteOrder::Big, TABLE, capacity * TABLE)))
}

#[test]
fn old_slices_go_and_dirty_ones_stay() {
    Executor::simulated(1).block_on(async {
        let (_, cache) = filled(16).await;
        let dirty = cache.get(0).await.unwrap();
        cache.set_u64(&dirty, 5, 77);
        drop(dirty);
        for n in 1..100 {
            assert_eq!(cache.get(n * TABLE).await.unwrap().u64_at(0), 0x0101_0101_0101_0101 * n);
            assert_eq!(cache.get(TABLE).await.unwrap().u64_at(0), 0x0101_0101_0101_0101);
        }
        assert!(cache.slices.borrow().len() <= 17);
        assert!(cache.peek(2 * TABLE).is_none(), "used once, long ago");
        assert!(cache.peek(TABLE).is_some(), "used all the time");
        assert_eq!(cache.peek(0).expect("not in the file yet").u64_at(5), 77);
        let runs = &cache.take_dirty().runs;
        assert_eq!((runs.len(), runs[0].offset, runs[0].bytes.len()), (1, 0, SECTOR));
        assert!(!cache.is_dirty());
    });
}

#[test]
fn what_could_not_be_written_is_dirty_again() {
    Executor::simulated(1).block_on(async {
        let (_, cache) = filled(16).await;
        let slice = cache.get(3 * TABLE).await.unwrap();
        cache.set_u64(&slice, 0, 1);
        let taken = cache.take_dirty();
        cache.set_u64(&slice, 511, 2);
        cache.give_back(&taken);
        let offsets: Vec<_> = cache.take_dirty().runs.iter().map(|run| run.offset).collect();
        assert_eq!(offsets, [3 * TABLE, 4 * TABLE - SECTOR as u64]);
    });
}

#[test]
fn one_read_serves_all_who_ask_at_once() {
    Executor::simulated(1).block_on(async {
        let (_, cache) = filled(16).await;
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let cache = cache.clone();
                spawn(async move { cache.get(TABLE).await.unwrap() })
            })
            .collect();
        let mut slices = Vec::new();
        for task in tasks {
            slices.push(task.await.unwrap());
        }
        assert!(slices.iter().all(|slice| Rc::ptr_eq(slice, &slices[0])));
        assert_eq!(cache.get(200 * TABLE).await.err().unwrap().kind(), ErrorKind::Corrupt);
    });
}
