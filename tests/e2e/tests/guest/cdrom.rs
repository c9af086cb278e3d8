//! A removable drive: media that a guest mounts, and a tray that both sides move.

use std::path::PathBuf;
use std::time::Instant;

use harness::images::Images;
use harness::programs::{Programs, scratch};
use harness::{Failure, Options, STEP, Vm, check, iso};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const DRIVE: &str = "/dev/sr0";
const FILE: &str = "content.bin";

/// A guest with an empty drive, `cd0`, and no disk.
struct Guest {
    vm: Vm,
    images: Images,
    // Dropped last, because the machine writes its log there.
    folder: TempDir,
}

impl Guest {
    fn boot() -> Result<Self, Failure> {
        let programs = Programs::ready()?;
        let folder = scratch()?;
        let images = Images::new(&programs.millrace, folder.path());
        let more = ["--cdrom", "id=cd0"].map(str::to_owned).to_vec();
        let vm = Vm::start(&programs, folder.path(), &Options { more, ..Options::new(&[]) })?;
        Ok(Guest { vm, images, folder })
    }

    /// Makes an image with a file of `length` bytes. Returns the image's path and the file's hash.
    fn medium(&self, name: &str, length: usize) -> Result<(PathBuf, String), Failure> {
        let content: Vec<u8> = (0..length).map(|at| (at / 7 + length) as u8).collect();
        let path = self.images.path(name);
        iso::write(&path, &[("README.TXT", name.as_bytes()), ("CONTENT.BIN", &content)])?;
        Ok((path, Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Makes the guest mount the medium, check the hash of its file, and unmount it.
    fn reads(&mut self, hash: &str) -> Result<(), Failure> {
        let agent = self.vm.agent()?;
        agent.disc_mount(DRIVE)?;
        let found = agent.disc_hash(DRIVE, FILE)?;
        agent.disc_unmount(DRIVE)?;
        check(found == hash, format!("{found} is read, {hash} was written"))
    }

    /// A field of the drive as the monitor reports it.
    fn drive(&mut self, key: &str) -> Result<Value, Failure> {
        Ok(self.vm.qmp.execute_json("query-block", Value::Null)?[0][key].clone())
    }

    /// Waits until the tray moves. Fails if it moves the other way.
    fn moved(&mut self, open: bool) -> Result<(), Failure> {
        let event = self.vm.qmp.wait_event("DEVICE_TRAY_MOVED", Instant::now() + STEP)?;
        check(event.data["tray-open"] == open && event.data["device"] == "cd0", event.data)
    }

    fn tray_is_still(&mut self) -> Result<(), Failure> {
        // The reply comes after all earlier events.
        self.vm.qmp.execute_json("query-status", Value::Null)?;
        let moved = self.vm.qmp.events().into_iter().any(|event| event.event == "DEVICE_TRAY_MOVED");
        check(!moved, "the tray did not move")
    }

    fn is_well(&mut self) -> Result<(), Failure> {
        let errors = self.vm.agent()?.errors()?;
        check(errors.is_empty(), format!("the guest's kernel sees no error: {errors:?}"))
    }
}

/// Runs a trial on a guest of its own.
fn with_guest(trial: fn(&mut Guest) -> Result<(), Failure>) -> Result<(), Failure> {
    crate::stage::end();
    let mut guest = Guest::boot()?;
    trial(&mut guest).map_err(|error| {
        let console = std::fs::read(guest.folder.path().join("console")).unwrap_or_default();
        let tail = String::from_utf8_lossy(&console[console.len().saturating_sub(2048)..]).into_owned();
        format!("{error}\nmillrace said: {}\nthe console ended: {tail}", guest.vm.log()).into()
    })
}

fn refused<T>(result: Result<T, impl std::fmt::Display>, words: &str) -> Result<(), Failure> {
    match result {
        Ok(_) => Err(format!("not refused with '{words}'").into()),
        Err(error) => check(error.to_string().contains(words), format!("'{words}' in: {error}")),
    }
}

/// The drive is empty at first; then media are changed with and without notification, and each is read.
pub fn media() -> Result<(), Failure> {
    with_guest(|guest| {
        refused(guest.vm.agent()?.disc_mount(DRIVE), "medium")?;
        let (one, first) = guest.medium("1.iso", 1_000_000)?;
        let (two, second) = guest.medium("2.iso", 3_000)?;
        // As long as the second, so that a guest that was not notified does not read beyond its end.
        let (three, third) = guest.medium("3.iso", 2_999)?;
        for (medium, hash) in [(&one, &first), (&two, &second), (&one, &first), (&two, &second)] {
            guest.vm.change("cd0", medium, None, true)?;
            guest.moved(true)?;
            guest.moved(false)?;
            guest.reads(hash)?;
        }
        guest.vm.change("cd0", &three, None, false)?;
        guest.reads(&third)?;
        guest.tray_is_still()?;
        guest.is_well()
    })
}

/// A mounted medium stays in the drive, an unmounted one can be ejected by both sides, and a reset
/// unlocks the tray.
pub fn tray() -> Result<(), Failure> {
    with_guest(|guest| {
        let (one, first) = guest.medium("1.iso", 100_000)?;
        let (two, second) = guest.medium("2.iso", 200_000)?;
        guest.vm.change("cd0", &one, None, true)?;
        guest.moved(true)?;
        guest.moved(false)?;
        guest.vm.agent()?.disc_mount(DRIVE)?;
        check(guest.drive("locked")? == true, "a mounted medium is locked")?;
        refused(guest.vm.qmp.execute_json("eject", json!({"device": "cd0"})), "is locked")?;
        refused(guest.vm.change("cd0", &two, None, true), "is locked")?;
        // The drive refuses. Whether Linux reports that to its program depends on its version.
        let _ = guest.vm.agent()?.disc_eject(DRIVE);
        guest.tray_is_still()?;
        check(guest.drive("locked")? == true, "a mounted medium is locked still")?;
        let found = guest.vm.agent()?.disc_hash(DRIVE, FILE)?;
        check(found == first, "the medium is there after all that")?;
        guest.vm.agent()?.disc_unmount(DRIVE)?;
        check(guest.drive("locked")? == false, "an unmounted medium is not locked")?;

        guest.vm.agent()?.disc_eject(DRIVE)?;
        guest.moved(true)?;
        check(guest.drive("tray_open")? == true, "the guest has opened the tray")?;
        // Inserts another medium into the open tray.
        guest.vm.change("cd0", &two, None, true)?;
        guest.moved(false)?;
        guest.reads(&second)?;
        guest.vm.qmp.execute_json("eject", json!({"device": "cd0"}))?;
        guest.moved(true)?;
        guest.vm.qmp.execute_json("blockdev-close-tray", json!({"id": "cd0"}))?;
        guest.moved(false)?;
        refused(guest.vm.agent()?.disc_mount(DRIVE), "medium")?;

        guest.vm.change("cd0", &one, None, true)?;
        guest.vm.agent()?.disc_mount(DRIVE)?;
        guest.vm.qmp.execute_json("system_reset", Value::Null)?;
        guest.vm.qmp.wait_event("RESET", Instant::now() + STEP)?;
        check(guest.drive("locked")? == false, "a reset unlocks the tray")?;
        guest.vm.agent()?.wait_reboot(2 * STEP)?;
        guest.reads(&first)?;
        guest.is_well()
    })
}
