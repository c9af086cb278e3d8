//! SIGKILL at any time: the image opens again and holds all data, and a new stream completes.

use std::time::{Duration, Instant};

use guest_agent::pattern::mix;
use harness::images::same_bytes;
use harness::{Failure, STEP, check, qemu_img};
use rustix::process::Signal;

use crate::{LONG, MIB, Stage, assert_alone, disk};

#[test]
fn killed_at_any_instant_a_stream_starts_again_and_completes() -> Result<(), Failure> {
    const SIZE: u64 = 96 * MIB;
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(SIZE)?;
    let stream = |until: Option<Duration>| -> Result<Duration, Failure> {
        let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
        let started = Instant::now();
        vm.stream("virtio0")?;
        match until {
            // There is nothing to wait for: this test is about the moment of the kill itself.
            Some(delay) => std::thread::sleep(delay),
            None => vm.stream_completed(STEP)?,
        }
        let time = started.elapsed();
        if until.is_some() {
            vm.kill()?
        } else {
            vm.quit()?
        }
        Ok(time)
    };
    let whole = stream(None)?;
    for round in 0..15 {
        std::fs::remove_file(&leaf)?;
        stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
        let delay = whole.mul_f64((mix(round) % 1000) as f64 / 1000.0);
        let check = || -> Result<(), Failure> {
            stream(Some(delay))?;
            qemu_img::check("qcow2", &leaf, true)?;
            qemu_img::compare(("qcow2", &leaf), ("raw", &copy))?;
            stream(None)?;
            assert_alone(&leaf, &copy, true)
        };
        check().map_err(|e| format!("round {round}, killed after {delay:?} of {whole:?}: {e}"))?;
    }
    check(same_bytes(&base, &copy)?, "the base is byte for byte what it was")
}

/// After the event the base may be deleted, even if the program is killed right then.
#[test]
fn killed_right_after_the_event_the_leaf_is_whole() -> Result<(), Failure> {
    for _ in 0..5 {
        let stage = Stage::new()?;
        let (base, copy, leaf) = stage.base_and_leaf(16 * MIB)?;
        let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
        vm.stream("virtio0")?;
        vm.stream_completed(STEP)?;
        vm.kill()?;
        std::fs::remove_file(&base)?;
        assert_alone(&leaf, &copy, true)?;
        stage.run(&disk(&leaf, "qcow2"))?.quit()?;
    }
    Ok(())
}

/// Like a supervisor, which starts the program again as soon as the killed one is gone.
#[test]
fn started_again_at_once_after_a_kill_nothing_is_in_the_way() -> Result<(), Failure> {
    let stage = Stage::new()?;
    for _ in 0..8 {
        // The more requests are in flight, the longer the kernel takes to release the files.
        let (_, _, leaf) = stage.base_and_leaf(LONG)?;
        let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
        vm.stream("virtio0")?;
        vm.stream_is_midway("virtio0")?;
        vm.signal(Signal::KILL)?;
        vm.wait(STEP)?;
        stage.run(&disk(&leaf, "qcow2"))?.kill()?;
        std::fs::remove_file(leaf)?;
    }
    Ok(())
}

#[test]
fn killed_between_single_clusters_each_answered_one_is_there() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, copy, leaf) = stage.base_and_leaf(4 * MIB)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    for _ in 0..10 {
        vm.stream_one("virtio0")?;
    }
    vm.kill()?;
    qemu_img::check("qcow2", &leaf, true)?;
    qemu_img::compare(("qcow2", &leaf), ("raw", &copy))?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    assert_alone(&leaf, &copy, true)
}

/// SIGTERM and SIGINT end the program like `quit`, also in the middle of a stream: exit status 0, and a
/// valid image whose stream can be resumed.
#[test]
fn asked_to_end_in_the_middle_of_a_stream_it_ends_well() -> Result<(), Failure> {
    for signal in [Some(Signal::TERM), Some(Signal::INT), None] {
        let stage = Stage::new()?;
        let (_, copy, leaf) = stage.base_and_leaf(LONG)?;
        let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
        vm.stream("virtio0")?;
        vm.stream_is_midway("virtio0")?;
        match signal {
            Some(signal) => {
                vm.signal(signal)?;
                let event = vm.qmp.wait_event("SHUTDOWN", Instant::now() + STEP)?;
                assert_eq!(event.data["guest"], false);
                vm.ended()?;
            }
            None => vm.quit()?,
        }
        let info = qemu_img::info("qcow2", &leaf)?;
        assert_eq!(info["backing-filename"], "base.img", "{signal:?}: the stream was not stopped");
        qemu_img::check("qcow2", &leaf, false)?;
        qemu_img::compare(("qcow2", &leaf), ("raw", &copy))?;
        let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
        vm.stream("virtio0")?;
        vm.stream_completed(STEP)?;
        vm.quit()?;
        assert_alone(&leaf, &copy, false)?;
    }
    Ok(())
}
