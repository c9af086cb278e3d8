//! A booted guest with two disks of known content, and checks of that content.
//!
//! The lower part of the first disk belongs to the guest, which knows what it has written there. The
//! rest is ballast, written by the host before the boot, so that a stream has data to copy. The second
//! disk is empty.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use guest_agent::client::{Agent, Job, Load, Region};
use harness::images::{self, Images};
use harness::programs::{Programs, scratch};
use harness::{Failure, Options, STEP, Vm, check, qemu_img, wait_for};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::MIB;

/// The length of the guest's region, in bytes.
const REGION: u64 = 8 * MIB;
/// The length of the part of the ballast that is read back, at its end, in bytes.
const SAMPLE: u64 = 8 * MIB;

/// The parameters of a guest.
#[derive(Clone, Copy)]
pub struct Setup {
    /// The size of the first disk, in bytes; the second has 64 MiB.
    pub size: u64,
    /// The number of vCPUs.
    pub cpus: u32,
    /// The number of queues of each disk.
    pub queues: u32,
    /// Further arguments of the program.
    pub more: &'static [&'static str],
    /// True for a screen, whose socket is [`Guest::screen`].
    pub screen: bool,
}

impl Setup {
    /// The setup of most trials.
    pub const USUAL: Setup = Setup { size: 64 * MIB, cpus: 1, queues: 1, more: &[], screen: false };
    /// A disk so large that its stream still runs when a guest has ended, or has flushed a few times.
    pub const LONG: Setup = Setup { size: 192 * MIB, ..Self::USUAL };
}

/// A disk of the guest.
pub struct Disk {
    /// The name of the disk in the monitor.
    pub id: &'static str,
    /// The image that the disk runs on, and its format.
    pub image: (PathBuf, &'static str),
}

/// A booted guest.
pub struct Guest {
    /// Its machine.
    pub vm: Vm,
    /// Creates images in the guest's folder.
    pub images: Images,
    /// `/dev/vda` and `/dev/vdb`.
    pub disks: [Disk; 2],
    /// The range that the guest writes to.
    pub region: Region,
    setup: Setup,
    programs: Programs,
    sample: String,
    count: u64,
    // Dropped last, because the machine writes its log there.
    folder: TempDir,
}

/// The guest that the last trial left in good order.
static SHARED: Mutex<Option<Guest>> = Mutex::new(None);

fn take() -> Option<Guest> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Ends the shared guest.
pub fn end() {
    drop(take());
}

/// Runs a trial on the shared guest. The trial must leave it in good order, with all streams completed.
pub fn shared(trial: fn(&mut Guest) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut guest = match take() {
        Some(guest) => guest,
        None => Guest::boot(Setup { screen: true, ..Setup::USUAL })?,
    };
    // Those that an earlier trial did not wait for are not of this one.
    drop(guest.vm.qmp.events());
    let result = trial(&mut guest).and_then(|()| guest.is_unharmed());
    guest.told(result)?;
    *SHARED.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest);
    Ok(())
}

/// Runs a trial on a guest of its own.
pub fn alone(setup: Setup, trial: fn(&mut Guest) -> Result<(), Failure>) -> Result<(), Failure> {
    end();
    let mut guest = Guest::boot(setup)?;
    let result = trial(&mut guest);
    guest.told(result)
}

impl Guest {
    fn boot(setup: Setup) -> Result<Self, Failure> {
        if !qemu_img::is_installed() {
            return Err("qemu-img is missing: install the package qemu-utils".into());
        }
        let programs = Programs::ready()?;
        let folder = scratch()?;
        let images = Images::new(&programs.millrace, folder.path());
        let base = images.raw("base.img", setup.size, &[(REGION, setup.size - REGION)])?;
        let second = images.raw("second.img", 64 * MIB, &[])?;
        let sample = host_hash(&base, setup.size - SAMPLE, SAMPLE)?;
        let disks =
            [Disk { id: "virtio0", image: (base, "raw") }, Disk { id: "virtio1", image: (second, "raw") }];
        let vm = start(&programs, &folder, &disks, setup)?;
        let region = Region::new("/dev/vda", 0, REGION, 1);
        let mut guest = Guest { vm, images, disks, region, setup, programs, sample, count: 0, folder };
        let filled = guest.fill();
        guest.told(filled)?;
        Ok(guest)
    }

    /// Boots again on the current images, after the machine has ended.
    pub fn boot_again(&mut self) -> Result<(), Failure> {
        self.vm = start(&self.programs, &self.folder, &self.disks, self.setup)?;
        Ok(())
    }

    /// The socket of its screen.
    pub fn screen(&self) -> PathBuf {
        self.folder.path().join("vnc")
    }

    /// The guest's agent.
    pub fn agent(&mut self) -> Result<&mut Agent<std::os::unix::net::UnixStream>, Failure> {
        self.vm.agent()
    }

    /// Makes the guest rewrite every block of its region and flush. Returns the sequence number that
    /// each block has at least from now on.
    pub fn fill(&mut self) -> Result<u64, Failure> {
        self.count += 1;
        // Far above the numbers of any load, so that no old block passes for a new one.
        let seq = self.count * 1_000_000;
        let region = self.region.clone();
        self.agent()?.fill(&region, seq)?;
        Ok(seq)
    }

