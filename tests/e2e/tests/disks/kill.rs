//! SIGKILL at random times of a stream, under a load that writes and flushes. `MILLRACE_KILLS=1000` sets
//! the number of kills.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use guest_agent::pattern::mix;
use harness::images::{drive, same_bytes};
use harness::nbd::{Command, Nbd};
use harness::{Failure, STEP, check, qemu_img};
use serde_json::{Value, json};

use crate::{MIB, Stage};

pub const SIZE: u64 = 48 * MIB;
const SECTOR: u64 = 512;
/// Number of requests in flight. Each has its own part of the disk, so that the order of its writes is
/// known.
const SLOTS: u64 = 4;
const PART: u64 = SIZE / SECTOR / SLOTS;

/// One write: a run of sectors, each of which holds the [`stamp`] of the write's number.
#[derive(Clone, Copy)]
struct Written {
    first: u64,
    count: u64,
}

/// The record of a client whose server is gone.
pub struct Story {
    /// The writes by number, from 1 on. The slot of a write follows from its first sector.
    writes: Vec<Written>,
    /// The last write of each slot that a completed flush covers; 0 for none.
    flushed: [u64; SLOTS as usize],
    /// The number of completed flushes.
    pub flushes: u64,
}

fn stamp(number: u64, sector: u64) -> Vec<u8> {
    let mut bytes = mix(number).to_le_bytes().repeat(SECTOR as usize / 8);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// Writes and flushes until the server is gone. Sends a message on `flushed` for each completed flush.
pub fn load(mut nbd: Nbd, seed: u64, flushed: &Sender<()>) -> Result<Story, Failure> {
    let mut story = Story { writes: Vec::new(), flushed: [0; SLOTS as usize], flushes: 0 };
    // The last completed write of each slot.
    let mut answered = [0; SLOTS as usize];
    // The writes that a flush in flight covers once it completes.
    let mut covers = HashMap::new();
    let mut numbers = HashMap::new();
    let mut random = seed;
    let mut data = Vec::new();
    let mut send = |nbd: &mut Nbd, story: &mut Story, numbers: &mut HashMap<u64, u64>, slot: u64| {
        let number = story.writes.len() as u64 + 1;
        random = mix(random);
        // Most writes are small; some cover whole clusters.
        let count = 1 + (random >> 40) % if random & 3 == 0 { 400 } else { 12 };
        let first = slot * PART + (random >> 8) % (PART - count);
        story.writes.push(Written { first, count });
        let bytes: Vec<u8> = (first..first + count).flat_map(|sector| stamp(number, sector)).collect();
        let cookie = nbd.send(Command::Write(u32::try_from(bytes.len())?), first * SECTOR, &bytes)?;
        numbers.insert(cookie, slot << 32 | number);
        Ok::<_, Failure>(())
    };
    let mut slots: Vec<u64> = (0..SLOTS).collect();
    loop {
        for slot in slots.drain(..) {
            if send(&mut nbd, &mut story, &mut numbers, slot).is_err() {
                return Ok(story);
            }
        }
        let Ok(reply) = nbd.receive(&mut data) else { return Ok(story) };
        check(reply.error == 0, format_args!("{:?} failed with error {}", reply.command, reply.error))?;
        match numbers.remove(&reply.cookie) {
            Some(which) => {
                let (slot, number) = (which >> 32, which & 0xffff_ffff);
                answered[usize::try_from(slot)?] = number;
                slots.push(slot);
                if number % 5 == 0 {
                    match nbd.send(Command::Flush, 0, &[]) {
                        Ok(cookie) => covers.insert(cookie, answered),
                        Err(_) => return Ok(story),
                    };
                }
            }
            None => {
                let covered = covers.remove(&reply.cookie).ok_or("a reply to an unknown request")?;
                for (flushed, covered) in story.flushed.iter_mut().zip(covered) {
                    *flushed = covered.max(*flushed);
                }
                story.flushes += 1;
                // The receiver may be gone.
                let _ = flushed.send(());
            }
        }
    }
}

/// Checks each sector: it must come from its last flushed write or from a later one, or hold the base's
/// data if no flushed write covers it.
pub fn holds(raw: &Path, base: &Path, story: &Story) -> Result<(), Failure> {
    let (content, before) = (std::fs::read(raw)?, std::fs::read(base)?);
    check(content.len() == before.len(), "the disk has its size")?;
    let sectors = content.chunks_exact(SECTOR as usize).zip(before.chunks_exact(SECTOR as usize));
    // The number of the last write that each sector must hold at least.
    let mut must = vec![0_u64; content.len() / SECTOR as usize];
    let slot_of = |write: &Written| (write.first / PART) as usize;
    for (number, write) in (1..).zip(&story.writes) {
        if number <= story.flushed[slot_of(write)] {
            must[write.first as usize..(write.first + write.count) as usize].fill(number);
        }
    }
    for ((sector, (found, before)), must) in (0..).zip(sectors).zip(must) {
        let number = found.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let covers = |write: &Written| (write.first..write.first + write.count).contains(&sector);
        let write = usize::try_from(number).ok().and_then(|n| story.writes.get(n.wrapping_sub(1)));
        let is_new = number >= must.max(1) && write.is_some_and(covers) && found == stamp(number, sector);
        let is_old = must == 0 && found == before;
        check(
            is_new || is_old,
            format_args!("sector {sector}: begins with {number:#x}, and write {must} was flushed"),
        )?;
    }
    Ok(())
}

fn round(format: &str, options: &str, cache: &str, number: u64) -> Result<String, Failure> {
    let stage = Stage::new()?;
    let (base, copy, _) = stage.base_and_leaf(SIZE)?;
    let leaf = stage.path("disk");
    let mut create = vec!["create", "-f", format, "-b", "base.img", "-F", "raw"];
    if !options.is_empty() {
        create.extend(["-o", options]);
    }
    create.push("disk");
    let created = stage.images.image(&create)?;
    check(created.status.success(), String::from_utf8_lossy(&created.stderr))?;
    let drives = [format!("{},cache={cache}", drive("virtio0", &leaf, format))];

    let mut vm = stage.run(&drives)?;
    let socket = stage.path("nbd");
    vm.qmp.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": &socket}}}))?;
    vm.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    let nbd = Nbd::connect(&socket, "virtio0", STEP)?;
    let (flushed, flushes) = mpsc::channel();
    vm.stream("virtio0")?;
    let client = std::thread::spawn(move || load(nbd, number, &flushed).map_err(|e| e.to_string()));
    // Kills at a random time, but only after a few flushes, so that the load has made progress on slow
    // hosts too.
    let random = mix(number ^ u64::from(std::process::id()) << 32);
    for _ in 0..random % 12 {
        flushes.recv_timeout(STEP).map_err(|e| format!("the load: {e}"))?;
    }
    // There is nothing to wait for: this test is about the moment of the kill itself.
    std::thread::sleep(Duration::from_micros((random >> 32) % 30_000));
    let offset = vm.streams()?.first().map(|stream| stream.offset >> 20);
    vm.kill()?;
    let story = client.join().map_err(|_| "the load panicked")??;

    qemu_img::check(format, &leaf, true)?;
    let raw = stage.path("raw");
    qemu_img::convert((format, &leaf), ("raw", &raw))?;
    holds(&raw, &copy, &story)?;
    check(same_bytes(&base, &copy)?, "the base is byte for byte what it was")?;

    let mut vm = stage.run(&drives)?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    std::fs::remove_file(&base)?;
    check(qemu_img::info(format, &leaf)?["backing-filename"] == Value::Null, "no backing file")?;
    qemu_img::check(format, &leaf, true)?;
    qemu_img::compare((format, &leaf), ("raw", &raw))?;
    let reached = offset.map_or("ended or not begun".to_owned(), |mib| format!("at {mib} MiB"));
    Ok(format!("{} writes, {} flushes, the stream {reached}", story.writes.len(), story.flushes))
}

/// The number of kills of a test.
pub fn kills() -> Result<u64, Failure> {
    match std::env::var("MILLRACE_KILLS") {
        Ok(text) => Ok(text.parse().map_err(|e| format!("MILLRACE_KILLS: {e}"))?),
        Err(_) => Ok(15),
    }
}

#[test]
fn killed_under_load_every_flushed_write_is_there() -> Result<(), Failure> {
    let kills = kills()?;
    let leaves = [
        ("qcow2", ""),
        ("qed", ""),
        ("qcow2", "extended_l2=off"),
        ("qed", "cluster_size=4k"),
        ("qcow2", "cluster_size=4k,extended_l2=off,refcount_bits=1"),
    ];
    for number in 0..kills {
        let (format, options) = leaves[usize::try_from(number)? % leaves.len()];
        let cache = if number % 2 == 0 { "writeback" } else { "none" };
        match round(format, options, cache, number) {
            Ok(story) => println!("{number}: {format} {options} {cache}: {story}"),
            Err(e) => return Err(format!("{number}: {format} {options} {cache}: {e}").into()),
        }
    }
    Ok(())
}
