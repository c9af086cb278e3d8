//! A chain of a thousand images is opened and queried; a chain that is one image too long is refused.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::images::drive;
use harness::session::Session;
use harness::{Failure, check};
use serde_json::{Value, json};

use crate::{MIB, Stage, disk, millrace};

/// The number of images in the chain, including the base.
const IMAGES: usize = 1000;

fn name(n: usize) -> String {
    format!("image{n:05}.qcow2")
}

/// Creates the images `1..=last`, each over the one before; the first is over `base`, which is raw.
fn pile(stage: &Stage, base: &str, last: usize) -> Result<PathBuf, Failure> {
    stage.images.leaf(&name(1), (base, "raw"))?;
    let second = stage.images.leaf(&name(2), (&name(1), "qcow2"))?;
    // The others differ from it only in the recorded name.
    let image = std::fs::read(&second)?;
    let (old, mut last_path) = (name(1), second);
    let at =
        image.windows(old.len()).position(|bytes| bytes == old.as_bytes()).ok_or("no name is recorded")?;
    for n in 3..=last {
        let mut image = image.clone();
        image[at..at + old.len()].copy_from_slice(name(n - 1).as_bytes());
        last_path = stage.path(&name(n));
        std::fs::write(&last_path, image)?;
    }
    Ok(last_path)
}

/// The largest memory that process `id` has had, in bytes.
fn peak(id: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// The number of images that are described within each other.
fn nested(image: &Value) -> usize {
    std::iter::successors(Some(image), |image| image.get("backing-image")).count()
}

#[test]
fn a_thousand_images_are_a_chain_as_any_other() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", MIB, &[(0, MIB)])?;
    let leaf = pile(&stage, "base.img", IMAGES - 1)?;
    let start = Instant::now();
    let mut vm = stage.run(&disk(&leaf, "qcow2"))?;
    // Well below two seconds on an idle machine; this one may be busy.
    check(start.elapsed() < Duration::from_secs(30), format!("opened in {:?}", start.elapsed()))?;
    println!("{IMAGES} images are open in {:?}, with {} MiB", start.elapsed(), peak(vm.id())? >> 20);
    check(peak(vm.id())? < 100 * MIB, format!("{} bytes of memory", peak(vm.id())?))?;
    let mut session = Session::connect(&stage.path("qmp"))?;
    let block = session.answer("query-block", json!({}))?;
    let inserted = &block["return"][0]["inserted"];
    assert_eq!(inserted["backing_file_depth"], IMAGES - 1);
    assert_eq!(nested(&inserted["image"]), 64);
    for (flat, most) in [(true, 1), (false, 4)] {
        let nodes = session.answer("query-named-block-nodes", json!({"flat": flat}))?;
        let nodes = nodes["return"].as_array().ok_or("no list")?.clone();
        assert_eq!(nodes.len(), IMAGES);
        check(nodes.iter().all(|node| nested(&node["image"]) <= most), "descriptions are bounded")?;
        let bottom = nodes.last().ok_or("none")?;
        check(bottom["file"].as_str().is_some_and(|file| file.ends_with("base.img")), bottom)?;
    }
    // First a part in the middle, then all the rest; the images between are dropped at once.
    let nodes = session.answer("query-named-block-nodes", json!({"flat": true}))?;
    let node = |depth: usize| nodes["return"][depth]["node-name"].clone();
    let inner = json!({"device": node(400), "base-node": node(600), "job-id": "inner"});
    session.answer("block-stream", inner)?;
    let end = session.event("BLOCK_JOB_COMPLETED")?;
    assert_eq!(end.get("error"), None, "{end}");
    session.answer("block-stream", json!({"device": "virtio0"}))?;
    let end = session.event("BLOCK_JOB_COMPLETED")?;
    assert_eq!((end.get("error"), &end["offset"]), (None, &json!(MIB)), "{end}");
    let block = session.answer("query-block", json!({}))?;
    assert_eq!(block["return"][0]["inserted"]["backing_file_depth"], 0);
    vm.kill()?;
    harness::qemu_img::compare(("qcow2", &leaf), ("raw", &stage.path("base.img")))
}

#[test]
fn a_chain_that_could_not_be_opened_again_is_not_made() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", MIB, &[])?;
    let longest = pile(&stage, "base.img", 1023)?;
    let created =
        stage.images.image(&["create", "-f", "qcow2", "-b", &name(1023), "-F", "qcow2", "more.qcow2"])?;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    check(!created.status.success() && said.contains("longer than 1024 images"), said)?;
    check(!stage.path("more.qcow2").exists(), "no file is left")?;
    let vm = stage.run(&disk(&longest, "qcow2"))?;
    let mut session = Session::connect(&stage.path("qmp"))?;
    let more = stage.path("more.qcow2").display().to_string();
    let refused =
        session.answer("blockdev-snapshot-sync", json!({"device": "virtio0", "snapshot-file": more}))?;
    let text = refused["error"]["desc"].as_str().unwrap_or_default();
    check(text.ends_with("the chain of backing files is longer than 1024 images"), text)?;
    check(!stage.path("more.qcow2").exists(), "no file is left")?;
    vm.quit()?;
    // A chain that another program made too long is refused with one line.
    let output = std::process::Command::new(millrace()?)
        .args(["run", "--machine", "none", "--drive"])
        .arg({
            std::fs::copy(&longest, stage.path(&name(1024)))?;
            let mut image = std::fs::read(stage.path(&name(1024)))?;
            let at = image.windows(name(1).len()).position(|bytes| bytes == name(1022).as_bytes());
            let at = at.ok_or("no name")?;
            image[at..at + name(1).len()].copy_from_slice(name(1023).as_bytes());
            std::fs::write(stage.path(&name(1024)), image)?;
            drive("virtio0", &stage.path(&name(1024)), "qcow2")
        })
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(!output.status.success() && said.contains("longer than 1024 images"), said)
}
