//! The I/O engines under pressure: queues that overflow, futures that are dropped, executors that end.

use std::rc::Rc;
use std::task::Poll;

use block::Buf;
use block::io::Engine;
use block::storage::{HostOpener, Opener, Storage};
use executor::Executor;

use crate::support::{Folder, MODES, Random, real};

async fn storage(opener: &HostOpener, folder: &Folder, bytes: &[u8]) -> Rc<dyn Storage> {
    let name = folder.write("file", bytes);
    opener.open(&name, true).await.unwrap()
}

#[test]
fn thousands_of_operations_in_flight() {
    for mode in MODES {
        println!("{mode:?}");
        real(mode, move |opener| async move {
            let folder = Folder::new();
            let bytes = Random::new(1).bytes(4096 * 4096);
            let file = storage(&opener, &folder, &bytes).await;
            // Several times what the submission and the completion queue hold, all requested at once,
            // and nothing requested afterwards that would reveal lost completions.
            let reads = (0..4096usize).map(|n| {
                let (file, buf) = (file.clone(), Buf::new(4096));
                async move {
                    file.read(n as u64 * 4096, buf.clone()).await.unwrap();
                    (n, buf.to_vec())
                }
            });
            let all =
                executor::timeout(std::time::Duration::from_secs(60), futures_util::future::join_all(reads));
            for (n, found) in all.await.expect("completions were lost") {
                assert!(found == bytes[n * 4096..][..4096], "block {n}");
            }
            let writes = (0..4096usize).map(|n| {
                let file = file.clone();
                executor::spawn(async move {
                    file.write(n as u64 * 4096, Buf::from_bytes(&[n as u8; 4096])).await.unwrap();
                })
            });
            let writes: Vec<_> = writes.collect();
            let all =
                executor::timeout(std::time::Duration::from_secs(60), futures_util::future::join_all(writes));
            all.await.expect("completions were lost");
            file.sync().await.unwrap();
            let found = std::fs::read(folder.file("file")).unwrap();
            assert!(found.chunks(4096).enumerate().all(|(n, block)| block.iter().all(|b| *b == n as u8)));
        });
    }
}

/// Memory that counts its drops.
struct Canary(Box<[u8]>, Rc<std::cell::Cell<u32>>);

impl Drop for Canary {
    fn drop(&mut self) {
        self.1.set(self.1.get() + 1);
    }
}

#[test]
fn buffers_outlive_futures_that_are_dropped() {
    for mode in MODES {
        real(mode, move |opener| async move {
            let folder = Folder::new();
            let file = storage(&opener, &folder, &vec![7; 64 << 12]).await;
            let gone = Rc::new(std::cell::Cell::new(0));
            for n in 0..64u64 {
                let mut canary = Canary(vec![0; 8192].into_boxed_slice(), gone.clone());
                let start = std::ptr::NonNull::new(canary.0.as_mut_ptr()).unwrap();
                // SAFETY: the canary owns the memory, which does not move with it.
                let buf = unsafe { Buf::foreign([(start, 4096)], Rc::new(canary)) };
                let mut read = Box::pin(file.read(n << 12, buf));
                // Polled once, so that the engine has the buffer.
                let begun = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
                if begun.is_pending() {
                    let before = gone.get();
                    drop(read);
                    if !mode.direct {
                        assert_eq!(gone.get(), before, "freed under the kernel");
                    }
                }
            }
            // Later operations succeed, and every canary is dropped in the end.
            let buf = Buf::new(4096);
            file.read(0, buf.clone()).await.unwrap();
            assert_eq!(buf.to_vec(), [7; 4096]);
            while gone.get() < 64 {
                file.read(0, Buf::new(4096)).await.unwrap();
                executor::yield_now().await;
            }
        });
    }
}

#[test]
fn executors_end_with_operations_in_flight() {
    for mode in MODES {
        for round in 0..20 {
            let folder = Folder::new();
            let name = folder.write("file", &vec![7; 1 << 20]);
            let executor = Executor::new().unwrap();
            executor.block_on(async move {
                let opener = HostOpener { engine: Engine::new(mode.aio), direct: mode.direct };
                let file = opener.open(&name, true).await.unwrap();
                for n in 0..100u64 {
                    let file = file.clone();
                    executor::spawn(async move {
                        let _ = file.read(n * 4096, Buf::new(4096 * 4)).await;
                        let _ = file.write(n * 4096, Buf::from_bytes(&[9; 4096])).await;
                    });
                }
                for _ in 0..round {
                    executor::yield_now().await;
                }
            });
            drop(executor);
        }
    }
}

#[test]
fn an_engine_follows_another_on_the_same_executor() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        drop(storage(&opener, &folder, &[3; 512]).await);
        let Ok(opener) = Rc::try_unwrap(opener) else { panic!("still in use") };
        drop(opener);
        for _ in 0..10 {
            let engine = Engine::new(block::io::Aio::IoUring);
            assert!(matches!(engine, Engine::Ring(_)), "the last ring's descriptor is still registered");
            let opener = HostOpener { engine, direct: false };
            let file = storage(&opener, &folder, &[3; 512]).await;
            let buf = Buf::new(512);
            file.read(0, buf.clone()).await.unwrap();
            assert_eq!(buf.to_vec(), [3; 512]);
        }
    });
}
