//! Files and block devices: every misalignment under O_DIRECT, file ends, and file systems that are full.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::ptr::NonNull;
use std::rc::Rc;

use block::image::{self, Create};
use block::storage::{Lock, Opener, Storage};
use block::{Buf, ErrorKind, Kind};
use futures_util::future::join;

use crate::support::{
    Folder, MODES, Mode, Mount, Random, check, compare, exercise, open, read, real, tool, try_tool, verify,
};

/// Returns a buffer at a chosen misalignment, in one or in several segments.
fn crooked(len: usize, shift: usize, random: &mut Random) -> Buf {
    let pieces = 1 + random.below(3) as usize;
    let mut memory = vec![0u8; len + shift + 4096 + 16 * pieces].into_boxed_slice();
    let start = memory.as_mut_ptr().align_offset(4096) + shift;
    let mut segments = Vec::new();
    let (mut at, mut done) = (start, 0);
    for n in 0..pieces {
        let part = if n + 1 == pieces {
            len - done
        } else {
            (random.below(len as u64 + 1) as usize).min(len - done)
        };
        segments.push((NonNull::new(memory[at..].as_mut_ptr()).unwrap(), part));
        at += part + random.below(16) as usize;
        done += part;
    }
    // SAFETY: the segments lie in the box, which the buffer holds.
    unsafe { Buf::foreign(segments, Rc::new(memory)) }
}

async fn torture(file: Rc<dyn Storage>, mut model: Vec<u8>, grows: bool, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    for _ in 0..300 {
        let unit = [1, 512, 4096][random.below(3) as usize];
        let offset = random.below(model.len() as u64 + 3000) / unit * unit;
        let len = (1 + random.below(9000)).next_multiple_of(unit) as usize;
        let buf = crooked(len, [0, 1, 8, 511, 512][random.below(5) as usize], &mut random);
        let (start, end) = (offset as usize, offset as usize + len);
        if random.below(2) == 0 && (grows || end <= model.len()) {
            let bytes = random.bytes(len);
            buf.copy_from(&bytes);
            file.write(offset, buf).await.unwrap();
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(&bytes);
        } else {
            buf.copy_from(&vec![0xee; len]);
            file.read(offset, buf.clone()).await.unwrap();
            let mut expected = vec![0; len];
            let inside = model.get(start..end.min(model.len())).unwrap_or_default();
            expected[..inside.len()].copy_from_slice(inside);
            assert!(buf.to_vec() == expected, "{len} bytes at {offset}");
        }
    }
    file.sync().await.unwrap();
    model
}

#[test]
fn any_offset_length_and_memory() {
    for (n, mode) in MODES.into_iter().enumerate() {
        for len in [0, 1, 511, 4096, 10_000] {
            real(mode, move |opener| async move {
                let folder = Folder::new();
                let bytes = Random::new(len as u64).bytes(len);
                let name = folder.write("file", &bytes);
                let file = opener.open(&name, true).await.unwrap();
                let model = torture(file.clone(), bytes, true, n as u64 * 10 + len as u64).await;
                assert_eq!(file.len(), model.len() as u64);
                assert!(std::fs::read(&name).unwrap() == model, "{mode:?}, {len} bytes: the file");
            });
        }
    }
}

/// Neighbouring small writes at once: under O_DIRECT each reads and writes back what lies around it.
#[test]
fn neighbours_do_not_overwrite_each_other() {
    for mode in MODES {
        real(mode, |opener| async move {
            let folder = Folder::new();
            let name = folder.write("file", &[0; 40_000]);
            let file = opener.open(&name, true).await.unwrap();
            let writes = (0..400u64).map(|n| {
                let (file, bytes) = (file.clone(), [n as u8; 100]);
                async move { file.write(n * 100, Buf::from_bytes(&bytes)).await.unwrap() }
            });
            futures_util::future::join_all(writes).await;
            // Before the sync the file may be longer, up to the end of its last block.
            file.sync().await.unwrap();
            let found = std::fs::read(&name).unwrap();
            assert!(found.chunks(100).enumerate().all(|(n, part)| part.iter().all(|b| *b == n as u8)));
            assert_eq!(found.len(), 40_000);
        });
    }
}

