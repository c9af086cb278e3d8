//! The code between bytes and blocks, where nothing else of the block layer hides its faults.

use std::rc::Rc;

use executor::{Executor, spawn};

use super::*;
use crate::Buf;
use crate::storage::Source;
use crate::storage::Transfer;

const BLOCK: u64 = 4096;

fn blocks() -> Nature {
    Nature { alignment: BLOCK, sharing: Sharing::Always, late: true, ..Nature::default() }
}

/// A file of this nature, opened.
fn file(nature: Nature, content: Vec<u8>) -> Rc<SimFile> {
    SimDir::of(nature).add("file", content).open()
}

fn runs(seeds: u64, scenario: impl AsyncFn() + Clone + 'static) {
    for seed in 0..seeds {
        let scenario = scenario.clone();
        Executor::simulated(seed).block_on(async move { scenario().await });
    }
}

/// A small write, which is widened to a block, beside a copy and an allocation behind it: while those are
/// at work, the file is longer than its known length.
#[test]
fn what_others_put_behind_a_widened_write_is_not_cut_off() {
    runs(200, async || {
        let source = file(blocks(), vec![7; 16 * BLOCK as usize]);
        let target = file(blocks(), Vec::new());
        let delay = Faults { delay: 100, ..Faults::default() };
        target.set_faults(delay);
        let guest = target.clone();
        let writes = spawn(async move {
            for n in 0..4 {
                guest.write(n * 2048, Buf::from_bytes(&[n as u8 + 1; 2048])).await.unwrap();
                guest.sync().await.unwrap();
            }
        });
        let (stream, to) = (target.clone(), 4 * BLOCK);
        let copies = spawn(async move {
            for n in 0..4 {
                let at = n * 4 * BLOCK;
                let done = stream.copy_from(&*source, at, to + at, 4 * BLOCK, BLOCK).await.unwrap();
                assert!(matches!(done, Some(Transfer::Shared)));
            }
        });
        let ahead = target.clone();
        let allocation = spawn(async move { ahead.allocate(20 * BLOCK, BLOCK).await.unwrap() });
        for task in [writes, copies, allocation] {
            task.await;
        }
        target.sync().await.unwrap();
        let content = target.content();
        assert_eq!(content.len() as u64, 21 * BLOCK);
        assert!((0..8192).all(|at| content[at] == (at / 2048) as u8 + 1), "the guest's");
        assert!(content[to as usize..][..16 * BLOCK as usize].iter().all(|byte| *byte == 7), "the copied");
    });
}

/// The file ends where it should after a sync, or at the latest when it is closed.
#[test]
fn an_end_inside_of_a_block_is_kept() {
    for synced in [true, false] {
        runs(1, async move || {
            let folder = SimDir::of(blocks());
            let file = folder.add("file", vec![1; 1000]).open();
            file.write(900, Buf::from_bytes(&[2; 300])).await.unwrap();
            assert_eq!((file.len(), file.content().len()), (1200, BLOCK as usize));
            if synced {
                file.sync().await.unwrap();
                assert_eq!(file.content().len(), 1200);
            }
            drop(file);
            assert_eq!(folder.get("file").unwrap().content(), [vec![1; 900], vec![2; 300]].concat());
        });
    }
}

/// An opening that gave up the leaf's lock no longer knows the file's end.
#[test]
fn a_file_that_was_handed_on_is_not_cut() {
    runs(1, async || {
        let file = file(blocks(), Vec::new());
        file.lock(crate::storage::Lock::Leaf).unwrap();
        file.write(0, Buf::from_bytes(&[1; 512])).await.unwrap();
        let next = file.open();
        file.lock(crate::storage::Lock::None).unwrap();
        next.write(BLOCK, Buf::from_bytes(&[2; 4096])).await.unwrap();
        file.sync().await.unwrap();
        drop(file);
        assert_eq!(next.content().len() as u64, 2 * BLOCK);
    });
}

