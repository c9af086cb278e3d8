//! Live copies: a running guest's disk moves to another image, and the old image is deleted.

use std::fs::remove_file;
use std::time::Instant;

use guest_agent::client::{Load, Region};
use harness::{Failure, STEP, check, qemu_img, wait_for};
use serde_json::Value;

use crate::MIB;
use crate::stage::{Guest, STREAM, Setup, alone, shared};

pub fn of_an_idle_disk() -> Result<(), Failure> {
    shared(|guest| {
        let old = guest.switch(0)?;
        guest.stream(0)?;
        guest.vm.stream_completed(STREAM)?;
        Ok(remove_file(old)?)
    })
}

pub fn under_random_writes() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.load()?;
        let old = guest.switch(0)?;
        guest.stream(0)?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        Ok(())
    })
}

/// An ext4 on the second disk: files are written, flushed, renamed and deleted all the time, and
/// `e2fsck` checks it at the end.
pub fn under_a_file_system() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.agent()?.fs_load("/dev/vdb", 7, 16, MIB)?;
        let files = |guest: &mut Guest, more: u64| {
            let before = guest.agent()?.stat(job)?.writes;
            wait_for("files to be written", STEP, || {
                let stat = guest.agent()?.stat(job)?;
                check(stat.running && stat.errors == 0, format!("the load runs well: {stat:?}"))?;
                Ok(stat.writes >= before + more)
            })
        };
        files(guest, 8)?;
        let old = guest.switch(1)?;
        guest.vm.stream("virtio1")?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        files(guest, 4)?;
        guest.agent()?.stop(job)?;
        let count = guest.agent()?.fs_verify("/dev/vdb")?;
        check(count >= 12, format!("{count} files are there"))
    })
}

pub fn stopped_and_resumed() -> Result<(), Failure> {
    shared(|guest| {
        let old = guest.switch(0)?;
        let job = guest.load()?;
        guest.stream(0)?;
        guest.vm.stop_stream("virtio0")?;
        check(guest.vm.streams()?.is_empty(), "a stopped stream is not listed")?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        guest.agent()?.fsync("/dev/vda")?;
        let leaf = guest.leaf();
        qemu_img::check_in_use("qcow2", &leaf)?;
        let info = qemu_img::info("qcow2", &leaf)?;
        check(info["backing-filename"].is_string(), "a stopped stream keeps the backing file")?;
        let events: Vec<_> = guest.vm.qmp.events().into_iter().map(|event| event.event).collect();
        check(!events.contains(&"BLOCK_STREAM_COMPLETED".to_owned()), "a stopped stream sends no event")?;
        guest.is_unharmed()?;
        let job = guest.load()?;
        guest.vm.stream("virtio0")?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        guest.agent()?.stop(job)?;
        Ok(())
    })
}

/// Without a background stream: the host requests one cluster after the other while the guest writes.
pub fn cluster_by_cluster() -> Result<(), Failure> {
    shared(|guest| {
        let old = guest.leaf();
        let format = guest.disks[0].image.1;
        let name = old.file_name().and_then(|name| name.to_str()).ok_or("an image without a name")?;
        let leaf = guest.images.path("large-clusters.qcow2");
        let arguments = [
            "create",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=1M",
            "-b",
            name,
            "-F",
            format,
            "large-clusters.qcow2",
        ];
        check(guest.images.image(&arguments)?.status.success(), "millrace image create")?;
        let job = guest.load()?;
        guest.vm.change("virtio0", &leaf, Some("qcow2"), false)?;
        guest.disks[0].image = (leaf.clone(), "qcow2");
        let mut last = 0;
        loop {
            let answer = guest.vm.stream_one("virtio0")?;
            check(answer.offset > last, format!("{answer:?} after {last}"))?;
            last = answer.offset;
            if answer.offset == answer.len {
                break;
            }
        }
        remove_file(old)?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        let info = qemu_img::info("qcow2", &leaf)?;
        check(info["backing-filename"].is_null(), "the last cluster drops the backing file")
    })
}

/// raw → leaf → leaf over that leaf: one stream collapses the whole chain.
pub fn switched_twice() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.load()?;
        let first = guest.switch(0)?;
        guest.goes_on(job)?;
        let second = guest.switch(0)?;
        guest.stream(0)?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(first)?;
        remove_file(second)?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        Ok(())
    })
}

pub fn machine_stopped_and_continued() -> Result<(), Failure> {
    shared(|guest| {
        let job = guest.load()?;
        let old = guest.switch(0)?;
        guest.stream(0)?;
        for _ in 0..4 {
            guest.vm.qmp.execute_json("stop", Value::Null)?;
            let status = guest.vm.qmp.execute_json("query-status", Value::Null)?;
            check(status["status"] == "paused", &status)?;
            guest.vm.qmp.execute_json("cont", Value::Null)?;
            guest.goes_on(job)?;
        }
        // Switches and streams also work while the guest is stopped.
        guest.vm.qmp.execute_json("stop", Value::Null)?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        let old = guest.switch(0)?;
        guest.vm.stream("virtio0")?;
        guest.vm.stream_completed(STREAM)?;
        remove_file(old)?;
        guest.vm.qmp.execute_json("cont", Value::Null)?;
        guest.goes_on(job)?;
        guest.agent()?.stop(job)?;
        Ok(())
    })
}

pub fn two_disks() -> Result<(), Failure> {
    alone(Setup { cpus: 2, ..Setup::USUAL }, |guest| {
        guest.agent()?.fill(&Region::new("/dev/vdb", 0, 8 * MIB, 2), 1)?;
        let first = guest.load()?;
        let load = Load { depth: 4, fsync_every: 20, read_percent: 30, ..Load::new("/dev/vdb") };
        let second = guest.agent()?.random_write(&load)?;
        let old = [guest.switch(0)?, guest.switch(1)?];
        guest.vm.stream("virtio0")?;
        guest.vm.stream("virtio1")?;
        let deadline = Instant::now() + STREAM;
        for _ in 0..2 {
            guest.vm.stream_completed(deadline.saturating_duration_since(Instant::now()))?;
        }
        for image in old {
            remove_file(image)?;
        }
        guest.goes_on(first)?;
        guest.goes_on(second)?;
        guest.agent()?.stop(first)?;
        guest.agent()?.stop(second)?;
        guest.agent()?.verify("/dev/vdb")?;
        guest.is_unharmed()?;
        guest.power_off()?;
        for disk in &guest.disks {
            qemu_img::check("qcow2", &disk.image.0, false)?;
        }
        Ok(())
    })
}
