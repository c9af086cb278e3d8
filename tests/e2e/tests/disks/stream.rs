//! `block_stream` as a user sees it: progress, events, and the content of the files afterwards.

use std::time::Instant;

use harness::images::same_bytes;
use harness::{Failure, STEP, qemu_img, wait_for};
use serde_json::{Value, json};

use crate::{LONG, MIB, Stage, assert_alone, block_events, disk};

#[test]
fn a_whole_stream_leaves_a_leaf_that_stands_alone() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(16 * MIB)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    assert!(same_bytes(&base, &copy)?, "the base was written");
    // The event guarantees that the old image is no longer needed.
    std::fs::remove_file(&base)?;
    assert_eq!(vm.qmp.execute_json("query-block", Value::Null)?[0]["inserted"]["backing_file_depth"], 0);
    vm.quit()?;
    assert_alone(&leaf, &copy, false)
}

#[test]
fn progress_is_listed_and_never_goes_back() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(LONG)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    assert_eq!(vm.qmp.execute_json("query-block-stream", Value::Null)?, json!([]));
    vm.stream("virtio0")?;
    let jobs = vm.qmp.execute_json("query-jobs", Value::Null)?;
    assert_eq!((&jobs[0]["id"], &jobs[0]["type"]), (&json!("virtio0"), &json!("stream")), "{jobs}");
    let jobs = vm.qmp.execute_json("query-block-jobs", Value::Null)?;
    assert_eq!((&jobs[0]["device"], &jobs[0]["len"]), (&json!("virtio0"), &json!(LONG)), "{jobs}");
    let (mut last, mut steps) = (0, 0);
    wait_for("the end of the stream", STEP, || {
        let streams = vm.qmp.execute_json("query-block-stream", Value::Null)?;
        let Some(stream) = streams.get(0) else { return Ok(true) };
        let offset = stream["offset"].as_u64().ok_or("no offset")?;
        assert_eq!(*stream, json!({"device": "virtio0", "len": LONG, "offset": offset}));
        assert!((last..=LONG).contains(&offset), "{offset} after {last}");
        steps += u32::from(offset > last);
        last = offset;
        Ok(false)
    })?;
    assert!(steps > 1, "progress was seen {steps} times");
    vm.stream_completed(STEP)?;
    vm.quit()
}

/// Every client gets one event at the end; after it, no client sees the stream any more.
#[test]
fn the_event_comes_once_to_everybody_and_the_list_is_empty_then() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(16 * MIB)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    let mut other = qmp::Client::connect(&qmp::Address::Unix(stage.path("qmp")), STEP)?;
    vm.stream("virtio0")?;
    for client in [&mut other, &mut vm.qmp] {
        let event = client.wait_event("BLOCK_STREAM_COMPLETED", Instant::now() + STEP)?;
        assert_eq!(event.data, json!({"device": "virtio0", "len": 16 * MIB, "offset": 16 * MIB}));
        assert!(event.timestamp.seconds > 0);
        for query in ["query-block-stream", "query-jobs", "query-block-jobs"] {
            assert_eq!(client.execute_json(query, Value::Null)?, json!([]), "{query}");
        }
    }
    assert_eq!(block_events(&mut vm), [""; 0], "one event and no other");
    vm.quit()
}

#[test]
fn a_stopped_stream_keeps_the_backing_file_and_resumes() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(LONG)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_is_midway("virtio0")?;
    vm.stop_stream("virtio0")?;
    assert_eq!(vm.streams()?, []);
    assert_eq!(block_events(&mut vm), [""; 0], "a stopped stream sends no event");
    assert_eq!(qemu_img::info("qcow2", &leaf)?["backing-filename"], "base.img");
    vm.quit()?;
    qemu_img::check("qcow2", &leaf, false)?;
    qemu_img::compare(("qcow2", &leaf), ("raw", &copy))?;
    assert!(same_bytes(&base, &copy)?, "the base was written");
    // Another process resumes the stream. It does not copy existing data again, so the file grows to one
    // copy only.
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    std::fs::remove_file(&base)?;
    let length = std::fs::metadata(&leaf)?.len();
    assert!(length < LONG + 4 * MIB, "the leaf has {length} bytes");
    assert_alone(&leaf, &copy, false)
}

