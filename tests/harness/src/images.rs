//! Images for a run: created by `millrace image create` and filled here, so that data can be told from
//! ranges that were never written.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use guest_agent::pattern::mix;

use crate::{Failure, check};

/// Creates images: knows the folder for them and the program that makes them.
#[derive(Clone, Debug)]
pub struct Images {
    millrace: PathBuf,
    folder: PathBuf,
}

impl Images {
    /// Images in `folder`, created by the program `millrace`.
    pub fn new(millrace: &Path, folder: &Path) -> Self {
        Images { millrace: millrace.to_owned(), folder: folder.to_owned() }
    }

    /// The path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Creates a raw image of `size` bytes with data only in the ranges `data` (start and length, in
    /// bytes).
    pub fn raw(&self, name: &str, size: u64, data: &[(u64, u64)]) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let file = File::create(&path)?;
        file.set_len(size)?;
        for &(start, length) in data {
            fill(&file, start, length, 1)?;
        }
        file.sync_all()?;
        Ok(path)
    }

    /// Creates a qcow2 leaf over the image `backing` (name and format) in the same folder; the backing
    /// file is recorded by its relative name.
    pub fn leaf(&self, name: &str, backing: (&str, &str)) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let output = self.image(&["create", "-f", "qcow2", "-b", backing.0, "-F", backing.1, name])?;
        check(output.status.success(), String::from_utf8_lossy(&output.stderr))?;
        Ok(path)
    }

    /// Runs `millrace image` with these arguments in the folder.
    pub fn image(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = Command::new(&self.millrace);
        Ok(command.arg("image").args(arguments).current_dir(&self.folder).output()?)
    }
}

/// A `--drive` option.
pub fn drive(id: &str, file: &Path, format: &str) -> String {
    format!("id={id},file={},format={format}", file.display())
}

/// Fills a range of a file with noise that depends on `seed`. Each sector begins with its own offset.
pub fn fill(file: &File, start: u64, length: u64, seed: u64) -> Result<(), Failure> {
    // The noise repeats, so that an emulated CPU has little work.
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = mix(state);
        state.to_le_bytes()
    });
    let mut chunk: Vec<u8> = words.take((1 << 20) / 8).flatten().collect();
    let end = start + length;
    let mut at = start;
    while at < end {
        for (sector, place) in chunk.chunks_exact_mut(512).zip((at..end).step_by(512)) {
            sector[..8].copy_from_slice(&place.to_le_bytes());
        }
        let bytes = usize::try_from(end - at)?.min(chunk.len());
        file.write_all_at(&chunk[..bytes], at)?;
        at += bytes as u64;
    }
    Ok(())
}

/// Returns true if both files have the same bytes and the same length.
pub fn same_bytes(a: &Path, b: &Path) -> Result<bool, Failure> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
    }
}
