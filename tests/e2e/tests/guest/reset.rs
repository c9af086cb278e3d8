//! The guest ends or restarts in the middle of a stream.

use std::fs::remove_file;
use std::time::Instant;

use guest_agent::wire::Fields;
use harness::images::same_bytes;
use harness::{Failure, STEP, check, qemu_img};
use serde_json::Value;

use crate::stage::{Guest, STREAM, Setup, alone, shared};

/// Checks that the machine was reset, by which side, and waits for its next boot.
pub fn restarted(guest: &mut Guest, by_guest: bool) -> Result<(), Failure> {
    let event = guest.vm.qmp.wait_event("RESET", Instant::now() + STEP)?;
    check(event.data["guest"] == by_guest, format!("it was reset by the right side: {}", event.data))?;
    Ok(guest.agent()?.wait_reboot(2 * STEP)?)
}

/// As [`restarted`], and checks that the stream continues.
fn was_reset(guest: &mut Guest, by_guest: bool) -> Result<(), Failure> {
    restarted(guest, by_guest)?;
    check(guest.vm.streams()?.len() == 1, "the stream goes on through a reset")
}

/// The guest reboots itself: no data is lost.
pub fn reboot() -> Result<(), Failure> {
    shared(|guest| {
        let old = guest.switch(0)?;
        let job = guest.load()?;
        guest.agent()?.stop(job)?;
        let digest = guest.agent()?.digest("/dev/vda")?;
        // The reply comes before the guest goes down.
        guest.agent()?.call("reboot", Fields::new(), STEP)?;
        guest.vm.stream("virtio0")?;
        guest.vm.set_speed("virtio0", 1 << 20)?;
        was_reset(guest, true)?;
        guest.vm.set_speed("virtio0", 0)?;
        let found = guest.has_all_since(1)?;
        check(found == digest, "after a reboot everything is as it was written last")?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        Ok(())
    })
}

/// A reset by the monitor, under load.
pub fn system_reset() -> Result<(), Failure> {
    shared(|guest| {
        restarts(guest, false, |guest| {
            guest.vm.qmp.execute_json("system_reset", Value::Null)?;
            Ok(())
        })
    })
}

/// The guest's kernel restarts immediately (sysrq-b).
pub fn restarted_at_once() -> Result<(), Failure> {
    shared(|guest| restarts(guest, true, |guest| Ok(guest.agent()?.restart_at_once()?)))
}

/// Restarts under load without a flush: everything flushed earlier must be there.
fn restarts(
    guest: &mut Guest,
    by_guest: bool,
    restart: impl FnOnce(&mut Guest) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let old = guest.switch(0)?;
    let seq = guest.fill()?;
    guest.load()?;
    guest.vm.stream("virtio0")?;
    // So slow that the stream outlasts the reset on any host.
    guest.vm.set_speed("virtio0", 1 << 20)?;
    restart(guest)?;
    was_reset(guest, by_guest)?;
    guest.vm.set_speed("virtio0", 0)?;
    guest.has_all_since(seq)?;
    guest.vm.stream_completed(STREAM)?;
    remove_file(old)?;
    Ok(())
}

/// The driver is detached from the disk under load, and attached again.
pub fn driver_unbound() -> Result<(), Failure> {
    shared(|guest| {
        let old = guest.switch(0)?;
        let job = guest.load()?;
        guest.vm.stream("virtio0")?;
        guest.vm.set_speed("virtio0", 1 << 20)?;
        let name = guest.agent()?.unbind("/dev/vda")?;
        // Its requests no longer find a disk.
        let load = guest.agent()?.stop(job);
        check(load.is_err(), "a load without a disk fails")?;
        check(guest.vm.streams()?.len() == 1, "the stream goes on without a driver")?;
        guest.agent()?.bind(&name)?;
        guest.agent()?.verify("/dev/vda")?;
        let job = guest.load()?;
        guest.vm.set_speed("virtio0", 0)?;
        guest.vm.stream_completed(STREAM)?;
        guest.agent()?.stop(job)?;
        remove_file(old)?;
        Ok(())
    })
}

/// The guest powers off: the program ends with status 0, and the next boot continues with the image.
pub fn power_off() -> Result<(), Failure> {
    alone(Setup::LONG, |guest| {
        let base = guest.switch(0)?;
        let copy = guest.images.path("copy.img");
        std::fs::copy(&base, &copy)?;
        let seq = guest.fill()?;
        guest.stream(0)?;
        guest.power_off()?;
        is_resumable(guest, seq)?;
        check(same_bytes(&base, &copy)?, "the base is byte for byte what it was")
    })
}

/// The power button is pressed in the middle of a stream: a guest that listens for it powers off.
pub fn power_button() -> Result<(), Failure> {
    alone(Setup::LONG, |guest| {
        guest.switch(0)?;
        let seq = guest.fill()?;
        guest.stream(0)?;
        guest.vm.qmp.execute_json("system_powerdown", Value::Null)?;
        guest.ends_well()?;
        is_resumable(guest, seq).map(drop)
    })
}

/// Checks a machine that ended in the middle of a stream: its image is valid, the next boot finds
/// everything, and the stream completes. Returns the digest that the next boot found.
pub fn is_resumable(guest: &mut Guest, oldest: u64) -> Result<u64, Failure> {
    let leaf = guest.leaf();
    qemu_img::check("qcow2", &leaf, true)?;
    let info = qemu_img::info("qcow2", &leaf)?;
    check(info["backing-filename"].is_string(), "it ended in the middle of the stream")?;
    guest.boot_again()?;
    guest.vm.stream("virtio0")?;
    let digest = guest.has_all_since(oldest)?;
    guest.vm.stream_completed(STREAM)?;
    guest.is_unharmed()?;
    guest.power_off()?;
    qemu_img::check("qcow2", &leaf, true)?;
    check(qemu_img::info("qcow2", &leaf)?["backing-filename"].is_null(), "the leaf stands alone")?;
    Ok(digest)
}