/// Starts and stops a stream as fast as possible: the image is always valid, and complete at the end.
#[test]
fn stopping_again_and_again_loses_nothing() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, copy, leaf) = stage.base_and_leaf(LONG)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    for round in 0..20 {
        vm.stream("virtio0")?;
        match vm.stop_stream("virtio0") {
            Ok(()) => {}
            // The stream ended before the stop: then its event must arrive.
            Err(e) if e.to_string().contains("No active stream") => {
                vm.stream_completed(STEP)?;
            }
            Err(e) => return Err(format!("round {round}: {e}").into()),
        }
        assert_eq!(vm.streams()?, [], "round {round}");
    }
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    assert_alone(&leaf, &copy, false)
}

/// Streams single clusters on a disk that ends in the middle of one: offsets are cluster ends, limited
/// to the disk's size.
#[test]
fn single_clusters_add_up_and_drop_the_backing_file() -> Result<(), Failure> {
    const SIZE: u64 = 20 * (64 << 10) + 1536;
    let stage = Stage::new()?;
    let (base, copy, leaf) = stage.base_and_leaf(SIZE)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    let mut expected = 0;
    while expected < SIZE {
        let answer = vm.qmp.execute_json("block_stream", json!({"device": "virtio0"}))?;
        expected = (expected + (64 << 10)).min(SIZE);
        assert_eq!(answer, json!({"device": "virtio0", "len": SIZE, "offset": expected}));
        assert_eq!(vm.streams()?, [], "a single cluster is no background stream");
    }
    // Dropped by the last cluster, without any 'all'.
    assert_eq!(qemu_img::info("qcow2", &leaf)?["backing-filename"], Value::Null);
    std::fs::remove_file(&base)?;
    assert_eq!(vm.stream_one("virtio0")?.offset, SIZE, "nothing is left to do");
    vm.quit()?;
    assert_alone(&leaf, &copy, false)
}

/// The cursor starts at 0 after an open and after a stopped stream, and skips existing clusters.
#[test]
fn a_single_cluster_is_the_first_absent_one() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (_, _, leaf) = stage.base_and_leaf(LONG)?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    assert_eq!(vm.stream_one("virtio0")?.offset, 64 << 10);
    vm.quit()?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    assert_eq!(vm.stream_one("virtio0")?.offset, 128 << 10, "the cluster that is there is skipped");
    vm.stream("virtio0")?;
    vm.stream_is_midway("virtio0")?;
    vm.stop_stream("virtio0")?;
    let next = vm.stream_one("virtio0")?.offset;
    assert!((MIB..=LONG).contains(&next), "{next}: what the stopped stream copied is skipped");
    vm.quit()
}

#[test]
fn holes_of_the_base_take_no_space_in_the_leaf() -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let stage = Stage::new()?;
    let size = 4 << 30;
    let base = stage.images.raw("base.img", size, &[(0, MIB), (3 << 30, MIB), (size - MIB, MIB)])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    let taken = std::fs::metadata(&leaf)?.blocks() * 512;
    assert!(taken < 16 * MIB, "3 MiB of data became {taken} bytes");
    assert_alone(&leaf, &base, false)
}

/// Zeros that the base stores as data, not as holes: they do not enlarge the leaf either.
#[test]
fn written_zeros_of_the_base_take_no_space_in_the_leaf() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.path("base.img");
    std::fs::write(&base, vec![0; 32 << 20])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    let length = std::fs::metadata(&leaf)?.len();
    assert!(length < 4 * MIB, "32 MiB of zeros became {length} bytes");
    assert_alone(&leaf, &base, false)
}

/// Leaves made by QEMU: other cluster sizes, no subclusters, version 2, a shorter base.
#[test]
fn leaves_made_by_qemu_stream_as_well() -> Result<(), Failure> {
    for options in [
        "compat=0.10",
        "cluster_size=4k",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=2M",
        "refcount_bits=1",
        "lazy_refcounts=on",
    ] {
        let stage = Stage::new()?;
        let size = 9 * MIB + 512;
        let base = stage.images.raw("base.img", size, &[(0, 3 * MIB), (5 * MIB + 512, 4 * MIB)])?;
        let leaf = stage.path("leaf.qcow2");
        // Larger than its base: the range beyond the base's end reads as zeros.
        let mut create = std::process::Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "-o", options]);
        assert!(create.arg(&leaf).arg((12 * MIB).to_string()).status()?.success(), "{options}");
        let run = || -> Result<(), Failure> {
            let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
            vm.stream("virtio0")?;
            vm.stream_completed(STEP)?;
            vm.quit()?;
            std::fs::File::options().write(true).open(&base)?.set_len(12 * MIB)?;
            assert_alone(&leaf, &base, false)
        };
        run().map_err(|e| format!("{options}: {e}"))?;
    }
    Ok(())
}