/// Zeros for which a client wants to keep the space, and others.
#[test]
fn zeros_keep_or_give_back_a_raw_files_space() {
    const MIB: u64 = 1 << 20;
    // tmpfs has no FALLOC_FL_ZERO_RANGE.
    for folder in ["/dev/shm", env!("CARGO_TARGET_TMPDIR")] {
        for mode in MODES.into_iter().filter(|mode| !mode.direct) {
            let folder = tempfile::tempdir_in(folder).unwrap();
            let path = folder.path().join("raw").to_str().unwrap().to_owned();
            let mut model = Random::new(7).bytes(4 << 20);
            std::fs::write(&path, &model).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
            model.resize(8 << 20, 0);
            let used = |path: &str| std::fs::metadata(path).unwrap().blocks() * 512 / MIB;
            real(mode, move |opener| async move {
                let disk = open(&opener, &path, Kind::Raw).await;
                let ticket = disk.enter().await;
                let before = used(&path);
                assert!((4..6).contains(&before), "{before} MiB");
                disk.write_zeroes(&ticket, MIB, MIB, false).await.unwrap();
                assert_eq!(used(&path), before, "kept");
                disk.write_zeroes(&ticket, 6 * MIB, MIB, false).await.unwrap();
                assert_eq!(used(&path), before + 1, "taken");
                disk.write_zeroes(&ticket, 2 * MIB, MIB, true).await.unwrap();
                assert_eq!(used(&path), before, "given back");
                drop(ticket);
                model[1 << 20..3 << 20].fill(0);
                verify(&disk, &model).await;
                disk.close().await.unwrap();
                assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * MIB);
            });
        }
    }
}

/// A loop device over a file, of this sector size.
pub struct Loop(pub String);