/// A resize and a write to the last, partial block: the file keeps the length that the resize gave it.
#[test]
fn a_file_that_grows_under_a_write_to_its_last_block_keeps_its_new_length() {
    runs(100, async || {
        let file = file(blocks(), vec![1; 5 * 512]);
        file.set_faults(Faults { delay: 100, ..Faults::default() });
        let guest = file.clone();
        let write = spawn(async move { guest.write(4 * 512, Buf::from_bytes(&[2; 512])).await.unwrap() });
        file.truncate(100 * 512).await.unwrap();
        file.sync().await.unwrap();
        write.await;
        file.sync().await.unwrap();
        assert_eq!((file.len(), file.content().len()), (51200, 51200));
        assert_eq!(file.content()[4 * 512..6 * 512], [[2; 512], [0; 512]].concat());
    });
}

/// Zeroing, sharing and a small write in one block change their own bytes alone.
#[test]
fn neighbours_in_one_block_keep_what_each_of_them_did() {
    runs(200, async || {
        let file = file(blocks(), vec![1; 2 * BLOCK as usize]);
        file.set_faults(Faults { delay: 100, ..Faults::default() });
        let (first, second, third) = (file.clone(), file.clone(), file.clone());
        let tasks = [
            spawn(async move { first.write(512, Buf::from_bytes(&[2; 512])).await.unwrap() }),
            spawn(async move { second.punch(1024, 3000).await.unwrap() }),
            spawn(async move { third.write(4096, Buf::from_bytes(&[3; 100])).await.unwrap() }),
        ];
        for task in tasks {
            task.await;
        }
        let expected = [vec![1; 512], vec![2; 512], vec![0; 3000], vec![1; 72], vec![3; 100], vec![1; 3996]];
        assert!(file.content() == expected.concat());
    });
}

/// Large requests at every misalignment, in pieces, also on storage that can do nothing but write.
#[test]
fn any_range_of_bytes_on_storage_of_any_nature() {
    for (punches, zeroes, allocates) in [(true, true, true), (false, false, false), (false, true, true)] {
        runs(6, async move || {
            let alignment = 512 << (executor::random() % 4);
            let file = file(Nature { alignment, punches, zeroes, allocates, ..blocks() }, vec![9; 3 << 20]);
            let mut model = vec![9; 3 << 20];
            for _ in 0..60 {
                let start = (executor::random() % model.len() as u64) as usize;
                let end = (start + (executor::random() % (2 << 20)) as usize).min(model.len());
                let (offset, len) = (start as u64, (end - start) as u64);
                match executor::random() % 4 {
                    0 => {
                        let byte = executor::random() as u8;
                        file.write(offset, Buf::from_bytes(&vec![byte; end - start])).await.unwrap();
                        model[start..end].fill(byte);
                    }
                    1 => {
                        file.punch(offset, len).await.unwrap();
                        model[start..end].fill(0);
                    }
                    2 => {
                        file.zero(offset, len).await.unwrap();
                        model[start..end].fill(0);
                    }
                    _ => {
                        let buf = Buf::from_bytes(&vec![0xee; end - start]);
                        file.read(offset, buf.clone()).await.unwrap();
                        assert!(buf.to_vec() == model[start..end]);
                    }
                }
            }
            file.sync().await.unwrap();
            assert!(file.content() == model);
        });
    }
}

#[test]
fn a_device_keeps_its_length_and_takes_nothing_behind_it() {
    runs(1, async || {
        let folder = SimDir::new();
        let nature = Nature { alignment: 512, fixed: true, ..Nature::default() };
        let device = folder.add("device", vec![5; 8192]);
        device.set_nature(nature);
        let storage = folder.create("device").await.unwrap();
        assert!(storage.is_fixed() && storage.len() == 8192, "what is on it stays");
        let refused = storage.write(8000, Buf::from_bytes(&[1; 512])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(storage.allocate(0, 512).await.unwrap_err().kind(), ErrorKind::Unsupported);
        storage.truncate(100).await.unwrap();
        assert_eq!(storage.truncate(8193).await.unwrap_err().kind(), ErrorKind::NoSpace);
        storage.write(8191, Buf::from_bytes(&[2])).await.unwrap();
        assert_eq!(device.content().len(), 8192);
        device.set_device_size(16384);
        storage.truncate(16384).await.unwrap();
        assert_eq!(storage.len(), 16384, "it grew, and is asked again");
    });
}
