//! cpio archives in the `newc` format, from which the kernel unpacks an initramfs.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux. An entry is a header of
//! 6 magic characters and 13 numbers of 8 hexadecimal digits, the name with its zero byte, and the content;
//! name and content are each padded to a multiple of 4 from the archive's start. `TRAILER!!!` ends it.
//! Times, owners and inode numbers are the same in every run: equal content gives equal bytes.

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Parent directories are added before their first entry.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the directory `path` and its parents.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parent(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, 2, &[]);
    }

    /// Adds a file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        self.parent(path);
        self.entry(path, REGULAR | permissions, 1, content);
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/');
        self.parent(path);
        self.entry(path, SYMLINK, 1, target.as_bytes());
    }

    /// Adds a character device node with its permission bits.
    pub fn device(&mut self, path: &str, permissions: u32, number: (u32, u32)) {
        let path = path.trim_matches('/');
        self.parent(path);
        self.numbered(path, CHARACTER_DEVICE | permissions, 1, number, &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, 1, &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) {
        self.numbered(name, mode, links, (0, 0), content);
    }

    fn numbered(&mut self, name: &str, mode: u32, links: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        // inode, mode, uid, gid, nlink, mtime
        let first = [self.entries, mode, 0, 0, links, 0];
        // the containing device's number
        let device = [0, 0];
        let numbers = first.map(|number| number as usize).into_iter().chain([size]).chain(device);
        // a device node's own number, the length of the name, no checksum
        let numbers = numbers.chain([major as usize, minor as usize, name_size, 0]);
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
#[path = "cpio_tests.rs"]
mod tests;
