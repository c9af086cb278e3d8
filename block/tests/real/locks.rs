//! Image locks against QEMU's programs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use block::chain;
use block::image::{self, Create};
use block::storage::{Lock, Opener};
use block::switch::{DEADLINE, Target};
use block::{Buf, ErrorKind, Kind};

use crate::support::{Folder, MODES, open, qemu_img, real, try_tool};

/// A qemu-io that holds an image open.
struct QemuIo {
    child: Child,
    input: Option<ChildStdin>,
}

impl QemuIo {
    fn open(arguments: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("qemu-io: {e}; install qemu-utils"));
        let mut input = child.stdin.take().unwrap();
        // It replies to a command only after it has opened the image.
        writeln!(input, "read -P 0 0 512").unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        assert!(output.lines().map(Result::unwrap).any(|line| line.contains("read 512/512")));
        QemuIo { child, input: Some(input) }
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Returns the bytes of OFD locks that this host's processes hold on a file, from /proc/locks.
fn locked_bytes(file: &str) -> Vec<u64> {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(file).unwrap().ino();
    let all = std::fs::read_to_string("/proc/locks").unwrap();
    let mut bytes: Vec<u64> = all
        .lines()
        .filter(|line| line.contains("OFDLCK") && line.contains(&format!(":{inode} ")))
        .flat_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let (start, end): (u64, u64) =
                (words[words.len() - 2].parse().unwrap(), words[words.len() - 1].parse().unwrap());
            start..=end
        })
        .collect();
    bytes.sort_unstable();
    bytes
}

#[test]
fn an_image_in_use_is_refused_by_either_side() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let (base, leaf) = (folder.file("base"), folder.file("leaf"));
        qemu_img(&["create", "-q", "-f", "raw", &base, "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &leaf]);

        let theirs = QemuIo::open(&["-f", "qcow2", &leaf]);
        assert_eq!(locked_bytes(&leaf), [100, 101, 103, 201, 203], "what QEMU locks of a leaf");
        for writable in [true, false] {
            let error = chain::open(&*opener, &leaf, Kind::Qcow2, writable).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            assert!(error.to_string().contains(&leaf), "{error}");
        }
        // Others may read its backing file.
        assert!(chain::open(&*opener, &base, Kind::Raw, false).await.is_ok());
        let over = Create { backing: Some(("base".into(), Kind::Raw)), ..Create::default() };
        let error = image::create(&*opener, &leaf, Kind::Qcow2, &over).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let theirs_reads = locked_bytes(&base);
        drop(theirs);

        let disk = open(&opener, &leaf, Kind::Qcow2).await;
        assert_eq!(locked_bytes(&leaf), [100, 101, 103, 201, 203]);
        assert_eq!(locked_bytes(&base), [100, 201, 203]);
        assert!(theirs_reads.contains(&100), "{theirs_reads:?}");
        for arguments in
            [["-f", "qcow2", "-c", "read 0 512", &leaf], ["-f", "raw", "-c", "write 0 512", &base]]
        {
            let refused = try_tool("qemu-io", &arguments);
            assert!(!refused.status.success(), "qemu-io {arguments:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
        }
        assert!(!try_tool("qemu-img", &["resize", "-q", "-f", "raw", &base, "2M"]).status.success());
        assert!(!try_tool("qemu-img", &["snapshot", "-c", "x", &leaf]).status.success());
        // Read-only users of the backing file are allowed.
        let reader = QemuIo::open(&["-r", "-f", "raw", &base]);
        let second = folder.file("second");
        image::create(&*opener, &second, Kind::Qcow2, &over).await.unwrap();
        let other = open(&opener, &second, Kind::Qcow2).await;
        drop((reader, other));
        disk.close().await.unwrap();
        drop(disk);
        assert_eq!(locked_bytes(&leaf), [0u64; 0]);
        qemu_img(&["snapshot", "-c", "x", &leaf]);
    });
}

