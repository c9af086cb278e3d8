//! The rows measured through the rings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::{Disk, Latencies, Spread, Vmm, storage};
use harness::Failure;
use harness::images::fill;

use crate::device;
use crate::driver::{Driver, Load};

/// The image of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// Raw, full of data.
    Raw,
    /// qcow2 without a backing file, full of data.
    Qcow2,
    /// An empty leaf over a raw backing file full of data, made anew for each round: its format, and the
    /// options of `qemu-img create -o` for QEMU and for our program.
    Leaf { format: &'static str, qemu: &'static str, ours: &'static str },
}

/// A row of the table.
pub struct Row {
    group: &'static str,
    image: Image,
    load: Load,
    /// The target: our requests per second, as a multiple of QEMU's.
    wanted: Option<f64>,
}

impl Row {
    pub fn name(&self) -> String {
        let Load { write, sequential, depth, .. } = self.load;
        let order = if sequential { "sequential" } else { "random" };
        let kind = if write { "write" } else { "read" };
        format!("{}-{order}-{kind}-{depth}", self.group)
    }
}

/// All rows. Rows on the same image follow each other.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    let load = |write, sequential, len, depth| Load { write, len, sequential, depth, seed: 1 };
    for (group, image) in [("raw", Image::Raw), ("qcow2", Image::Qcow2)] {
        for write in [false, true] {
            for depth in [1, 32, 128] {
                let load = load(write, false, 4 << 10, depth);
                rows.push(Row { group, image, load, wanted: None });
            }
            rows.push(Row { group, image, load: load(write, true, 128 << 10, 8), wanted: None });
        }
    }
    let plain = "cluster_size=64k";
    let extended = "cluster_size=64k,extended_l2=on";
    let leaf = |format, qemu, ours| Image::Leaf { format, qemu, ours };
    for (group, image, wanted) in [
        ("allocate-qcow2", leaf("qcow2", plain, plain), [Some(1.2), Some(1.4), Some(2.5)]),
        ("allocate-extended", leaf("qcow2", extended, extended), [Some(1.2), Some(1.4), Some(2.5)]),
        ("allocate-qed", leaf("qed", plain, plain), [Some(1.2), Some(1.4), Some(2.5)]),
        ("allocate-defaults", leaf("qcow2", plain, extended), [None, None, Some(5.0)]),
    ] {
        for (depth, wanted) in [1, 8, 32].into_iter().zip(wanted) {
            rows.push(Row { group, image, load: load(true, false, 4 << 10, depth), wanted });
        }
    }
    rows
}

/// The parameters of all rows.
pub struct Bench {
    pub folder: PathBuf,
    pub runs: u32,
    /// The duration of a round.
    pub time: Duration,
    /// The size of an image that is written in place, in bytes.
    pub size: u64,
    /// The size of a backing file, in bytes.
    pub backing: u64,
    pub direct: bool,
    pub qemu_aio: String,
}

