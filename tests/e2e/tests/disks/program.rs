//! The program itself: images without a machine, invalid command lines, sockets, the pidfile.

use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use harness::images::drive;
use harness::programs::Programs;
use harness::{Failure, Options, STEP, Vm, check, qemu_img};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{MIB, Stage, disk, millrace};

fn run(stage: &Stage, arguments: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new(millrace()?);
    // Ignores any kernel that this host has prepared.
    command.env("MILLRACE_BOOT", stage.folder.path());
    Ok(command.args(arguments).current_dir(stage.folder.path()).output()?)
}

/// Runs `millrace` and checks that it fails in the required way: with status 1 and one line.
fn fails(stage: &Stage, arguments: &[&str], says: &str) -> Result<(), Failure> {
    let output = run(stage, arguments)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let all = format!("millrace {}: {:?}: {text}", arguments.join(" "), output.status.code());
    check(output.status.code() == Some(1), format!("exit status 1: {all}"))?;
    check(text.trim_end().lines().count() == 1, format!("one line: {all}"))?;
    check(output.stdout.is_empty(), format!("nothing on standard output: {all}"))?;
    check(text.contains(says), format!("it says '{says}': {all}"))
}

#[test]
fn image_create_and_info_agree_with_qemu() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", 3 * MIB, &[])?;
    for arguments in [
        &["-f", "raw", "new", "1M"][..],
        &["-f", "qcow2", "new", "1G"],
        &["-f", "qcow2", "new", "1000001536"],
        &["-f", "qcow2", "-o", "extended_l2=off", "new", "64M"],
        &["-f", "qcow2", "-o", "cluster_size=4k", "new", "64M"],
        &["-f", "qcow2", "-o", "cluster_size=2M,extended_l2=on", "new", "2T"],
        &["-f", "qcow2", "-o", "refcount_bits=64", "new", "64M"],
        &["-f", "qcow2", "-b", "base.img", "-F", "raw", "new"],
        &["-f", "qcow2", "-b", "base.img", "-F", "raw", "new", "10M"],
        &["-f", "qcow2", "-o", "backing_file=base.img,backing_fmt=raw", "new"],
    ] {
        let compare = || -> Result<(), Failure> {
            let output = stage.images.image(&[&["create"], arguments].concat())?;
            check(output.status.success(), String::from_utf8_lossy(&output.stderr))?;
            let output = stage.images.image(&["info", "--json", "-f", arguments[1], "new"])?;
            let ours: Value = serde_json::from_slice(&output.stdout)?;
            let qemu = qemu_img::info(arguments[1], &stage.path("new"))?;
            for key in
                ["format", "virtual-size", "cluster-size", "backing-filename", "backing-filename-format"]
            {
                // Fields without a value in either program are equal, such as the cluster size of a raw
                // image.
                check(ours[key] == qemu[key], format!("{key}: ours {}, QEMU's {}", ours[key], qemu[key]))?;
            }
            let extended = &qemu["format-specific"]["data"]["extended-l2"];
            check(ours["extended-l2"] == *extended, format!("extended-l2: {ours}, {qemu}"))?;
            if arguments[1] == "qcow2" {
                qemu_img::check("qcow2", &stage.path("new"), false)?;
            }
            Ok(std::fs::remove_file(stage.path("new"))?)
        };
        compare().map_err(|e| format!("{}: {e}", arguments.join(" ")))?;
    }
    Ok(())
}

#[test]
fn bad_command_lines_answer_one_line() -> Result<(), Failure> {
    let stage = Stage::new()?;
    stage.images.raw("base.img", MIB, &[(0, MIB)])?;
    let drive = |text: &'static str| ["run", "--machine", "none", "--drive", text];
    for (text, says) in [
        ("nonsense", "nonsense"),
        ("file=base.img,format=raw", "id"),
        ("id=a,format=raw", "file"),
        ("id=a,file=base.img", "format"),
        ("id=a,file=base.img,format=vmdk", "vmdk"),
        ("id=a,file=base.img,format=raw,colour=red", "colour"),
        ("id=a,file=base.img,format=raw,readonly=perhaps", "readonly"),
        ("id=a,file=base.img,format=raw,queues=0", "queues"),
        ("id=a,file=missing.img,format=raw", "missing.img"),
        ("id=a,file=base.img,format=qcow2", "base.img"),
        ("id=a,file=.,format=raw", "."),
    ] {
        fails(&stage, &drive(text), says)?;
    }
    let twice = "id=a,file=base.img,format=raw,readonly=on";
    fails(&stage, &["run", "--machine", "none", "--drive", twice, "--drive", twice], "'a'")?;
    for (arguments, says) in [
        (&["fly"][..], "fly"),
        (&["run", "--machine", "toaster"], "toaster"),
        (&["run", "--machine", "none", "--colour"], "--colour"),
        (&["run", "--machine", "none", "--cpus", "many"], "many"),
        (&["run", "--machine", "none", "--memory", "12Q"], "12Q"),
        (&["run", "--machine", "none", "--qmp", "carrier-pigeon"], "carrier-pigeon"),
        (&["run", "--machine", "none", "--qmp", "unix:missing/folder/qmp"], "missing/folder/qmp"),
        (&["run", "--machine", "none", "--pidfile", "missing/pid"], "missing/pid"),
        (&["run", "--machine", "none", "--user", "no-such-user"], "no such user"),
        (&["run"], "--kernel"),
        (&["run", "--machine", "none"], "nothing to do"),
        (&["run", "--machine", "none", "--drive", "id=a,file=base.img,format=raw"], "nothing to do"),
        (&["image", "info", "-f", "qcow2", "missing.qcow2"], "missing.qcow2"),
        (&["image", "info", "-f", "qcow2", "base.img"], "base.img"),
        (&["image", "create", "-f", "qcow2", "new"], "size"),
        (&["image", "create", "-f", "qcow2", "-b", "base.img", "new"], "-F"),
        (&["image", "create", "-f", "qcow2", "-b", "missing.img", "-F", "raw", "new"], "missing.img"),
        (&["image", "create", "-f", "qcow2", "-o", "colour=red", "new", "1M"], "colour"),
        (&["image", "create", "-f", "raw", "-b", "base.img", "-F", "raw", "new"], "raw"),
        (&["image", "create", "-f", "raw", "missing/new", "1M"], "missing/new"),
    ] {
        fails(&stage, arguments, says)?;
    }
    check(!stage.path("new").exists(), "a refused 'image create' leaves no file")
}