    /// Starts a load on the first disk, and waits until it has done some requests.
    pub fn load(&mut self) -> Result<Job, Failure> {
        let load = Load { depth: 8, fsync_every: 50, read_percent: 30, ..Load::new("/dev/vda") };
        let job = self.agent()?.random_write(&load)?;
        self.goes_on(job)?;
        Ok(job)
    }

    /// Waits until a load has done more requests.
    pub fn goes_on(&mut self, job: Job) -> Result<(), Failure> {
        let before = self.agent()?.stat(job)?.total.count;
        wait_for("the load to go on", STEP, || {
            let stat = self.agent()?.stat(job)?;
            check(stat.errors == 0, format!("no request fails: {stat:?}"))?;
            Ok(stat.total.count > before + 20)
        })
    }

    /// Creates the next leaf over a disk's image.
    pub fn new_leaf(&mut self, disk: usize) -> Result<PathBuf, Failure> {
        self.count += 1;
        let (image, format) = &self.disks[disk].image;
        let backing = image.file_name().and_then(|name| name.to_str()).ok_or("an image without a name")?;
        self.images.leaf(&format!("{disk}-{}.qcow2", self.count), (backing, format))
    }

    /// Switches a disk to a new leaf over its image, without notifying the guest. Returns the old image,
    /// which is now the backing file.
    pub fn switch(&mut self, disk: usize) -> Result<PathBuf, Failure> {
        let leaf = self.new_leaf(disk)?;
        self.vm.change(self.disks[disk].id, &leaf, Some("qcow2"), false)?;
        Ok(std::mem::replace(&mut self.disks[disk].image, (leaf, "qcow2")).0)
    }

    /// Starts the stream of a disk, and waits until it has copied something.
    pub fn stream(&mut self, disk: usize) -> Result<(), Failure> {
        self.vm.stream(self.disks[disk].id)?;
        self.vm.stream_is_midway(self.disks[disk].id)
    }

    /// The image of the first disk.
    pub fn leaf(&self) -> PathBuf {
        self.disks[0].image.0.clone()
    }

    /// Checks that everything the guest wrote is there, that the ballast is there, and that its kernel
    /// saw no error.
    pub fn is_unharmed(&mut self) -> Result<(), Failure> {
        self.agent()?.verify("/dev/vda")?;
        self.ballast_is_there()
    }

    /// After another boot, checks that every block of the region is whole and at least as new as
    /// `oldest`. Returns the digest of their sequence numbers.
    pub fn has_all_since(&mut self, oldest: u64) -> Result<u64, Failure> {
        let region = self.region.clone();
        let report = self.agent()?.verify_full(&region, oldest)?;
        self.ballast_is_there()?;
        Ok(report.digest)
    }

    fn ballast_is_there(&mut self) -> Result<(), Failure> {
        let start = self.setup.size - SAMPLE;
        let hash = self.agent()?.read_hash("/dev/vda", start, SAMPLE)?;
        check(hash == self.sample, "what was on the disk before the guest is there")?;
        let errors = self.agent()?.errors()?;
        check(errors.is_empty(), format!("the guest's kernel sees no error: {errors:?}"))
    }

    /// Makes the guest power off, and waits until its machine ends; fails if it does not succeed.
    pub fn power_off(&mut self) -> Result<(), Failure> {
        self.agent()?.poweroff()?;
        self.ends_well()
    }

    /// Waits until the machine ends; fails if it does not succeed.
    pub fn ends_well(&mut self) -> Result<(), Failure> {
        let status = self.vm.wait(STEP)?;
        check(status.success(), format!("millrace ends with status 0: {status}"))
    }

    /// Adds the last output of the program and of the guest's console to a failure.
    fn told<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|e| {
            let console = std::fs::read(self.folder.path().join("console")).unwrap_or_default();
            let tail = String::from_utf8_lossy(&console[console.len().saturating_sub(2048)..]).into_owned();
            format!("{e}\nmillrace said: {}\nthe console ended: {tail}", self.vm.log()).into()
        })
    }
}

fn start(programs: &Programs, folder: &TempDir, disks: &[Disk], setup: Setup) -> Result<Vm, Failure> {
    let drive = |disk: &Disk| {
        format!("{},queues={}", images::drive(disk.id, &disk.image.0, disk.image.1), setup.queues)
    };
    let drives: Vec<_> = disks.iter().map(drive).collect();
    let mut more: Vec<_> = setup.more.iter().map(|&argument| argument.to_owned()).collect();
    if setup.screen {
        let place = format!("unix:{}", folder.path().join("vnc").display());
        more.extend(["--vnc", &place, "--display", "640x480"].map(str::to_owned));
    }
    Vm::start(programs, folder.path(), &Options { cpus: setup.cpus, more, ..Options::new(&drives) })
}

fn host_hash(file: &std::path::Path, offset: u64, length: u64) -> Result<String, Failure> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(length)?];
    std::fs::File::open(file)?.read_exact_at(&mut bytes, offset)?;
    Ok(hash(&bytes))
}

/// The SHA-256, in hexadecimal digits.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time-out of a stream of these disks.
pub const STREAM: Duration = Duration::from_secs(90);
