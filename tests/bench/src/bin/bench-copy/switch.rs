//! The effect of `change` on a guest: under load, the disk is switched from image to image, from raw to
//! qcow2 to QED and back.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bench::{Daemon, Disk, Latencies, Vmm};
use harness::Failure;
use qmp::event::BlockSwitched;
use serde_json::json;

use crate::copy::Bench;
use crate::files::Base;
use crate::guest::{Guest, between};

/// The minimum number of switches, in cycles of four.
const SWITCHES: usize = 60;
/// A request that a switch delayed was sent at most this long before the switch, and not after it.
const BEFORE: Duration = Duration::from_millis(50);

impl Bench {
    /// Measures the blackout and prints it.
    pub fn switch(&self) -> Result<(), Failure> {
        let size = 256 << 20;
        let base = Base::Raw { piece: 0, percent: 100 }.make(&self.folder, size)?;
        let other = self.folder.join("other.img");
        std::fs::copy(&base.path, &other)?;
        let (leaf, second) = (self.folder.join("leaf.qcow2"), self.folder.join("second.qed"));
        let disk = Disk {
            leaf: (base.path.clone(), "raw".to_owned()),
            backing: None,
            direct: true,
            qemu_aio: String::new(),
        };
        let mut daemon = Daemon::start(Vmm::Ours, &self.millrace, &self.folder, &disk)?;
        let guest = Guest::start(&mut daemon, 50, 4, 1)?;
        let (mut blackouts, mut windows) = (Latencies::default(), Vec::new());
        let began = Instant::now();
        while blackouts.count() < SWITCHES {
            self.overlay(&leaf, "qcow2", (&base.path, "raw"))?;
            self.overlay(&second, "qed", (&leaf, "qcow2"))?;
            for (target, format) in [(&leaf, "qcow2"), (&second, "qed"), (&other, "raw"), (&base.path, "raw")]
            {
                let from = Instant::now();
                let arguments =
                    json!({"device": "disk", "target": target, "format": format, "notify": false});
                daemon.qmp.execute_json("change", arguments)?;
                windows.push((from, Instant::now()));
                let switched: BlockSwitched = daemon.qmp.wait(Instant::now() + harness::STEP)?;
                blackouts.add(Duration::from_micros(switched.blackout));
            }
        }
        let answered = guest.end()?;
        drop(daemon);
        for path in [&base.path, &other, &leaf, &second] {
            std::fs::remove_file(path)?;
        }
        let mut worst = Latencies::default();
        for (from, to) in &windows {
            let near = between(&answered, from.checked_sub(BEFORE).unwrap_or(*from), *to);
            worst.add(Duration::from_secs_f64(near.percentile(100.0) / 1e6));
        }
        let all = between(&answered, began, Instant::now());
        println!("  {} switches under 4 requests of 4 KiB at a time, half of them writes", blackouts.count());
        println!("  {:<44}{:>10}{:>10}{:>10}", "microseconds", "p50", "p99", "max");
        for (what, latencies) in [
            ("blackout, by the event", &blackouts),
            ("longest request around each switch", &worst),
            ("all requests", &all),
        ] {
            let p = |percent| latencies.percentile(percent);
            println!("  {what:<44}{:>10.0}{:>10.0}{:>10.0}", p(50.0), p(99.0), p(100.0));
        }
        let p99 = blackouts.percentile(99.0) / 1e3;
        let mark = if p99 < 5.0 { "ok" } else { "MISSED" };
        println!("  {mark:<8}{p99:.2} milliseconds of blackout at p99, below 5 on an idle machine");
        Ok(())
    }

    fn overlay(&self, leaf: &Path, format: &str, backing: (&Path, &str)) -> Result<(), Failure> {
        match std::fs::remove_file(leaf) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let mut create = Command::new(&self.millrace);
        create.args(["image", "create", "-f", format, "-F", backing.1, "-b"]).arg(backing.0).arg(leaf);
        let output = create.output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
        }
    }
}
