//! The memory that a huge disk takes.

use std::fs::File;

use bench::{Daemon, Disk, Vmm};
use harness::Failure;

use crate::copy::Bench;
use crate::files::{self, Made};
use crate::guest::Guest;

const TIB: u64 = 1 << 40;
const MIB: f64 = 1048576.0;
/// The time for which the guest reads and writes all over the disk.
const WORK: std::time::Duration = std::time::Duration::from_secs(10);

impl Bench {
    /// Streams a sparse image of 1 TiB, then reads and writes all over it, and prints the peak memory.
    /// QEMU only reads and writes: its stream would take an hour.
    pub fn memory(&self) -> Result<(), Failure> {
        let path = self.folder.join("huge.img");
        let file = File::create(&path)?;
        file.set_len(TIB)?;
        // A few places with data, so that tables are created all over the leaf.
        for at in 0..1024 {
            harness::images::fill(&file, at << 30, 64 << 10, 1)?;
        }
        file.sync_all()?;
        let base = Made { path, format: "raw", size: TIB, data: 64 << 20 };
        let leaf = self.folder.join("target");
        println!("  {:<10}{:>20}{:>26}", "peak MiB", "streamed", "random 4 KiB requests");
        for vmm in [Vmm::Ours, Vmm::Qemu] {
            let start = || {
                files::leaf(&leaf, "qcow2", &base, self.leaf_options.as_deref())?;
                let disk = Disk {
                    leaf: (leaf.clone(), "qcow2".to_owned()),
                    backing: Some((base.path.clone(), "raw".to_owned())),
                    direct: false,
                    qemu_aio: self.qemu_aio.clone(),
                };
                Daemon::start(vmm, &self.millrace, &self.folder, &disk)
            };
            let mut streamed = 0.0;
            if vmm == Vmm::Ours {
                let mut daemon = start()?;
                daemon.stream()?;
                streamed = daemon.peak()? as f64 / MIB;
                drop(daemon);
                std::fs::remove_file(&leaf)?;
            }
            let mut daemon = start()?;
            let guest = Guest::start(&mut daemon, 50, 16, 1)?;
            std::thread::sleep(WORK);
            guest.end()?;
            let worked = daemon.peak()? as f64 / MIB;
            drop(daemon);
            std::fs::remove_file(&leaf)?;
            let shown = if streamed > 0.0 { format!("{streamed:.1}") } else { "-".to_owned() };
            println!("  {:<10}{shown:>20}{worked:>26.1}", format!("{vmm:?}"));
            if vmm == Vmm::Ours {
                let most = streamed.max(worked);
                let mark = if most < 64.0 { "ok" } else { "MISSED" };
                println!("  {mark:<8}{most:.1} MiB, below 64");
            }
        }
        std::fs::remove_file(base.path)?;
        Ok(())
    }
}