#[test]
fn after_a_switch_the_old_leaf_is_locked_as_a_backing_file() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let (base, leaf) = (folder.file("base"), folder.file("leaf"));
        qemu_img(&["create", "-q", "-f", "raw", &base, "1M"]);
        let disk = open(&opener, &base, Kind::Raw).await;
        assert_eq!(locked_bytes(&base), [100, 101, 103, 201, 203]);
        let over = Create { backing: Some(("base".into(), Kind::Raw)), ..Create::default() };
        image::create(&*opener, &leaf, Kind::Qcow2, &over).await.unwrap();
        // QEMU cannot read a qcow2 image over it: the reader needs the backing file not to change.
        let convert = ["convert", "-f", "qcow2", "-O", "raw", &leaf, &folder.file("copy")];
        assert!(!try_tool("qemu-img", &convert).status.success());
        let target = Target { name: leaf.clone(), format: Some(Kind::Qcow2), notify: false };
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        assert_eq!(locked_bytes(&base), [100, 201, 203]);
        assert_eq!(locked_bytes(&leaf), [100, 101, 103, 201, 203]);
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "raw", &base, &base]);
        assert!(!try_tool("qemu-io", &["-f", "raw", "-c", "write 0 512", &base]).status.success());
        disk.stream_one().await.unwrap();
        while disk.leaf().backing().is_some() {
            disk.stream_one().await.unwrap();
        }
        assert_eq!(locked_bytes(&base), [0u64; 0], "a dropped backing file is free");
        disk.close().await.unwrap();
    });
}

#[test]
fn a_switch_to_an_image_in_use_is_refused_and_the_disk_runs_on() {
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let (base, leaf) = (folder.file("base"), folder.file("leaf"));
        qemu_img(&["create", "-q", "-f", "raw", &base, "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &leaf]);
        let theirs = QemuIo::open(&["-f", "qcow2", &leaf]);
        let other = folder.file("other");
        qemu_img(&["create", "-q", "-f", "raw", &other, "1M"]);
        let disk = open(&opener, &other, Kind::Raw).await;
        let target = Target { name: leaf.clone(), format: Some(Kind::Qcow2), notify: false };
        let error = disk.prepare_switch(&target).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Locked && error.to_string().contains(&leaf), "{error}");
        assert_eq!(locked_bytes(&other), [100, 101, 103, 201, 203]);
        drop(theirs);
        disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
        assert_eq!(disk.leaf().name(), leaf);
        disk.close().await.unwrap();
    });
}

/// A process that fails to open an image for writing holds some of its locks for a moment. That must not
/// fail a switch that is already done.
#[test]
fn a_lock_that_is_tried_for_a_moment_fails_no_switch() {
    use std::os::fd::AsRawFd;
    real(MODES[0], |opener| async move {
        let folder = Folder::new();
        let (base, leaf) = (folder.file("base"), folder.file("leaf"));
        qemu_img(&["create", "-q", "-f", "raw", &base, "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &leaf]);
        let disk = open(&opener, &base, Kind::Raw).await;
        let target = Target { name: leaf.clone(), format: Some(Kind::Qcow2), notify: false };
        let prepared = disk.prepare_switch(&target).await.unwrap();
        let other = std::fs::File::open(&base).unwrap();
        // SAFETY: all zeros is a flock structure.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (libc::F_RDLCK as i16, 0, 101, 1);
        // SAFETY: the call reads a valid flock structure.
        let placed = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        assert_eq!(placed, 0);
        prepared.commit(DEADLINE).await.unwrap();
        assert_eq!(disk.leaf().name(), leaf);
        drop(other);
        assert_eq!(locked_bytes(&base), [100, 201, 203], "the old leaf holds what a backing file does");
    });
}

/// The previous holder may have made the image longer since it was opened here.
#[test]
fn a_files_length_is_that_of_the_moment_when_it_is_locked() {
    for mode in MODES {
        real(mode, |opener| async move {
            let folder = Folder::new();
            let name = folder.file("image");
            std::fs::write(&name, vec![1; 64 << 10]).unwrap();
            let storage = opener.open(&name, true).await.unwrap();
            assert_eq!(storage.len(), 64 << 10);
            // Another program writes the file, and then ends and releases its locks.
            std::fs::write(&name, vec![2; 256 << 10]).unwrap();
            storage.lock(Lock::Leaf).unwrap();
            assert_eq!(storage.len(), 256 << 10);
            let buf = Buf::new(4096);
            storage.read(200 << 10, buf.clone()).await.unwrap();
            assert_eq!(buf.to_vec(), [2; 4096], "what the other one wrote behind the old end");
            storage.sync().await.unwrap();
            drop(storage);
            assert_eq!(std::fs::metadata(&name).unwrap().len(), 256 << 10, "and it is not cut off");
        });
    }
}