impl Bench {
    /// Measures these rows and prints them.
    pub fn measure(&self, rows: &[Row]) -> Result<(), Failure> {
        println!(
            "\n{:<34}{:>8}{:>26}{:>10}{:>10}{:>10}{:>20}",
            "", "", "per second", "p50 us", "p99 us", "max us", "times QEMU's"
        );
        // The current image, and the path of the file that its rounds share.
        let mut below: Option<(Image, PathBuf)> = None;
        for row in rows {
            let same = |image: &Image| match (image, &row.image) {
                (Image::Leaf { .. }, Image::Leaf { .. }) => true,
                (a, b) => a == b,
            };
            if below.as_ref().is_none_or(|(image, _)| !same(image)) {
                if let Some((_, old)) = below.take() {
                    std::fs::remove_file(old)?;
                }
                below = Some((row.image, self.prepare(row.image)?));
            }
            let Some((_, path)) = &below else { continue };
            if let Err(e) = self.row(row, path) {
                println!("{:<34}not measured: {e}", row.name());
            }
        }
        if let Some((_, path)) = below {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Makes the file that all rounds on this image share.
    pub fn prepare(&self, image: Image) -> Result<PathBuf, Failure> {
        let raw = self.folder.join("base.img");
        let size = if let Image::Leaf { .. } = image { self.backing } else { self.size };
        let file = File::create(&raw)?;
        fill(&file, 0, size, 1)?;
        file.sync_all()?;
        storage::evict(&raw)?;
        if image != Image::Qcow2 {
            return Ok(raw);
        }
        let qcow2 = self.folder.join("base.qcow2");
        harness::qemu_img::convert(("raw", &raw), ("qcow2", &qcow2))?;
        std::fs::remove_file(raw)?;
        storage::evict(&qcow2)?;
        Ok(qcow2)
    }

    fn row(&self, row: &Row, below: &Path) -> Result<(), Failure> {
        let mut all = [(Vmm::Ours, Vec::new()), (Vmm::Qemu, Vec::new())];
        for seed in 0..u64::from(self.runs) {
            for (vmm, rounds) in &mut all {
                rounds.push(self.round(row, below, *vmm, seed + 1)?);
            }
        }
        let rates = |rounds: &[(Latencies, f64)]| -> Vec<f64> {
            rounds.iter().map(|(latencies, seconds)| latencies.count() as f64 / seconds).collect()
        };
        let [(_, ours), (_, theirs)] = &all;
        let Some(ratio) = Spread::ratio(&rates(ours), &rates(theirs)) else { return Ok(()) };
        for (vmm, rounds) in &all {
            let spread = |percent| Spread::of(rounds.iter().map(|(one, _)| one.percentile(percent)));
            let (Some(rate), Some(p50), Some(p99), Some(max)) =
                (Spread::of(rates(rounds)), spread(50.0), spread(99.0), spread(100.0))
            else {
                continue;
            };
            let (name, ratio) = match vmm {
                Vmm::Ours => (row.name(), ratio.to_string()),
                Vmm::Qemu => (String::new(), String::new()),
            };
            println!(
                "{name:<34}{:>8}{rate:>26}{:>10.0}{:>10.0}{:>10.0}{ratio:>20}",
                format!("{vmm:?}"),
                p50.median,
                p99.median,
                max.max,
            );
        }
        if let Some(wanted) = row.wanted {
            let mark = if ratio.median >= wanted { "ok" } else { "MISSED" };
            println!("{:<34}{mark:>8} at least {wanted} times", "");
        }
        Ok(())
    }

    fn round(&self, row: &Row, below: &Path, vmm: Vmm, seed: u64) -> Result<(Latencies, f64), Failure> {
        let disk = self.disk(row.image, below, vmm)?;
        let size = if disk.backing.is_some() { self.backing } else { self.size };
        let mut driver = Driver::new()?;
        let running = device::start(vmm, &disk, &self.folder, &driver)?;
        let began = Instant::now();
        let latencies = driver.work(Load { seed, ..row.load }, size, self.time)?;
        let seconds = began.elapsed().as_secs_f64();
        drop(running);
        if disk.backing.is_some() {
            std::fs::remove_file(&disk.leaf.0)?;
        }
        Ok((latencies, seconds))
    }

    /// Returns the disk of a round on `image`, whose file that all rounds share is `below`. A leaf is made
    /// now; then the disk has a backing file.
    pub fn disk(&self, image: Image, below: &Path, vmm: Vmm) -> Result<Disk, Failure> {
        let (leaf, backing) = match image {
            Image::Raw => ((below.to_owned(), "raw"), None),
            Image::Qcow2 => ((below.to_owned(), "qcow2"), None),
            Image::Leaf { format, qemu, ours } => {
                let leaf = self.folder.join("leaf");
                let options = if vmm == Vmm::Ours { ours } else { qemu };
                let mut create = Command::new("qemu-img");
                create.args(["create", "-q", "-f", format, "-o", options, "-F", "raw", "-b"]);
                let output = create.arg(below).arg(&leaf).output()?;
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).trim().into());
                }
                ((leaf, format), Some((below.to_owned(), "raw".to_owned())))
            }
        };
        storage::settle(&self.folder)?;
        let leaf = (leaf.0, leaf.1.to_owned());
        Ok(Disk { leaf, backing, direct: self.direct, qemu_aio: self.qemu_aio.clone() })
    }
}
