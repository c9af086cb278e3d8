//! Copies that share blocks, past the page cache, on a file system with sectors of 4 KiB.

use std::any::Any;
use std::rc::Rc;

use async_trait::async_trait;
use block::chain;
use block::image::{self, Create};
use block::job::JobOptions;
use block::storage::{Extent, HostOpener, Identity, Lock, Opener, Source, Storage, Transfer};
use block::stream::StreamOptions;
use block::{Buf, Disk, ErrorKind, Kind, Result};

use crate::file::Loop;
use crate::support::{Folder, MODES, Mount, Random, check, compare, read, real, tool};

const SIZE: usize = 64 << 20;

/// Mounts an empty xfs on a device with sectors of 4 KiB.
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

/// Files on a file system that shares blocks but cannot allocate ahead: they end where they were last
/// written.
struct NoAhead(Rc<HostOpener>);

struct NoAheadFile(Rc<dyn Storage>);

#[async_trait(?Send)]
impl Opener for NoAhead {
    async fn open(&self, name: &str, writable: bool) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(NoAheadFile(self.0.open(name, writable).await?)))
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        Ok(Rc::new(NoAheadFile(self.0.create(name).await?)))
    }
}

#[async_trait(?Send)]
impl Source for NoAheadFile {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    async fn read(&self, offset: u64, buf: Buf) -> Result<()> {
        self.0.read(offset, buf).await
    }

    async fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.map(offset, len).await
    }

    fn copied_as(&self) -> Option<&dyn Any> {
        self.0.copied_as()
    }

    fn lock(&self, lock: Lock) -> Result<()> {
        self.0.lock(lock)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.identity()
    }
}

#[async_trait(?Send)]
impl Storage for NoAheadFile {
    async fn write(&self, offset: u64, buf: Buf) -> Result<()> {
        self.0.write(offset, buf).await
    }

    async fn sync(&self) -> Result<()> {
        self.0.sync().await
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        self.0.truncate(len).await
    }

    async fn allocate(&self, _: u64, _: u64) -> Result<()> {
        Err(block::Error::new(ErrorKind::Unsupported, "no space is taken ahead here"))
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.0.punch(offset, len).await
    }

    async fn copy_from(
        &self,
        source: &dyn Source,
        from: u64,
        to: u64,
        len: u64,
        unit: u64,
    ) -> Result<Option<Transfer>> {
        self.0.copy_from(source, from, to, len, unit).await
    }

    fn can_copy_from(&self, source: &dyn Source) -> bool {
        self.0.can_copy_from(source)
    }

    async fn sync_name(&self) -> Result<()> {
        self.0.sync_name().await
    }
}

/// The guest's writes of 2 KiB are widened to blocks at the file's end, behind which clusters are being
/// shared.
#[test]
#[ignore = "needs root to mount file systems"]
fn a_stream_that_shares_blocks_beside_small_direct_writes() {
    for mode in MODES.into_iter().filter(|mode| mode.direct) {
        real(mode, move |opener| async move {
            let folder = Folder::new();
            let (mount, device) = xfs(&folder);
            let path = |name: &str| mount.0.join(name).to_str().unwrap().to_owned();
            let (base, leaf) = (path("base"), path("leaf"));
            let mut model: Vec<u8> = (0..SIZE).map(|at| (at >> 12) as u8 | 1).collect();
            std::fs::write(&base, &model).unwrap();
            let options = Create { backing: Some((base, Kind::Raw)), ..Create::default() };
            let opener = Rc::new(NoAhead(opener));
            image::create(&*opener, &leaf, Kind::Qcow2, &options).await.unwrap();
            let top = chain::open(&*opener, &leaf, Kind::Qcow2, true).await.unwrap();
            let disk = Disk::new("virtio0", top, false, opener, |_| {});

            let mut random = Random::new(14);
            disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await.unwrap();
            while !disk.query_stream().is_empty() {
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
