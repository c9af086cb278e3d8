//! Names that users give to images, exports, devices and sockets: the same rule applies everywhere.

use std::collections::BTreeSet;
use std::process::Output;

use harness::images::drive;
use harness::{Failure, Options, Vm, check, qemu_img};
use serde_json::json;

use crate::{MIB, Stage, disk, millrace};

/// Invalid image names, and a part of the error for each.
const BAD: [(&str, &str); 6] = [
    ("ssh://host/new", "protocol 'ssh'"),
    ("nbd:localhost:10809", "protocol 'nbd'"),
    ("json:{}", "protocol 'json'"),
    ("a:b", "'./a:b' is a file"),
    ("new\n", "control characters"),
    ("\u{1b}[31mnew", "control characters"),
];

fn files(stage: &Stage) -> Result<BTreeSet<String>, Failure> {
    let entries = std::fs::read_dir(stage.folder.path())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    // Leaves out the log, which the harness keeps there.
    names.filter(|name| !matches!(name, Ok(name) if name == "log")).collect()
}

/// Runs `millrace` and checks that it fails by one printable line that contains `says`.
fn fails(stage: &Stage, arguments: &[&str], says: &str) -> Result<(), Failure> {
    let mut command = std::process::Command::new(millrace()?);
    let output = command.args(arguments).current_dir(stage.folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.trim_end_matches('\n');
    let what = format!("{arguments:?}: {said}");
    check(output.status.code() == Some(1) && !line.contains(char::is_control), what.clone())?;
    check(said.contains(says), what)
}

#[test]
fn a_name_that_is_no_images_is_refused_at_every_door() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[(0, MIB)])?;
    let leaf = stage.images.leaf("leaf.qcow2", ("base.img", "raw"))?;
    stage.images.leaf("top.qcow2", ("leaf.qcow2", "qcow2"))?;
    let before = files(&stage)?;
    for (name, says) in BAD {
        let file = format!("id=a,file={name},format=raw");
        for arguments in [
            &["run", "--machine", "none", "--drive", &file][..],
            &["run", "--machine", "none", "--cdrom", &format!("id=a,file={name}")],
            &["image", "create", "-f", "qcow2", name, "1M"],
            &["image", "create", "-f", "raw", name, "1M"],
            &["image", "create", "-f", "qcow2", "-b", name, "-F", "raw", "new", "1M"],
            &["image", "create", "-f", "qed", "-b", name, "-F", "raw", "new", "1M"],
            &["image", "info", "-f", "raw", name],
            &["image", "map", "-f", "qcow2", name],
            &["image", "check", "-f", "qcow2", name],
        ] {
            fails(&stage, arguments, says)?;
        }
    }
    let mut vm = stage.run(&disk(&stage.path("top.qcow2"), "qcow2"))?;
    for (name, says) in BAD {
        for (command, arguments) in [
            ("change", json!({"device": "virtio0", "target": name, "format": "qcow2"})),
            ("blockdev-snapshot-sync", json!({"device": "virtio0", "snapshot-file": name})),
            ("x-live-copy", json!({"device": "virtio0", "target": name, "format": "qcow2"})),
            ("block-stream", json!({"device": "virtio0", "base": leaf, "backing-file": name})),
        ] {
            let what = format!("{command} {name:?}");
            let error =
                vm.qmp.execute_json(command, arguments).err().ok_or_else(|| what.clone())?.to_string();
            check(error.contains(says) && !error.contains(char::is_control), format!("{what}: {error}"))?;
        }
    }
    vm.quit()?;
    check(files(&stage)? == before, format!("no files were created: {:?}", files(&stage)?))?;
    check(qemu_img::info("qcow2", &stage.path("top.qcow2"))?["backing-filename"] == "leaf.qcow2", "top")?;
    check(base.metadata()?.len() == MIB, "the base is as it was")
}

#[test]
fn what_looks_like_a_protocol_is_a_file_behind_file_or_a_folder() -> Result<(), Failure> {
    let stage = Stage::new()?;
    for name in ["./a:b", "file:c:d"] {
        let output = stage.images.image(&["create", "-f", "raw", name, "1M"])?;
        check(output.status.success(), format!("{name}: {output:?}"))?;
    }
    check(files(&stage)? == ["a:b", "c:d"].map(String::from).into(), format!("{:?}", files(&stage)?))?;
    for (backing, leaf) in [("./a:b", "one"), ("file:./c:d", "two")] {
        let output = stage.images.image(&["create", "-f", "qcow2", "-b", backing, "-F", "raw", leaf])?;
        check(output.status.success(), format!("{backing}: {output:?}"))?;
        // Our program and QEMU's open it again; the name is relative to the leaf's folder.
        let output = stage.images.image(&["map", "-f", "qcow2", leaf])?;
        check(output.status.success(), format!("{leaf}: {output:?}"))?;
        let qemu = std::process::Command::new("qemu-img")
            .args(["map", "-f", "qcow2", leaf])
            .current_dir(stage.folder.path())
            .output()?;
        check(qemu.status.success(), format!("{leaf}: {qemu:?}"))?;
    }
    // A stream down to such a base records a name that can be opened again.
    stage.images.leaf("three", ("one", "qcow2"))?;
    let mut vm = stage.run(&disk(&stage.path("three"), "qcow2"))?;
    let base = stage.path("./a:b").display().to_string();
    vm.qmp.execute_json("block-stream", json!({"device": "virtio0", "job-id": "j", "base": base}))?;
    let _: qmp::event::BlockJobCompleted = vm.qmp.wait(std::time::Instant::now() + harness::STEP)?;
    vm.quit()?;
    stage.run(&disk(&stage.path("three"), "qcow2"))?.quit()
}

