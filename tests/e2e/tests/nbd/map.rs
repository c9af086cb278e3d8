//! Block status: an export must report the same extents as `qemu-img map` of the same chain, and the
//! same depths as `qemu-nbd`.
//!
//! These two differ in the depth of the range beyond the end of a short backing file, and of zeros in a
//! raw one; there an export must agree with `qemu-nbd`.

use harness::{Failure, check};
use serde_json::Value;

use crate::rig::{MIB, Model, Rig, qemu_io, run};

/// The length and the value of each extent.
type Runs = Vec<(u64, u64)>;

fn push(runs: &mut Runs, len: u64, what: u64) {
    match runs.last_mut() {
        Some(last) if last.1 == what => last.0 += len,
        _ => runs.push((len, what)),
    }
}

fn number(extent: &Value, key: &str) -> Result<u64, Failure> {
    extent[key].as_u64().ok_or_else(|| format!("no '{key}' in {extent}").into())
}

/// The output of `qemu-img map` for a chain, as `base:allocation`.
fn by_qemu_img(leaf: &str) -> Result<Runs, Failure> {
    let map: Value = serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", "qcow2", leaf])?)?;
    let mut runs = Runs::new();
    for extent in map.as_array().ok_or("no map")? {
        // The flags for hole and zero are 1 and 2.
        push(&mut runs, number(extent, "length")?, if extent["data"] == true { 0 } else { 3 });
    }
    Ok(runs)
}

/// The extents that an export reports in one context.
fn by_nbdinfo(uri: &str, context: &str) -> Result<Runs, Failure> {
    let map: Value = serde_json::from_str(&run("nbdinfo", &["--json", &format!("--map={context}"), uri])?)?;
    let mut runs = Runs::new();
    for extent in map.as_array().ok_or("no map")? {
        push(&mut runs, number(extent, "length")?, number(extent, "type")?);
    }
    Ok(runs)
}

/// The depths of a chain as `qemu-nbd` reports them. It serves one client and ends.
fn by_qemu_nbd(rig: &Rig, leaf: &str) -> Result<Runs, Failure> {
    let socket = rig.text("qemu-nbd");
    run("qemu-nbd", &["--fork", "-A", "-r", "-f", "qcow2", "-k", &socket, "-x", "leaf", leaf])?;
    by_nbdinfo(&format!("nbd+unix:///leaf?socket={socket}"), "qemu:allocation-depth")
}

fn agrees(bottom: &str, size: u64) -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut model = Model::new(size);
    let (base, middle, leaf) = (rig.text("base"), rig.text("middle.qcow2"), rig.text("leaf.qcow2"));
    // Shorter than the images over it.
    run("qemu-img", &["create", "-f", bottom, &base, "40M"])?;
    let below = [model.write(MIB, 3 * MIB, 1), model.write(9 * MIB + 4096, 8192, 2)];
    qemu_io(bottom, &base, &below)?;
    let total = size.to_string();
    run("qemu-img", &["create", "-f", "qcow2", "-b", "base", "-F", bottom, &middle, &total])?;
    model.write(12 * MIB, 2 * MIB, 0);
    let between = [
        model.write(2 * MIB, MIB, 3),
        format!("write -z {} {}", 12 * MIB, 2 * MIB),
        model.write(50 * MIB, MIB, 4),
    ];
    qemu_io("qcow2", &middle, &between)?;
    let subclusters = ["-o", "extended_l2=on,cluster_size=64k"];
    run(
        "qemu-img",
        &[
            &["create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2"][..],
            &subclusters,
            &[&leaf, &total],
        ]
        .concat(),
    )?;
    model.write(2 * MIB + 65_536, 65_536, 0);
    let above = [
        model.write(3 * MIB, 2048, 5),
        format!("write -z {} 65536", 2 * MIB + 65_536),
        model.write(size - 5 * MIB, 5 * MIB, 6),
    ];
    qemu_io("qcow2", &leaf, &above)?;
    let expected = [by_qemu_img(&leaf)?, by_qemu_nbd(&rig, &leaf)?];
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", false)?;
    let told = [by_nbdinfo(&uri, "base:allocation")?, by_nbdinfo(&uri, "qemu:allocation-depth")?];
    for (expected, told) in expected.iter().zip(&told) {
        check(expected == told, format!("over {bottom}: expected {expected:?}, reported {told:?}"))?;
    }
    rig.holds("raw", &uri, &model)?;
    vm.quit()
}

#[test]
fn the_map_over_a_raw_image_with_holes_is_qemus() -> Result<(), Failure> {
    agrees("raw", 64 * MIB)
}

#[test]
fn the_map_over_a_qcow2_image_is_qemus() -> Result<(), Failure> {
    agrees("qcow2", 61 * MIB + 512)
}
