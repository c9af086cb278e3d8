//! One row: rounds of all copiers in turn, and the results.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::storage::{self, Loop};
use bench::{Daemon, Disk, Spread, Target, Usage, Vmm, blank, run_measured};
use harness::{Failure, qemu_img};

use crate::files::{self, Base, Made};
use crate::rows::{Copier, Job, Place, Row, Wanted};

/// The time-out of a mirror.
const LONGEST_MIRROR: Duration = Duration::from_secs(1800);

/// The parameters of all rows.
pub struct Bench {
    pub millrace: PathBuf,
    pub folder: PathBuf,
    pub runs: u32,
    /// The size of a full base image, in bytes.
    pub size: u64,
    pub warm: bool,
    pub qemu_aio: String,
    pub leaf_options: Option<String>,
}

/// One copy.
#[derive(Clone, Copy)]
struct Round {
    seconds: f64,
    usage: Usage,
    /// The space that the copy takes on its device, in bytes.
    allocated: u64,
}

/// All copies of one row by one copier.
struct Rounds {
    copier: Copier,
    rounds: Vec<Round>,
}

impl Rounds {
    fn values(&self, value: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(value).collect()
    }
}

impl Bench {
    /// Measures a row and prints it.
    pub fn row(&self, row: &Row) -> Result<(), Failure> {
        let size = self.size * row.share.0 / row.share.1;
        let folder;
        let device;
        let place = match row.place {
            Place::Folder => &self.folder,
            Place::Memory => {
                folder = tempfile::tempdir_in("/dev/shm")?;
                folder.path()
            }
            Place::Loop(kind) => {
                device = Loop::make(kind, 4 * size + (1 << 30), &self.folder)?;
                println!("  (on a loop device over {})", storage::describe(&self.folder)?);
                device.folder()
            }
        };
        let free = storage::free(place)?;
        let needed = if let Base::Hole = row.base { 0 } else { 3 * size };
        if free < needed {
            return Err(format!("{} MiB are free on {}", free >> 20, storage::describe(place)?).into());
        }
        if row.place != Place::Folder {
            println!("  storage  {}", storage::describe(place)?);
        }
        let base = row.base.make(place, size)?;
        println!("  {} MiB of data in {} MiB", base.data >> 20, base.size >> 20);
        let mut all: Vec<Rounds> =
            row.beside.iter().map(|copier| Rounds { copier: *copier, rounds: Vec::new() }).collect();
        for round in 0..self.runs {
            for one in &mut all {
                one.rounds.push(self.round(row, &base, place, one.copier, round == 0)?);
            }
        }
        std::fs::remove_file(&base.path)?;
        print_rounds(&all, &base);
        for wanted in row.wanted {
            print_wanted(wanted, &all, &base);
        }
        Ok(())
    }

    /// Makes one copy. If `verify`, compares it with the source.
    fn round(
        &self,
        row: &Row,
        base: &Made,
        place: &Path,
        copier: Copier,
        verify: bool,
    ) -> Result<Round, Failure> {
        let target = place.join("target");
        let vmm = match copier {
            Copier::Ours => Some(Vmm::Ours),
            Copier::Qemu => Some(Vmm::Qemu),
            _ => None,
        };
        if vmm.is_some() && row.job == Job::Mirror {
            blank(&target, row.leaf, base.size, self.leaf_options.as_deref())?;
        } else if vmm.is_some() {
            files::leaf(&target, row.leaf, base, self.leaf_options.as_deref())?;
        }
        // A file on tmpfs is always in the page cache.
        if self.warm {
            storage::warm(&base.path)?;
        } else if row.place != Place::Memory {
            storage::evict(&base.path)?;
        }
        storage::settle(place)?;
        if !row.direct {
            // Memory for the page cache: for the data that is read, and for the data that is written.
            storage::fault_in(2 * base.data)?;
        }
        let mut round = match vmm {
            Some(vmm) if row.job == Job::Mirror => self.mirror(row, base, &target, vmm)?,
            Some(vmm) => self.stream(row, base, &target, vmm)?,
            None => plain(copier, &base.path, &target)?,
        };
        round.allocated = storage::allocated(&target)?;
        if verify {
            let format = if vmm.is_some() { row.leaf } else { base.format };
            qemu_img::compare((base.format, &base.path), (format, &target))
                .map_err(|e| format!("{} copied wrong: {e}", copier.name()))?;
        }
        std::fs::remove_file(target)?;
        Ok(round)
    }

    fn stream(&self, row: &Row, base: &Made, leaf: &Path, vmm: Vmm) -> Result<Round, Failure> {
        let disk = Disk {
            leaf: (leaf.to_owned(), row.leaf.to_owned()),
            backing: Some((base.path.clone(), base.format.to_owned())),
            direct: row.direct,
            qemu_aio: self.qemu_aio.clone(),
        };
        let mut daemon = Daemon::start(vmm, &self.millrace, &self.folder, &disk)?;
        let began = Instant::now();
        daemon.stream()?;
        let (seconds, usage) = match vmm {
            Vmm::Ours => (began.elapsed(), daemon.quit()?),
            Vmm::Qemu => {
                let usage = daemon.quit()?.plus(run_measured(Command::new("sync").arg(leaf))?);
                (began.elapsed(), usage)
            }
        };
        Ok(Round { seconds: seconds.as_secs_f64(), usage, allocated: 0 })
    }
}

