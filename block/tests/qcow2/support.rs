//! Shared by these tests: a real executor, tools, and content.

use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::sync::RwLock;

use block::io::{Aio, Engine};
use block::storage::HostOpener;
use block::{Buf, Disk, Kind, chain};
use executor::Executor;
pub use seeded::Random;

/// Returns bytes that compress to about a half, with holes.
pub fn content(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(5000) {
        match random.below(4) {
            0 => {}
            1 => piece.iter_mut().for_each(|byte| *byte = random.next_u64() as u8),
            _ => piece.iter_mut().for_each(|byte| *byte = (random.next_u64() & 0x0f) as u8),
        }
    }
    bytes
}

/// A temporary folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.file(name), bytes).unwrap();
        self.file(name)
    }
}

/// A child between fork and exec holds the image locks of all tests in this process, so nobody forks
/// while an image is open.
static FORKS: RwLock<()> = RwLock::new(());

/// Runs a test on a real executor.
pub fn real<T: 'static, F: Future<Output = T> + 'static>(
    test: impl FnOnce(Rc<HostOpener>) -> F + 'static,
) -> T {
    let _no_forks = FORKS.read().unwrap_or_else(|e| e.into_inner());
    let opener = || Rc::new(HostOpener { engine: Engine::new(Aio::Threads), direct: false });
    Executor::new().unwrap().block_on(async move { test(opener()).await })
}

/// Runs a tool, whatever its exit status.
pub fn try_tool(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _no_images = FORKS.write().unwrap_or_else(|e| e.into_inner());
        command.spawn()
    };
    let output = child.and_then(|child| child.wait_with_output());
    output.unwrap_or_else(|e| panic!("{program}: {e}; install qemu-utils"))
}

/// Runs a tool that must succeed. Returns its output.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = try_tool(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{complaint}");
    said
}

pub fn qemu_img(arguments: &[&str]) -> String {
    tool("qemu-img", arguments)
}

/// Returns the exit status of `qemu-img check`.
pub fn verdict(image: &str) -> i32 {
    try_tool("qemu-img", &["check", "-f", "qcow2", image]).status.code().unwrap()
}

/// Checks that there is no corruption, and no leaked cluster.
pub fn check(image: &str) {
    qemu_img(&["check", "-f", "qcow2", image]);
}

/// Checks that qemu-img reads these bytes from the disk.
pub fn compare(folder: &Folder, image: &str, expected: &[u8]) {
    let model = folder.write("expected.raw", expected);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", image, &model]);
}

pub async fn open(opener: &Rc<HostOpener>, name: &str, kind: Kind) -> Rc<Disk> {
    let leaf = chain::open(&**opener, name, kind, true).await.unwrap();
    Disk::new("virtio0", leaf, false, opener.clone(), |_| {})
}

pub async fn read(disk: &Rc<Disk>, offset: u64, len: usize) -> Vec<u8> {
    let ticket = disk.enter().await;
    let buf = Buf::new(len);
    disk.read(&ticket, offset, buf.clone()).await.unwrap();
    buf.to_vec()
}

/// Does `count` random writes, zeroes and discards, on the disk and in the model.
pub async fn scribble(disk: &Rc<Disk>, model: &mut [u8], random: &mut Random, count: u64) {
    for _ in 0..count {
        let sectors = model.len() as u64 / 512;
        let start = random.below(sectors);
        let most = if random.below(4) == 0 { 400 } else { 20 };
        let end = (start + 1 + random.below(most)).min(sectors);
        let (offset, len) = (start * 512, (end - start) * 512);
        let place = offset as usize..(offset + len) as usize;
        let ticket = disk.enter().await;
        match random.below(5) {
            0 => {
                disk.write_zeroes(&ticket, offset, len, true).await.unwrap();
                model[place].fill(0);
            }
            1 => {
                disk.discard(&ticket, offset, len).await.unwrap();
                model[place.clone()].copy_from_slice(&read(disk, offset, len as usize).await);
            }
            _ => {
                let bytes = content(random, len as usize);
                disk.write(&ticket, offset, Buf::from_bytes(&bytes)).await.unwrap();
                model[place].copy_from_slice(&bytes);
            }
        }
    }
}
