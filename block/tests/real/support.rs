//! Shared by the tests on real files: executors, tools, a random guest and its model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use block::chain;
use block::io::{Aio, Engine};
use block::job::JobOptions;
use block::storage::HostOpener;
use block::stream::StreamOptions;
use block::{Buf, Disk, DiskEvent, Kind};
use executor::Executor;
pub use seeded::Random;

/// Access to files: the I/O engine, with or without O_DIRECT.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub aio: Aio,
    pub direct: bool,
}

pub const MODES: [Mode; 4] = [
    Mode { aio: Aio::IoUring, direct: false },
    Mode { aio: Aio::Threads, direct: false },
    Mode { aio: Aio::IoUring, direct: true },
    Mode { aio: Aio::Threads, direct: true },
];

/// Runs a test on a real executor with an opener of this mode.
pub fn real<T: 'static, F: Future<Output = T> + 'static>(
    mode: Mode,
    test: impl FnOnce(Rc<HostOpener>) -> F + 'static,
) -> T {
    Executor::new().unwrap().block_on(async move {
        let engine = Engine::new(mode.aio);
        assert!(
            mode.aio == Aio::Threads || matches!(engine, Engine::Ring(_)),
            "this host grants no io_uring: allow it (sysctl kernel.io_uring_disabled=0) to run these tests"
        );
        test(Rc::new(HostOpener { engine, direct: mode.direct })).await
    })
}

/// A temporary folder, and names in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self.file(name)
    }
}

/// Runs a program, whatever its exit status.
pub fn try_tool(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; install qemu-utils, e2fsprogs, util-linux and mount"))
}

/// Runs a program that must succeed. Returns what it printed.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = try_tool(program, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

pub fn qemu_img(arguments: &[&str]) -> String {
    tool("qemu-img", arguments)
}

/// Checks that there is no corruption, and no leaked cluster.
pub fn check(image: &str) {
    qemu_img(&["check", "-q", "-f", "qcow2", image]);
}

/// Checks that qemu-img reads these bytes from the disk.
pub fn compare(folder: &Folder, image: &str, format: &str, expected: &[u8]) {
    let model = folder.write("expected.raw", expected);
    qemu_img(&["compare", "-q", "-f", format, "-F", "raw", image, &model]);
}

pub fn info(image: &str) -> serde_json::Value {
    serde_json::from_str(&qemu_img(&["info", "--output=json", "-f", "qcow2", image])).unwrap()
}

/// Opens a disk on an image.
pub async fn open(opener: &Rc<HostOpener>, name: &str, kind: Kind) -> Rc<Disk> {
    let leaf = chain::open(&**opener, name, kind, true).await.unwrap_or_else(|e| panic!("{e}"));
    Disk::new("virtio0", leaf, false, opener.clone(), |_| {})
}

/// Streams to the end. Returns the disk and the event.
pub async fn stream(opener: &Rc<HostOpener>, name: &str, kind: Kind) -> (Rc<Disk>, DiskEvent) {
    let leaf = chain::open(&**opener, name, kind, true).await.unwrap();
    let events: Rc<std::cell::RefCell<Vec<DiskEvent>>> = Rc::default();
    let done = Rc::new(executor::sync::Event::new());
    let (sink, notify) = (events.clone(), done.clone());
    let disk = Disk::new("virtio0", leaf, false, opener.clone(), move |event| {
        if matches!(event, DiskEvent::StreamCompleted { .. }) {
            sink.borrow_mut().push(event);
            notify.notify();
        }
    });
    disk.start_stream(StreamOptions::default(), JobOptions::block_stream(disk.name())).await.unwrap();
    while events.borrow().is_empty() {
        done.wait().await;
    }
    let event = events.borrow_mut().remove(0);
    (disk, event)
}

pub async fn read(disk: &Rc<Disk>, offset: u64, len: usize) -> Vec<u8> {
    let ticket = disk.enter().await;
    let buf = Buf::new(len);
    disk.read(&ticket, offset, buf.clone()).await.unwrap_or_else(|e| panic!("{e}"));
    buf.to_vec()
}

/// Reads the whole disk and compares.
pub async fn verify(disk: &Rc<Disk>, model: &[u8]) {
    assert_eq!(disk.size(), model.len() as u64);
    let bytes = read(disk, 0, model.len()).await;
    let wrong = bytes.chunks(512).zip(model.chunks(512)).position(|(a, b)| a != b);
    assert_eq!(wrong, None, "first wrong sector");
}

/// Does random writes, zeroes, discards, reads and flushes, four at once, each in its own quarter.
pub async fn exercise(disk: &Rc<Disk>, model: &mut [u8], random: &mut Random, rounds: usize) {
    let quarter = model.len() / 512 / 4;
    for _ in 0..rounds {
        let steps = model.chunks_mut(quarter * 512).take(4).enumerate().map(|(n, part)| {
            let mut random = Random::new(random.next_u64());
            async move {
                let sectors = part.len() as u64 / 512;
                let start = random.below(sectors);
                let most = if random.below(4) == 0 { 2000 } else { 30 };
                let end = (start + 1 + random.below(most)).min(sectors);
                let part = &mut part[start as usize * 512..end as usize * 512];
                let offset = (n * quarter * 512) as u64 + start * 512;
                step(disk, offset, part, &mut random).await;
            }
        });
        futures_util::future::join_all(steps).await;
    }
}

async fn step(disk: &Rc<Disk>, offset: u64, part: &mut [u8], random: &mut Random) {
    let ticket = disk.enter().await;
    let len = part.len() as u64;
    let done = match random.below(10) {
        0..=4 => {
            part.copy_from_slice(&random.bytes(part.len()));
            disk.write(&ticket, offset, Buf::from_bytes(part)).await
        }
        5 => {
            part.fill(0);
            disk.write_zeroes(&ticket, offset, len, random.below(2) == 0).await
        }
        6 => {
            let done = disk.discard(&ticket, offset, len).await;
            let found = read(disk, offset, part.len()).await;
            for (old, new) in part.chunks_mut(512).zip(found.chunks(512)) {
                assert!(old == new || new.iter().all(|b| *b == 0), "a discard invented bytes");
                old.copy_from_slice(new);
            }
            done
        }
        7 => disk.flush(&ticket).await,
        _ => {
            assert!(read(disk, offset, part.len()).await == part, "not what was written last");
            Ok(())
        }
    };
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// A mounted file system, unmounted when dropped.
pub struct Mount(pub PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
