//! Copy-on-read, checked with `qemu-img map`.

use harness::{Failure, check, qemu_img};
use serde_json::Value;

use crate::rig::{MIB, Model, Rig, qemu_io, run};

/// The number of bytes of data in the leaf itself.
fn present(leaf: &str) -> Result<u64, Failure> {
    let map: Value = serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", "qcow2", leaf])?)?;
    let extents = map.as_array().ok_or("no map")?;
    let own = extents.iter().filter(|extent| extent["depth"] == 0 && extent["data"] == true);
    Ok(own.filter_map(|extent| extent["length"].as_u64()).sum())
}

#[test]
fn what_was_read_no_longer_needs_the_old_image() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut model = Model::new(32 * MIB);
    let leaf = rig.text("leaf.qcow2");
    run("qemu-img", &["create", "-f", "raw", &rig.text("base.img"), "32M"])?;
    qemu_io("raw", &rig.text("base.img"), &[model.write(MIB, 9 * MIB, 1), model.write(20 * MIB, MIB, 2)])?;
    run("qemu-img", &["create", "-f", "qcow2", "-b", "base.img", "-F", "raw", &leaf])?;

    // Without the option, reads copy nothing.
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    check(present(&leaf)? == 0, "reads leave no copies")?;

    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2,copy-on-read=on")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let io = [model.read(2 * MIB, 65_536), model.write(4 * MIB, 4096, 7), model.read(4 * MIB, 4096)];
    qemu_io("raw", &uri, &io)?;
    vm.quit()?;
    let some = present(&leaf)?;
    check((65_536 + 4096..MIB).contains(&some), format!("{some} bytes are copied, and no more"))?;

    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2,copy-on-read=on")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), true)?;
    let all = present(&leaf)?;
    check(all == 10 * MIB, format!("{all} bytes are copied: all the data, and none of the holes"))?;
    let other = [format!("write -P 255 {MIB} {}", 9 * MIB), format!("write -P 255 {} {MIB}", 20 * MIB)];
    qemu_io("raw", &rig.text("base.img"), &other)?;
    rig.holds("qcow2", &leaf, &model)
}
