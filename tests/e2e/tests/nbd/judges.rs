//! Other programs read and write exported disks; a model has the expected content.

use harness::{Failure, check, qemu_img};
use serde_json::{Value, json};

use crate::rig::{MIB, Model, Rig, fails, qemu_io, run};

const SIZE: u64 = 64 * MIB;

/// Makes a raw image, and a qcow2 leaf over another image, both with holes and with the content of the
/// model.
fn two_disks(rig: &Rig) -> Result<Model, Failure> {
    let mut model = Model::new(SIZE);
    for name in ["base.img", "raw.img"] {
        run("qemu-img", &["create", "-f", "raw", &rig.text(name), &SIZE.to_string()])?;
    }
    let base = [model.write(MIB, 3 * MIB, 0x11), model.write(33 * MIB + 4096, 5 * MIB, 0x22)];
    qemu_io("raw", &rig.text("base.img"), &base)?;
    let leaf = rig.text("leaf.qcow2");
    run("qemu-img", &["create", "-f", "qcow2", "-b", "base.img", "-F", "raw", &leaf])?;
    let top = [model.write(2 * MIB, MIB, 0x33), model.write(SIZE - 70_000, 70_000, 0x44)];
    qemu_io("qcow2", &leaf, &top)?;
    qemu_io("raw", &rig.text("raw.img"), &base)?;
    qemu_io("raw", &rig.text("raw.img"), &top)?;
    Ok(model)
}

const DISKS: [(&str, &str, &str); 2] = [("virtio0", "leaf.qcow2", "qcow2"), ("r0", "raw.img", "raw")];

#[test]
fn everybody_reads_what_is_there() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = two_disks(&rig)?;
    let mut vm = rig.start(&DISKS)?;
    for (device, file, format) in DISKS {
        let uri = rig.export(&mut vm, device, false)?;
        rig.holds("raw", &uri, &model)?;
        let (copy, converted) = (rig.text("copy.img"), rig.text("converted.qcow2"));
        // Several connections with many requests each.
        run("nbdcopy", &["--connections=4", "--requests=64", &uri, &copy])?;
        rig.holds("raw", &copy, &model)?;
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &converted])?;
        rig.holds("qcow2", &converted, &model)?;
        let info: Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])?)?;
        let export = &info["exports"][0];
        check(export["export-size"] == SIZE, &info)?;
        check(export["is_read_only"] == true && export["can_multi_conn"] == true, &info)?;
        check(export["contexts"] == json!(["base:allocation", "qemu:allocation-depth"]), &info)?;
        let said = fails("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri])?;
        check(said.contains("Permission denied"), said)?;
        std::fs::remove_file(&copy)?;
        // The file still exists while it is exported.
        check(rig.path(file).exists(), format)?;
    }
    vm.quit()?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)
}

#[test]
fn qemu_io_changes_what_it_says() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut model = two_disks(&rig)?;
    let mut vm = rig.start(&DISKS)?;
    let mut commands = Vec::new();
    // Unaligned ranges, across clusters, at both ends, with FUA.
    for (index, (offset, len)) in
        [(12_345, 70_001), (3 * MIB - 1, 2), (SIZE - 1, 1), (0, 1), (40 * MIB, 6 * MIB)]
            .into_iter()
            .enumerate()
    {
        let write = model.write(offset, len, 0x70 + index as u8);
        commands.push(if index % 2 == 0 { write } else { write.replace("write", "write -f") });
        commands.push(model.read(offset, len));
    }
    for (flags, offset, len) in
        [("", 5 * MIB, 3 * MIB), ("-u", 34 * MIB, MIB), ("-u", MIB + 7, 99_999), ("", 2 * MIB + 5, 17)]
    {
        model.write(offset, len, 0);
        commands.push(format!("write -z {flags} {offset} {len}"));
        commands.push(model.read(offset, len));
    }
    // Whole clusters: they must read as zeros afterwards, not as the backing file's data.
    model.write(36 * MIB, MIB, 0);
    commands.push(format!("discard {} {MIB}", 36 * MIB));
    commands.push("flush".into());
    for device in ["virtio0", "r0"] {
        let uri = rig.export(&mut vm, device, true)?;
        qemu_io("raw", &uri, &commands)?;
        rig.holds("raw", &uri, &model)?;
        for outside in [format!("write {SIZE} 512"), format!("read {} 1024", SIZE - 512)] {
            fails("qemu-io", &["-f", "raw", "-c", &outside, &uri])?;
        }
    }
    vm.quit()?;
    rig.holds("raw", &rig.text("raw.img"), &model)?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)?;
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), false)
}

#[test]
fn whole_disks_are_copied_in() -> Result<(), Failure> {
    let rig = Rig::new()?;
    two_disks(&rig)?;
    let mut model = Model::new(SIZE);
    for at in (0..SIZE).step_by(3 * MIB as usize) {
        model.write(at, 300_001, 1 + (at / MIB) as u8);
    }
    std::fs::write(rig.path("new.img"), &model.0)?;
    let mut vm = rig.start(&DISKS)?;
    let qcow2 = rig.export(&mut vm, "virtio0", true)?;
    let raw = rig.export(&mut vm, "r0", true)?;
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &rig.text("new.img"), &qcow2])?;
    run("nbdcopy", &["--flush", &rig.text("new.img"), &raw])?;
    rig.holds("raw", &qcow2, &model)?;
    rig.holds("raw", &raw, &model)?;
    // From one of our exports to the other.
    run("nbdcopy", &[&raw, &qcow2])?;
    rig.holds("raw", &qcow2, &model)?;
    vm.quit()?;
    rig.holds("qcow2", &rig.text("leaf.qcow2"), &model)?;
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), false)
}
