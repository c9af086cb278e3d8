//! Large images: tables in bounded memory. On a real file, since a simulated one is all in memory.

use super::*;
use crate::Buf;
use crate::io::{Aio, Engine};
use crate::storage::HostOpener;

const TIB: u64 = 1 << 40;
/// Limit on the memory of an image's tables, in bytes.
const MOST: u64 = 32 << 20;

fn memory(disk: &Disk) -> u64 {
    disk.leaf().format().memory()
}

#[test]
fn a_tebibyte_needs_no_more_than_32_mib_of_tables() {
    for extended in [false, true] {
        Executor::new().unwrap().block_on(async move {
            let folder = tempfile::tempdir().unwrap();
            let name = folder.path().join("image").to_str().unwrap().to_owned();
            let opener = Rc::new(HostOpener { engine: Engine::new(Aio::Threads), direct: false });
            let options = Create { size: Some(TIB), ..options(64 << 10, extended) };
            image::create(&*opener, &name, Kind::Qcow2, &options).await.unwrap();
            let leaf = chain::open(&*opener, &name, Kind::Qcow2, true).await.unwrap();
            let disk = Disk::new("virtio0", leaf, false, opener, |_| {});
            // Each in an L2 table of its own, in no order: whole new tables fill the cache several times.
            let place = |n: u64| n * 733 % 1024 * (TIB / 1024) + n % 7 * 4096;
            let most = Rc::new(std::cell::Cell::new(0));
            let tasks: Vec<_> = (0..8)
                .map(|task| {
                    let (disk, most) = (disk.clone(), most.clone());
                    spawn(async move {
                        for n in (task..1024).step_by(8) {
                            let ticket = disk.enter().await;
                            let bytes = Buf::from_bytes(&[n as u8 | 1; 4096]);
                            disk.write(&ticket, place(n), bytes).await.unwrap();
                            most.set(most.get().max(memory(&disk)));
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            let ticket = disk.enter().await;
            for n in 0..1024 {
                let buf = Buf::new(4096);
                disk.read(&ticket, place(n), buf.clone()).await.unwrap();
                assert!(buf.to_vec() == [n as u8 | 1; 4096], "write {n}");
                most.set(most.get().max(memory(&disk)));
            }
            let most = most.get();
            assert!(most > MOST / 2 && most <= MOST, "extended {extended}: {most} bytes");
            drop(ticket);
            disk.close().await.unwrap();
        });
    }
}