#[test]
fn help_and_version_are_no_errors() -> Result<(), Failure> {
    let stage = Stage::new()?;
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["image", "create", "--help"]] {
        let output = run(&stage, arguments)?;
        check(output.status.success() && !output.stdout.is_empty(), format!("{arguments:?}: {output:?}"))?;
    }
    Ok(())
}

#[test]
fn host_says_what_there_is_and_leaves_nothing() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let output = run(&stage, &["host"])?;
    let said = String::from_utf8(output.stdout)?;
    check(output.status.success(), &said)?;
    for what in ["KVM", "io_uring", "reflink", "O_DIRECT", "holes"] {
        let line = said.lines().find(|line| line.starts_with(what));
        check(line.is_some_and(|line| line.contains(": ")), format!("a line on {what}: {said}"))?;
    }
    check(std::fs::read_dir(stage.path("."))?.next().is_none(), "nothing is left behind")?;
    fails(&stage, &["host", "missing"], "missing")
}

#[test]
fn a_disks_thread_is_confined_and_images_lie_where_they_may() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let (here, elsewhere) = (Stage::new()?, Stage::new()?);
    let base = here.images.raw("base.img", MIB, &[(0, MIB)])?;
    let other = elsewhere.images.raw("other.img", MIB, &[])?;
    let drive = drive("virtio0", &base, "raw");
    let options = |more: &[&str]| Options {
        guest: false,
        more: more.iter().map(|&more| more.to_owned()).collect(),
        ..Options::new(std::slice::from_ref(&drive))
    };
    let folder = here.path(".").display().to_string();
    let programs = Programs::without_guest(millrace()?);
    let mut vm = Vm::start(&programs, stage.path(".").as_path(), &options(&["--allow-dir", &folder]))?;
    let tasks = std::fs::read_dir(format!("/proc/{}/task", vm.id()))?;
    let mut confined = Vec::new();
    for task in tasks {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let of = |key: &str| status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()));
        if of("Seccomp:").as_deref() == Some("2") {
            confined.extend(of("Name:"));
        }
    }
    check(confined.contains(&"virtio0".to_owned()), format!("confined are {confined:?}"))?;
    let change = json!({"device": "virtio0", "target": other, "format": "raw", "notify": false});
    let refused = vm.qmp.execute_json("change", change);
    let error = refused.err().ok_or("an image elsewhere was opened")?.to_string();
    check(error.contains("other.img") && error.contains("ermission"), &error)?;
    let target = here.path("leaf.qcow2");
    let copy = json!({"device": "virtio0", "target": target, "format": "qcow2"});
    vm.qmp.execute_json("x-live-copy", copy)?;
    vm.stream_completed(STEP)?;
    vm.quit()?;
    fails(&stage, &["run", "--machine", "none", "--allow-dir", "missing"], "--allow-dir")
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    // Left over from a program that was killed.
    drop(UnixListener::bind(stage.path("qmp"))?);
    let vm = stage.run(&disk(&base, "raw"))?;
    // A socket in use is not taken over, nor is a file that is not a socket.
    fails(&stage, &["run", "--machine", "none", "--qmp", "unix:qmp"], "qmp")?;
    std::fs::write(stage.path("precious"), "data")?;
    fails(&stage, &["run", "--machine", "none", "--qmp", "unix:precious"], "precious")?;
    assert_eq!(std::fs::read(stage.path("precious"))?, b"data");
    // The first program still has its socket, and removes it at the end.
    assert!(stage.path("qmp").exists());
    vm.quit()?;
    assert!(!stage.path("qmp").exists(), "the socket is left over");
    // SIGKILL leaves the socket behind; the next start works nevertheless.
    stage.run(&disk(&base, "raw"))?.kill()?;
    assert!(stage.path("qmp").exists());
    stage.run(&disk(&base, "raw"))?.quit()
}

#[test]
fn the_pidfile_lives_as_long_as_the_program() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let pidfile = stage.path("pid");
    let options = Options {
        guest: false,
        more: vec!["--pidfile".into(), pidfile.display().to_string()],
        ..Options::new(&disk(&base, "raw"))
    };
    let programs = harness::programs::Programs::without_guest(millrace()?);
    let vm = Vm::start(&programs, stage.folder.path(), &options)?;
    assert_eq!(std::fs::read_to_string(&pidfile)?.trim(), vm.id().to_string());
    vm.signal(Signal::TERM)?;
    vm.ended()?;
    assert!(!pidfile.exists(), "the pidfile is left over");
    Ok(())
}