impl Bench {
    /// Both programs have flushed the target when the mirror is ready.
    fn mirror(&self, row: &Row, base: &Made, target: &Path, vmm: Vmm) -> Result<Round, Failure> {
        let disk = Disk {
            leaf: (base.path.clone(), base.format.to_owned()),
            backing: None,
            direct: row.direct,
            qemu_aio: self.qemu_aio.clone(),
        };
        let mut daemon = Daemon::start(vmm, &self.millrace, &self.folder, &disk)?;
        let began = Instant::now();
        daemon.start_mirror(&Target::File(target.to_owned(), row.leaf), "target", false)?;
        if !daemon.mirror_ready(LONGEST_MIRROR)? {
            return Err(format!("{vmm:?}: not ready after {LONGEST_MIRROR:?}").into());
        }
        let seconds = began.elapsed().as_secs_f64();
        daemon.leave_mirror()?;
        Ok(Round { seconds, usage: daemon.quit()?, allocated: 0 })
    }
}

/// Copies the file as it is, and syncs the copy.
fn plain(copier: Copier, from: &Path, to: &Path) -> Result<Round, Failure> {
    let mut command = match copier {
        Copier::Dd => {
            let mut dd = Command::new("dd");
            dd.args(["bs=1M", "iflag=direct", "oflag=direct", "conv=fsync", "status=none"]);
            dd.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
            dd
        }
        Copier::Cp => {
            let mut cp = Command::new("cp");
            cp.arg("--reflink=never").arg(from).arg(to);
            cp
        }
        _ => {
            let mut this = Command::new(std::env::current_exe()?);
            this.arg("--copy-file-range").arg(from).arg(to);
            this
        }
    };
    let began = Instant::now();
    let mut usage = run_measured(&mut command)?;
    if copier == Copier::Cp {
        usage = usage.plus(run_measured(Command::new("sync").arg(to))?);
    }
    Ok(Round { seconds: began.elapsed().as_secs_f64(), usage, allocated: 0 })
}

/// Copies a file by copy_file_range, and syncs the copy.
pub fn copy_file_range(from: &Path, to: &Path) -> Result<(), Failure> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    while rustix::fs::copy_file_range(&from, None, &to, None, 1 << 30)? > 0 {}
    Ok(to.sync_all()?)
}

fn print_rounds(all: &[Rounds], base: &Made) {
    println!(
        "  {:<17}{:>27}{:>9}{:>27}{:>8}{:>8}{:>10}{:>10}",
        "", "seconds", "MiB/s", "CPU seconds", "user", "kernel", "peak MiB", "file MiB"
    );
    for one in all {
        let median = |value: fn(&Round) -> f64| Spread::of(one.values(value));
        let (Some(seconds), Some(cpu), Some(user), Some(system), Some(peak), Some(file)) = (
            median(|round| round.seconds),
            median(|round| round.usage.cpu()),
            median(|round| round.usage.user.as_secs_f64()),
            median(|round| round.usage.system.as_secs_f64()),
            median(|round| round.usage.peak as f64),
            median(|round| round.allocated as f64),
        ) else {
            continue;
        };
        let peak = if peak.max > 0.0 { format!("{:.1}", peak.max / 1048576.0) } else { "-".to_owned() };
        println!(
            "  {:<17}{seconds:>27}{:>9.0}{cpu:>27}{:>8.2}{:>8.2}{peak:>10}{:>10.1}",
            one.copier.name(),
            base.size as f64 / 1048576.0 / seconds.median,
            user.median,
            system.median,
            file.median / 1048576.0,
        );
    }
}

fn print_wanted(wanted: &Wanted, all: &[Rounds], base: &Made) {
    let of = |copier: Copier, value: fn(&Round) -> f64| {
        all.iter().find(|one| one.copier == copier).map(|one| one.values(value)).unwrap_or_default()
    };
    let (found, what, reached) = match *wanted {
        Wanted::Faster(than, times) => {
            let seconds: fn(&Round) -> f64 = |round| round.seconds;
            let Some(ratio) = Spread::ratio(&of(than, seconds), &of(Copier::Ours, seconds)) else { return };
            let what = format!("times {}'s throughput, at least {times:.2}", than.name());
            (ratio, what, ratio.median >= times)
        }
        Wanted::Cpu(than, share) => {
            let cpu: fn(&Round) -> f64 = |round| round.usage.cpu();
            let Some(ratio) = Spread::ratio(&of(Copier::Ours, cpu), &of(than, cpu)) else { return };
            (ratio, format!("of {}'s CPU seconds, at most {share:.2}", than.name()), ratio.median <= share)
        }
        Wanted::Seconds(most) => {
            let Some(seconds) = Spread::of(of(Copier::Ours, |round| round.seconds)) else { return };
            (seconds, format!("seconds, at most {most:.2}"), seconds.median <= most)
        }
        Wanted::NoLarger => {
            let Some(file) = Spread::of(of(Copier::Ours, |round| round.allocated as f64 / 1048576.0)) else {
                return;
            };
            // The allowance for tables and refcounts: a thousandth of the disk, and space for the first
            // ones.
            let most = (base.data + base.size / 1000) as f64 / 1048576.0 + 2.0;
            (file, format!("MiB of leaf, at most {most:.1}"), file.median <= most)
        }
    };
    println!("  {:<8}{found} {what}", if reached { "ok" } else { "MISSED" });
}
