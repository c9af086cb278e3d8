//! The program is ended from outside while its guest runs: by SIGTERM or SIGKILL.

use std::fs::remove_file;

use guest_agent::client::Load;
use harness::{Failure, STEP, check, qemu_img};
use rustix::process::Signal;

use crate::MIB;
use crate::reset::is_resumable;
use crate::stage::{STREAM, Setup, alone};

/// SIGTERM: exit status 0, and every acknowledged write is there, although the guest never flushed.
pub fn sigterm() -> Result<(), Failure> {
    alone(Setup::LONG, |guest| {
        guest.switch(0)?;
        guest.stream(0)?;
        let load = Load { depth: 8, operations: 200, ..Load::new("/dev/vda") };
        let job = guest.agent()?.random_write(&load)?;
        guest.agent()?.wait(job, STEP)?;
        let digest = guest.agent()?.digest("/dev/vda")?;
        guest.vm.signal(Signal::TERM)?;
        guest.ends_well()?;
        let found = is_resumable(guest, 1)?;
        check(found == digest, "after SIGTERM everything acknowledged is there")
    })
}

/// SIGKILL under load: everything flushed is there.
pub fn sigkill() -> Result<(), Failure> {
    alone(Setup::LONG, |guest| {
        guest.switch(0)?;
        // Smaller than elsewhere, so that it is flushed while the stream runs.
        guest.region.length = 2 * MIB;
        guest.vm.stream("virtio0")?;
        let seq = guest.fill()?;
        guest.load()?;
        check(!guest.vm.streams()?.is_empty(), "the stream runs still")?;
        guest.vm.kill()?;
        is_resumable(guest, seq).map(drop)
    })
}

/// SIGKILL after the stream has ended and the base is deleted: the leaf has everything.
pub fn sigkill_after_the_end() -> Result<(), Failure> {
    alone(Setup::USUAL, |guest| {
        let job = guest.load()?;
        let base = guest.switch(0)?;
        guest.vm.stream("virtio0")?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(base)?;
        guest.agent()?.stop(job)?;
        let seq = guest.fill()?;
        guest.load()?;
        guest.vm.kill()?;
        qemu_img::check("qcow2", &guest.leaf(), true)?;
        guest.boot_again()?;
        guest.has_all_since(seq)?;
        guest.power_off()
    })
}