impl Loop {
    pub fn over(file: &str, sector: u32) -> Self {
        let sector = sector.to_string();
        Loop(tool("losetup", &["--find", "--show", "-b", &sector, file]).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn block_devices() {
    for sector in [512, 4096] {
        for mode in MODES {
            println!("{sector} {mode:?}");
            let folder = Folder::new();
            let bytes = Random::new(3).bytes(1 << 20);
            let name = folder.write("file", &bytes);
            let device = Loop::over(&name, sector);
            let path = device.0.clone();
            real(mode, move |opener| async move {
                let file = opener.open(&path, true).await.unwrap();
                assert_eq!(file.len(), 1 << 20);
                let mut model = torture(file.clone(), bytes, false, 5).await;
                drop(file);
                let disk = open(&opener, &path, Kind::Raw).await;
                verify(&disk, &model).await;
                exercise(&disk, &mut model, &mut Random::new(6), 20).await;
                verify(&disk, &model).await;
                disk.close().await.unwrap();
                drop(disk);
                compare(&folder, &path, "raw", &model);
                drop(device);
            });
        }
    }
}

/// As after lvextend: the device is larger than when it was opened.
#[test]
#[ignore = "needs root and loop devices"]
fn a_raw_disk_on_a_device_that_grew() {
    let folder = Folder::new();
    let mut model = Random::new(8).bytes(1 << 20);
    let name = folder.write("file", &model);
    let device = Loop::over(&name, 512);
    let path = device.0.clone();
    real(MODES[2], move |opener| async move {
        let disk = open(&opener, &path, Kind::Raw).await;
        std::fs::File::options().write(true).open(&name).unwrap().set_len(2 << 20).unwrap();
        tool("losetup", &["-c", &path]);
        disk.resize(2 << 20).await.unwrap();
        model.resize(2 << 20, 0);
        exercise(&disk, &mut model, &mut Random::new(9), 20).await;
        verify(&disk, &model).await;
        disk.close().await.unwrap();
        drop((disk, device));
    });
}

/// Mounts an empty file system of this many megabytes.
fn small_file_system(folder: &Folder, kind: &str, megabytes: u64) -> Mount {
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    let target = point.to_str().unwrap();
    if kind == "tmpfs" {
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none", target]);
    } else {
        let image = folder.write("image", &[]);
        std::fs::File::options().write(true).open(&image).unwrap().set_len(megabytes << 20).unwrap();
        tool("mkfs.ext4", &["-q", "-O", "^has_journal", &image]);
        tool("mount", &["-o", "loop", &image, target]);
    }
    Mount(point)
}

async fn fill_up(mode: Mode, kind: &'static str) {
    let opener =
        Rc::new(block::storage::HostOpener { engine: block::io::Engine::new(mode.aio), direct: mode.direct });
    let folder = Folder::new();
    let mount = small_file_system(&folder, kind, 8);
    let name = mount.0.join("disk").to_str().unwrap().to_owned();
    const SIZE: usize = 12 << 20;
    let options = Create { size: Some(SIZE as u64), ..Create::default() };
    image::create(&*opener, &name, Kind::Qcow2, &options).await.unwrap();
    let ballast = mount.0.join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let disk = open(&opener, &name, Kind::Qcow2).await;
    let mut model = vec![0; SIZE];
    let mut refused = Vec::new();
    for (n, part) in model.chunks_mut(64 << 10).enumerate() {
        let ticket = disk.enter().await;
        let bytes = vec![n as u8 + 1; part.len()];
        match disk.write(&ticket, (n * part.len()) as u64, Buf::from_bytes(&bytes)).await {
            Ok(()) => part.copy_from_slice(&bytes),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoSpace, "{kind} {mode:?}: {e}");
                refused.push(n);
            }
        }
    }
    assert!(!refused.is_empty(), "8 MiB held 12");
    assert!(model.chunks(64 << 10).filter(|part| part[0] != 0).count() >= 48, "{kind}: half of it had room");
    // Accepted writes are there, and with space it continues.
    verify(&disk, &model).await;
    std::fs::remove_file(&ballast).unwrap();
    let ticket = disk.enter().await;
    let at = refused[0] * (64 << 10);
    disk.write(&ticket, at as u64, Buf::from_bytes(&[0xaa; 64 << 10])).await.unwrap();
    model[at..at + (64 << 10)].fill(0xaa);
    disk.flush(&ticket).await.unwrap();
    drop(ticket);
    assert_eq!(read(&disk, at as u64, 512).await, [0xaa; 512]);
    disk.close().await.unwrap();
    drop(disk);
    check(&name);
    compare(&folder, &name, "qcow2", &model);
}

#[test]
#[ignore = "needs root to mount file systems"]
fn a_full_file_system_refuses_and_corrupts_nothing() {
    for kind in ["ext4", "tmpfs"] {
        for mode in MODES {
            if kind == "tmpfs" && mode.direct {
                continue;
            }
            real(mode, move |_| fill_up(mode, kind));
        }
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let pipe = folder.file("pipe");
        assert!(try_tool("mkfifo", &[&pipe]).status.success());
        for name in [pipe, folder.path().to_str().unwrap().to_owned(), "/dev/null".to_owned()] {
            let error = opener.open(&name, false).await.err().unwrap();
            assert!(error.to_string().contains(&name), "{error}");
        }
        let error = opener.open(&folder.file("absent"), true).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

/// Of a file that is written, only what is data is remembered, and only until a hole may be made.
#[test]
fn a_hole_shows_in_the_map_at_once() {
    for mode in MODES {
        real(mode, move |opener| async move {
            const MIB: u64 = 1 << 20;
            let folder = Folder::new();
            let name = folder.write("file", &vec![7; 8 << 20]);
            let file = opener.open(&name, true).await.unwrap();
            file.lock(Lock::Leaf).unwrap();
            let same = async |at: u64| {
                // Another opening remembers nothing.
                let other = opener.open(&name, false).await.unwrap();
                for at in [at, 0, 5 * MIB] {
                    assert_eq!(
                        file.map(at, MIB).await.unwrap(),
                        other.map(at, MIB).await.unwrap(),
                        "{mode:?}"
                    );
                }
            };
            same(0).await;
            file.punch(MIB, MIB).await.unwrap();
            same(MIB).await;
            file.unmap(2 * MIB, MIB).await.unwrap();
            same(2 * MIB).await;
            file.zero(3 * MIB, MIB).await.unwrap();
            same(3 * MIB).await;
            // Asked for while the hole is made.
            file.write(MIB, Buf::from_bytes(&[7; 4096])).await.unwrap();
            let asked = join(file.map(4 * MIB, MIB), file.punch(4 * MIB, MIB)).await;
            asked.0.unwrap();
            asked.1.unwrap();
            same(4 * MIB).await;
            file.write(MIB, Buf::from_bytes(&[7; 4096])).await.unwrap();
            same(MIB).await;
            file.truncate(6 * MIB).await.unwrap();
            same(6 * MIB).await;
        });
    }
}
