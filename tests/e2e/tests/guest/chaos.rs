//! Everything that a guest, its disks and its monitor can do, in random order, on a live guest whose
//! agent knows the content that must be on its disk.
//!
//! `MILLRACE_CHAOS=600` sets the duration in seconds, and `MILLRACE_SEED=7` repeats the steps of a run.
//! The time that each step takes depends on the machine, so a failure may not recur with its seed.

use std::fs::remove_file;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use guest_agent::client::{Job, Load};
use guest_agent::pattern::mix;
use guest_agent::wire::Fields;
use harness::{Failure, STEP, check, iso, qemu_img, wait_for};
use qmp::ClientError;
use qmp::command::{BlockResize, QueryBlock};
use serde_json::{Value, json};

use crate::MIB;
use crate::stage::{Guest, STREAM, Setup, alone};

const SETUP: Setup = Setup { cpus: 2, queues: 2, more: &["--cdrom", "id=cd0"], ..Setup::USUAL };
/// Longer chains are collapsed first.
const DEPTH: usize = 4;
/// The largest size of the disk, in bytes.
const LARGEST: u64 = 128 * MIB;

/// The duration of the trial.
pub fn time() -> Duration {
    Duration::from_secs(number("MILLRACE_CHAOS").unwrap_or(30))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The state of the guest between two steps.
struct Chaos {
    random: u64,
    /// The running load, if any.
    job: Option<Job>,
    /// True if the disk streams; the stream may have ended since the last check.
    streams: bool,
    /// The images below the leaf of the first disk, the newest last.
    below: Vec<PathBuf>,
    /// The images below the leaf of the second disk, the newest last.
    second: Vec<PathBuf>,
    /// The lowest sequence number that a block may have, whatever happens.
    oldest: u64,
    size: u64,
    /// The steps so far.
    story: Vec<&'static str>,
}

type Step = fn(&mut Chaos, &mut Guest) -> Result<(), Failure>;

/// The possible steps, with their relative frequencies.
const STEPS: [(&str, u64, Step); 17] = [
    ("work", 8, Chaos::work),
    ("rest", 3, Chaos::rest),
    ("verify", 4, Chaos::verify),
    ("fill", 3, Chaos::fill),
    ("switch", 8, Chaos::switch),
    ("stream", 8, Chaos::stream),
    ("slow", 3, Chaos::slow),
    ("stop-stream", 3, Chaos::stop_stream),
    ("stop-cont", 5, Chaos::stop_and_continue),
    ("together", 5, Chaos::switch_together),
    ("resize", 4, Chaos::resize),
    ("medium", 4, Chaos::medium),
    ("driver", 2, Chaos::driver),
    ("reset", 1, Chaos::system_reset),
    ("sysrq-b", 1, Chaos::restart_at_once),
    ("reboot", 1, Chaos::reboot),
    ("powerdown", 1, Chaos::power_off),
];

/// Runs the trial.
pub fn run() -> Result<(), Failure> {
    alone(SETUP, |guest| {
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let seed = number("MILLRACE_SEED").unwrap_or(seconds);
        eprintln!("chaos with MILLRACE_SEED={seed}");
        let mut chaos = Chaos {
            random: mix(seed),
            job: None,
            streams: false,
            below: Vec::new(),
            second: Vec::new(),
            oldest: 1,
            size: SETUP.size,
            story: Vec::new(),
        };
        let result = chaos.run(guest);
        eprintln!("{} steps: {}", chaos.story.len(), chaos.story.join(" "));
        result.map_err(|e| format!("MILLRACE_SEED={seed}: {e}").into())
    })
}

impl Chaos {
    fn run(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let end = Instant::now() + time();
        let all: u64 = STEPS.iter().map(|(_, often, _)| often).sum();
        while Instant::now() < end {
            let mut chosen = self.below(all);
            for (name, often, step) in STEPS {
                match chosen.checked_sub(often) {
                    Some(rest) => chosen = rest,
                    None => {
                        self.story.push(name);
                        step(self, guest)?;
                        break;
                    }
                }
            }
        }
        self.rest(guest)?;
        self.finish_stream(guest)?;
        guest.is_unharmed()?;
        guest.power_off()?;
        let (leaf, format) = &guest.disks[0].image;
        if *format == "qcow2" {
            qemu_img::check("qcow2", leaf, true)?;
        }
        Ok(())
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random);
        (self.random >> 8) % bound
    }

    fn work(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let job = match self.job {
            Some(job) => job,
            None => {
                let (depth, random) = (1 + self.below(16) as u32, self.below(1 << 32));
                let (fsync_every, read_percent) = (self.below(60), self.below(80) as u32);
                let load = Load { depth, fsync_every, read_percent, random, ..Load::new("/dev/vda") };
                let job = guest.agent()?.random_write(&load)?;
                *self.job.insert(job)
            }
        };
        guest.goes_on(job)
    }

    fn rest(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if let Some(job) = self.job.take() {
            guest.agent()?.stop(job)?;
        }
        Ok(())
    }

    fn verify(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        self.rest(guest)?;
        guest.is_unharmed()
    }

    fn fill(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        self.rest(guest)?;
        self.oldest = guest.fill()?;
        Ok(())
    }

    /// Returns true if the stream still runs. A stream that has ended must have ended well.
    fn is_streaming(&mut self, guest: &mut Guest) -> Result<bool, Failure> {
        if self.streams && guest.vm.streams()?.is_empty() {
            guest.vm.stream_completed(STREAM)?;
            self.streams = false;
            // The images below are no longer needed.
            self.below.drain(..).try_for_each(remove_file)?;
        }
        Ok(self.streams)
    }

    fn finish_stream(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if self.is_streaming(guest)? {
            guest.vm.set_speed("virtio0", 0)?;
            wait_for("the stream to end", STREAM, || Ok(!self.is_streaming(guest)?))?;
        }
        Ok(())
    }

    fn switch(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if self.is_streaming(guest)? {
            let leaf = guest.new_leaf(0)?;
            let refused = guest.vm.change("virtio0", &leaf, Some("qcow2"), false).is_err();
            // The stream may have ended just now.
            if refused {
                return Ok(remove_file(leaf)?);
            }
            let old = std::mem::replace(&mut guest.disks[0].image, (leaf, "qcow2")).0;
            self.is_streaming(guest)?;
            self.below.push(old);
            return Ok(());
        }
        if self.below.len() == DEPTH {
            return self.stream(guest);
        }
        let old = guest.switch(0)?;
        self.below.push(old);
        Ok(())
    }

    fn stream(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if !self.is_streaming(guest)? && !self.below.is_empty() {
            guest.vm.stream("virtio0")?;
            self.streams = true;
        }
        Ok(())
    }

    fn slow(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let speed = [0, 1 << 20, 4 << 20, 16 << 20][self.below(4) as usize];
        if self.is_streaming(guest)? {
            // Fails if the stream has ended just now.
            let _ = guest.vm.set_speed("virtio0", speed);
        }
        Ok(())
    }

    fn stop_stream(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if self.is_streaming(guest)? && guest.vm.stop_stream("virtio0").is_ok() {
            self.streams = false;
        }
        Ok(())
    }

    fn stop_and_continue(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        guest.vm.qmp.execute_json("stop", Value::Null)?;
        // The monitor's commands for a disk also work while the guest is stopped.
        match self.below(3) {
            0 => self.switch(guest)?,
            1 => self.stream(guest)?,
            _ => {}
        }
        guest.vm.qmp.execute_json("cont", Value::Null)?;
        Ok(())
    }

    /// Two clients switch both disks at the same time, each in one transaction, while a third one stops
    /// and continues the guest.
    fn switch_together(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        // Both transactions may succeed.
        if self.is_streaming(guest)? || self.below.len() + 2 > DEPTH {
            return self.stream(guest);
        }
        let seconds = if self.second.len() < DEPTH { 2 } else { 1 };
        let number = self.below(1 << 32);
        let image = |guest: &Guest, disk: usize, client: usize| {
            guest.images.path(&format!("together-{number}-{client}-{disk}.qcow2"))
        };
        let clients = [guest.vm.connect()?, guest.vm.connect()?];
        let mut other = guest.vm.connect()?;
        let done: Vec<Result<Value, ClientError>> = std::thread::scope(|scope| {
            let tasks = clients.into_iter().enumerate().map(|(client, mut qmp)| {
                let snapshot = |disk: usize| {
                    let file = image(guest, disk, client);
                    json!({"type": "blockdev-snapshot-sync", "data": {"device": guest.disks[disk].id, "snapshot-file": file}})
                };
                let actions: Vec<_> = (0..seconds).map(snapshot).collect();
                scope.spawn(move || qmp.execute_json("transaction", json!({"actions": actions})))
            });
            let tasks: Vec<_> = tasks.collect();
            let stopped = other.execute_json("stop", Value::Null);
            let continued = other.execute_json("cont", Value::Null);
            let joined = tasks
                .into_iter()
                .map(|task| task.join().unwrap_or(Err(ClientError::Timeout("a thread".into()))));
            joined.chain([stopped, continued]).collect()
        });
        let mut succeeded = Vec::new();
        for (client, result) in done.into_iter().enumerate() {
            match result {
                Ok(_) if client < 2 => succeeded.push(client),
                Ok(_) => {}
                Err(e) => {
                    let desc = e.command_error().map(|e| e.desc.clone()).ok_or(e)?;
                    check(
                        client < 2 && (desc.contains("in use") || desc.contains("did not end within")),
                        desc,
                    )?;
                }
            }
        }
        let drives = guest.vm.qmp.execute(&QueryBlock {})?;
        for disk in 0..seconds {
            let drive = drives.iter().find(|drive| drive.device == guest.disks[disk].id);
            let running =
                PathBuf::from(&drive.and_then(|drive| drive.inserted.as_ref()).ok_or("a disk is gone")?.file);
            let mut images: Vec<_> = succeeded.iter().map(|client| image(guest, disk, *client)).collect();
            // The image of the last transaction runs; an image of the other one is below it.
            images.sort_by_key(|image| *image == running);
            for image in images {
                let old = std::mem::replace(&mut guest.disks[disk].image, (image, "qcow2")).0;
                let below = if disk == 0 { &mut self.below } else { &mut self.second };
                below.push(old);
            }
            check(guest.disks[disk].image.0 == running, "the image of a transaction runs, on each disk")?;
        }
        Ok(())
    }

    fn resize(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let size = self.size + MIB * (1 + self.below(4));
        if self.is_streaming(guest)? || size > LARGEST {
            return Ok(());
        }
        guest.vm.qmp.execute(&BlockResize {
            device: Some("virtio0".into()),
            node_name: None,
            size: size.cast_signed(),
        })?;
        self.size = size;
        wait_for("the guest to see its disk grow", STEP, || Ok(guest.agent()?.size("/dev/vda")? == size))
    }

    /// Inserts a medium and reads it. Then the medium stays or is ejected.
    fn medium(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let medium = guest.images.path("medium.iso");
        let number = self.random.to_string();
        // Removed first, because the drive may still have the last file open.
        let _ = remove_file(&medium);
        iso::write(&medium, &[("CONTENT.BIN", number.as_bytes())])?;
        guest.vm.change("cd0", &medium, None, true)?;
        let agent = guest.agent()?;
        agent.disc_mount("/dev/sr0")?;
        let found = agent.disc_hash("/dev/sr0", "content.bin")?;
        agent.disc_unmount("/dev/sr0")?;
        check(found == crate::stage::hash(number.as_bytes()), "the medium is the one that was put in")?;
        if self.below(2) == 0 {
            guest.vm.qmp.execute_json("eject", json!({"device": "cd0"}))?;
        }
        Ok(())
    }

    /// Detaches the driver, with requests in flight, and attaches it again.
    fn driver(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let name = guest.agent()?.unbind("/dev/vda")?;
        if let Some(job) = self.job.take() {
            // Fails as it must, unless the load ended before.
            let _ = guest.agent()?.stop(job);
        }
        guest.agent()?.bind(&name)?;
        guest.agent()?.verify("/dev/vda")?;
        Ok(())
    }

    fn system_reset(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        guest.vm.qmp.execute_json("system_reset", Value::Null)?;
        self.has_restarted(guest)
    }

    fn restart_at_once(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        guest.agent()?.restart_at_once()?;
        self.has_restarted(guest)
    }

    fn reboot(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        guest.agent()?.call("reboot", Fields::new(), STEP)?;
        self.has_restarted(guest)
    }

    fn has_restarted(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        self.job = None;
        guest.agent()?.wait_reboot(2 * STEP)?;
        guest.has_all_since(self.oldest)?;
        let size = guest.agent()?.size("/dev/vda")?;
        check(size == self.size, format!("the disk has {} bytes after a restart, not {size}", self.size))
    }

    /// The guest powers off while a load or a stream runs. Its image must be valid, and the next boot
    /// must find everything.
    fn power_off(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        self.is_streaming(guest)?;
        guest.power_off()?;
        self.job = None;
        let (leaf, format) = guest.disks[0].image.clone();
        if format == "qcow2" {
            qemu_img::check("qcow2", &leaf, true)?;
            if std::mem::take(&mut self.streams)
                && qemu_img::info("qcow2", &leaf)?["backing-filename"].is_null()
            {
                self.below.drain(..).try_for_each(remove_file)?;
            }
        }
        guest.boot_again()?;
        guest.has_all_since(self.oldest)?;
        let drives = guest.vm.qmp.execute(&QueryBlock {})?;
        check(drives.iter().any(|drive| drive.device == "virtio0"), "the disk is there")
    }
}