#[test]
fn an_exports_name_breaks_nobodys_list() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    let path = stage.path("nbd.sock");
    vm.qmp.execute_json("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": path}}}))?;
    for name in ["a\0b", "a\nb", "\u{1b}[2J"] {
        for (command, arguments) in [
            ("nbd-server-add", json!({"device": "virtio0", "name": "good", "description": name})),
            ("block-export-add", json!({"type": "nbd", "id": "e", "node-name": "virtio0", "name": name})),
        ] {
            let error = vm.qmp.execute_json(command, arguments).err().ok_or(format!("{name:?}"))?.to_string();
            check(error.contains("control characters") && !error.contains(char::is_control), error)?;
        }
    }
    // In this command the name is also the export's id, for which a stricter rule applies.
    let error = vm.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "name": "a\0b"})).err();
    check(error.is_some_and(|e| e.to_string().contains("Invalid block export id")), "a NUL in an id")?;
    let good = json!({"type": "nbd", "id": "e", "node-name": "virtio0", "name": "a good/name"});
    vm.qmp.execute_json("block-export-add", good)?;
    let uri = format!("nbd+unix://?socket={}", path.display());
    let listed = std::process::Command::new("nbdinfo").args(["--list", "--json", &uri]).output()?;
    let said = String::from_utf8_lossy(&listed.stdout);
    check(listed.status.success() && said.contains("a good/name"), format!("{listed:?}"))?;
    vm.quit()
}

#[test]
fn qemus_tails_of_sockets_are_understood_and_make_no_files() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let path = |name: &str| stage.path(name).display().to_string();
    let options = Options {
        guest: false,
        more: ["--monitor", &format!("unix:{},server,nowait", path("hmp")), "--qmp"]
            .map(String::from)
            .into_iter()
            .chain([format!("unix:{},server=on,wait=off", path("second"))])
            .collect(),
        ..Options::new(&[drive("virtio0", &base, "raw")])
    };
    let programs = harness::programs::Programs::without_guest(millrace()?);
    let vm = Vm::start(&programs, stage.folder.path(), &options)?;
    let found = files(&stage)?;
    check(found.contains("hmp") && found.contains("second"), format!("{found:?}"))?;
    check(!found.iter().any(|name| name.contains(',')), format!("{found:?}"))?;
    vm.quit()?;
    let run = ["run", "--machine", "none", "--drive", "id=a,file=base.img,format=raw"];
    for (option, value, says) in [
        ("--qmp", "unix:s,server=off", "server=off"),
        ("--qmp", "unix:s,wait=on", "wait=off"),
        ("--qmp", "tcp:localhost:0,telnet=on", "telnet"),
        ("--monitor", "unix:s,color=red", "color=red"),
        ("--serial", "unix:s,color=red", "color=red"),
        ("--serial", "file:s,append=on", "comma"),
        ("--console", "unix:s,color=red", "color=red"),
    ] {
        fails(&stage, &[&run[..], &[option, value]].concat(), says)?;
    }
    check(!files(&stage)?.contains("s"), "a refused option makes no file")
}

#[test]
fn help_is_there_where_a_stranger_looks_for_it() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let run = |arguments: &[&str]| -> Result<Output, Failure> {
        Ok(std::process::Command::new(millrace()?)
            .args(arguments)
            .current_dir(stage.folder.path())
            .output()?)
    };
    for (arguments, names) in
        [(&[][..], ["run", "image", "watch"]), (&["image"], ["create", "info", "check"])]
    {
        let output = run(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        check(output.status.code() == Some(1), format!("{arguments:?}: {output:?}"))?;
        check(said.contains("Usage: millrace"), format!("{arguments:?}: {said}"))?;
        check(names.iter().all(|name| said.contains(name)), format!("{arguments:?}: {said}"))?;
    }
    for (format, names) in [
        ("raw", &["preallocation", "size"][..]),
        ("qcow2", &["extended_l2", "compat"]),
        ("qed", &["table_size"]),
    ] {
        for ask in ["help", "?"] {
            let output = run(&["image", "create", "-f", format, "-o", ask])?;
            let said = String::from_utf8_lossy(&output.stdout);
            check(output.status.success() && output.stderr.is_empty(), format!("{format}: {output:?}"))?;
            check(names.iter().all(|name| said.contains(name)), format!("{format}: {said}"))?;
        }
    }
    let output = run(&["image", "create", "-f", "raw", "-o", "size=1.5M", "new"])?;
    check(output.status.success() && stage.path("new").metadata()?.len() == 3 << 19, format!("{output:?}"))?;
    fails(&stage, &["image", "create", "-f", "raw", "-o", "size=1M"], "FILE")?;
    fails(&stage, &["image", "create", "-f", "raw", "-o", "size=1M,size=2M", "new"], "twice")
}
