//! The images of a row.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_agent::pattern::mix;
use harness::images::fill;
use harness::{Failure, qemu_img};

/// The content of a base image.
#[derive(Clone, Copy)]
pub enum Base {
    /// Raw: `percent` percent of all pieces of `piece` bytes, chosen at random, are data. If `piece` is
    /// 0, everything is data.
    Raw { piece: u64, percent: u64 },
    /// qcow2, full of data.
    Qcow2,
    /// Raw, without data.
    Hole,
}

/// A base image that was made.
pub struct Made {
    pub path: PathBuf,
    pub format: &'static str,
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The bytes of the disk that are data.
    pub data: u64,
}

impl Base {
    /// Makes the image in `folder`, with a disk of `size` bytes.
    pub fn make(self, folder: &Path, size: u64) -> Result<Made, Failure> {
        let path = folder.join("base.img");
        let file = File::create(&path)?;
        file.set_len(size)?;
        let mut data = 0;
        match self {
            Base::Hole => {}
            Base::Raw { piece: 0, .. } | Base::Qcow2 => {
                fill(&file, 0, size, 1)?;
                data = size;
            }
            Base::Raw { piece, percent } => {
                for at in (0..size / piece).filter(|at| mix(*at) % 100 < percent) {
                    fill(&file, at * piece, piece, 1)?;
                    data += piece;
                }
            }
        }
        file.sync_all()?;
        let mut made = Made { path, format: "raw", size, data };
        if let Base::Qcow2 = self {
            let qcow2 = folder.join("base.qcow2");
            qemu_img::convert(("raw", &made.path), ("qcow2", &qcow2))?;
            std::fs::remove_file(&made.path)?;
            File::open(&qcow2)?.sync_all()?;
            (made.path, made.format) = (qcow2, "qcow2");
        }
        Ok(made)
    }
}

/// Makes a new, empty leaf over `base`. `qemu-img` makes it, so that it is the same for both programs.
pub fn leaf(path: &Path, format: &str, base: &Made, options: Option<&str>) -> Result<(), Failure> {
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", format, "-F", base.format, "-b"]).arg(&base.path);
    create.args(options.into_iter().flat_map(|options| ["-o", options]));
    let output = create.arg(path).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    }
}
