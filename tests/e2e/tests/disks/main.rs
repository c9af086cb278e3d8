//! `millrace run --machine none`: the real program, its monitor on a real socket, and real image files
//! that QEMU's tools check. Without a guest or KVM, so these tests run anywhere.

mod commit;
mod crash;
mod depth;
mod ends;
mod errors;
mod image;
mod jobs;
mod kill;
mod names;
mod nodes;
mod parts;
mod peer;
mod process;
mod program;
mod sandbox;
mod stream;
mod streams;
mod switch;
mod user;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use harness::images::{Images, drive};
use harness::programs::{self, Programs};
use harness::{Failure, Options, Vm, qemu_img};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Enough data that a stream is still active after a few commands.
const LONG: u64 = 192 * MIB;

/// A folder, and the images in it.
struct Stage {
    folder: TempDir,
    images: Images,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        if !qemu_img::is_installed() {
            return Err("qemu-img is missing: install the package qemu-utils".into());
        }
        let folder = programs::scratch()?;
        let images = Images::new(millrace()?, folder.path());
        Ok(Stage { folder, images })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the program with these drives and without a guest.
    fn run(&self, drives: &[String]) -> Result<Vm, Failure> {
        let programs = Programs::without_guest(millrace()?);
        let options = Options { guest: false, ..Options::new(drives) };
        Vm::start(&programs, self.folder.path(), &options)
    }

    /// Makes a raw `base.img` of `size` bytes full of data, and `leaf.qcow2` over it. Returns the base,
    /// a copy of the base, and the leaf.
    fn base_and_leaf(&self, size: u64) -> Result<(PathBuf, PathBuf, PathBuf), Failure> {
        let base = self.images.raw("base.img", size, &[(0, size)])?;
        let copy = self.path("copy.img");
        std::fs::copy(&base, &copy)?;
        Ok((base, copy, self.images.leaf("leaf.qcow2", ("base.img", "raw"))?))
    }
}

/// The program, built once for all tests of this process.
fn millrace() -> Result<&'static Path, Failure> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| programs::millrace().map_err(|e| e.to_string()));
    Ok(built.as_ref().map_err(Clone::clone)?)
}

/// The first disk, on an image of this format.
fn disk(file: &Path, format: &str) -> Vec<String> {
    vec![drive("virtio0", file, format)]
}

/// The names of the events that arrived without being awaited, except those of job state changes.
fn block_events(vm: &mut Vm) -> Vec<String> {
    let names = vm.qmp.events().into_iter().map(|event| event.event);
    names.filter(|name| name != "JOB_STATUS_CHANGE").collect()
}

/// Checks the image `leaf` after its stream: it needs no other file, is valid, and equals `copy`.
#[track_caller]
fn assert_alone(leaf: &Path, copy: &Path, leaks_allowed: bool) -> Result<(), Failure> {
    let info = qemu_img::info("qcow2", leaf)?;
    assert_eq!(info["backing-filename"], Value::Null, "the backing file is recorded still");
    qemu_img::check("qcow2", leaf, leaks_allowed)?;
    qemu_img::compare(("qcow2", leaf), ("raw", copy))
}
