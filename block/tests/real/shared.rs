//! Copies that share blocks, past the page cache, on a file system with sectors of 4 KiB.

use std::rc::Rc;

use block::image::{self, Create};
use block::{Buf, Disk, Kind};

use crate::file::Loop;
use crate::support::{Folder, MODES, Mount, Random, check, compare, open, read, real, tool};

const SIZE: usize = 64 << 20;

/// An xfs with nothing on it, on a device with sectors of 4 KiB.
fn xfs(folder: &Folder) -> (Mount, Loop) {
    let image = folder.write("image", &[]);
    std::fs::File::options().write(true).open(&image).unwrap().set_len(400 << 20).unwrap();
    let device = Loop::over(&image, 4096);
    tool("mkfs.xfs", &["-q", "-m", "reflink=1", &device.0]);
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    tool("mount", &[&device.0, point.to_str().unwrap()]);
    (Mount(point), device)
}

async fn put(disk: &Rc<Disk>, model: &mut [u8], at: usize, byte: u8) {
    model[at..at + 2048].fill(byte);
    let ticket = disk.enter().await;
    disk.write(&ticket, at as u64, Buf::from_bytes(&[byte; 2048])).await.unwrap();
}

/// The file system is full for a moment, so that no space is taken ahead; then the disk is streamed, while the
/// guest's writes of 2 KiB are widened to blocks at the file's end, behind which clusters are being shared.
#[test]
#[ignore = "needs root to mount file systems"]
fn a_stream_that_shares_blocks_beside_small_direct_writes() {
    for mode in MODES.into_iter().filter(|mode| mode.direct) {
        real(mode, move |opener| async move {
            let folder = Folder::new();
            let (mount, device) = xfs(&folder);
            let path = |name: &str| mount.0.join(name).to_str().unwrap().to_owned();
            let (base, leaf, ballast) = (path("base"), path("leaf"), path("ballast"));
            let mut model: Vec<u8> = (0..SIZE).map(|at| (at >> 12) as u8 | 1).collect();
            std::fs::write(&base, &model).unwrap();
            let wish = Create { backing: Some((base, Kind::Raw)), ..Create::default() };
            image::create(&*opener, &leaf, Kind::Qcow2, &wish).await.unwrap();
            let disk = open(&opener, &leaf, Kind::Qcow2).await;

            tool("sync", &["-f", &leaf]);
            let free = tool("df", &["-k", "--output=avail", &leaf]);
            let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
            tool("fallocate", &["-l", &format!("{}K", free - 600), &ballast]);
            put(&disk, &mut model, 0, 99).await;
            std::fs::remove_file(&ballast).unwrap();
            tool("sync", &["-f", &leaf]);

            let mut random = Random(14);
            disk.start_stream().unwrap();
            while disk.query_stream().is_some() {
                let writes = model.chunks_mut(SIZE / 4).enumerate().map(|(n, part)| {
                    let at = random.below(part.len() as u64) as usize / 2048 * 2048;
                    let disk = disk.clone();
                    async move {
                        let bytes = [200 + n as u8; 2048];
                        part[at..at + 2048].copy_from_slice(&bytes);
                        let ticket = disk.enter().await;
                        let offset = n * (SIZE / 4) + at;
                        disk.write(&ticket, offset as u64, Buf::from_bytes(&bytes)).await.unwrap();
                    }
                });
                futures_util::future::join_all(writes).await;
            }
            let found = read(&disk, 0, SIZE).await;
            let wrong = found.chunks(2048).zip(model.chunks(2048)).filter(|(found, model)| found != model);
            assert_eq!(wrong.count(), 0, "{mode:?}: pieces of 2 KiB are not what was written last");
            assert!(disk.leaf().backing().is_none(), "{mode:?}: the stream came to its end");
            disk.close().await.unwrap();
            drop(disk);
            check(&leaf);
            compare(&folder, &leaf, "qcow2", &model);
            drop(mount);
            drop(device);
        });
    }
}
