//! Images for a run: made by `millrace image create`, filled by us, so that whatever comes back can be
//! told apart from what was never written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use guest_images::pattern::mix;

use crate::{Failure, check};

/// Where images are made: a folder and the program that makes them.
#[derive(Clone, Debug)]
pub struct Images {
    millrace: PathBuf,
    folder: PathBuf,
}

impl Images {
    /// Images in `folder`, made by the program `millrace`.
    pub fn new(millrace: &Path, folder: &Path) -> Self {
        Images { millrace: millrace.to_owned(), folder: folder.to_owned() }
    }

    /// The path of the file `name` here.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A raw image of `size` bytes that holds data only in the ranges `data` (start and length).
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

    /// A qcow2 leaf over the image `backing` of the same folder, recorded by its relative name.
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

/// Fills a range of a file with a pseudo-random stream that `seed` and the range's start choose.
pub fn fill(file: &File, start: u64, length: u64, seed: u64) -> Result<(), Failure> {
    struct At<'a>(&'a File, u64);
    impl Write for At<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let written = self.0.write_at(bytes, self.1)?;
            self.1 += written as u64;
            Ok(written)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = BufWriter::with_capacity(1 << 20, At(file, start));
    let mut state = mix(seed ^ mix(start));
    for _ in 0..length / 8 {
        // Cheap enough for an emulated CPU, and never a zero sector.
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        writer.write_all(&state.to_le_bytes())?;
    }
    Ok(writer.flush()?)
}
