//! Images on other NBD servers, and on a second `millrace`.

use std::time::Instant;

use harness::servers::Server;
use harness::{Failure, STEP, Vm, check, qemu_img, wait_for};
use qmp::event::{BlockJobCompleted, BlockJobError, BlockStreamCompleted};
use qmp::types::BlockErrorAction;
use serde_json::json;

use crate::rig::{MIB, Model, Rig, fails, millrace, qemu_io, run};

const SIZE: u64 = 32 * MIB;

/// Starts nbdkit with these arguments.
fn nbdkit(rig: &Rig, arguments: &[&str]) -> Result<Server, Failure> {
    Server::nbdkit(&rig.path("server"), arguments)
}

/// Makes a raw image with data and holes. Returns its model.
fn base(rig: &Rig) -> Result<Model, Failure> {
    let mut model = Model::new(SIZE);
    let base = rig.text("base.img");
    run("qemu-img", &["create", "-f", "raw", &base, &SIZE.to_string()])?;
    let data = [model.write(MIB, 3 * MIB, 0x11), model.write(SIZE - 70_000, 70_000, 0x44)];
    qemu_io("raw", &base, &data)?;
    Ok(model)
}

/// Makes our own leaf over the image `backing`.
fn leaf(rig: &Rig, backing: &str, format: &str) -> Result<String, Failure> {
    let leaf = rig.text("leaf.qcow2");
    let program = millrace()?.display().to_string();
    run(&program, &["image", "create", "-f", "qcow2", "-b", backing, "-F", format, &leaf])?;
    Ok(leaf)
}

/// Starts the program with one `--drive` and its NBD server.
fn with_drive(rig: &Rig, drive: &str) -> Result<Vm, Failure> {
    let mut vm = rig.start_with(&[drive.to_owned()], &[])?;
    rig.start_server(&mut vm, json!({}))?;
    Ok(vm)
}

fn stream_fails(vm: &mut Vm) -> Result<String, Failure> {
    vm.stream("virtio0")?;
    let event: BlockStreamCompleted = vm.qmp.wait(Instant::now() + STEP)?;
    event.error.ok_or_else(|| "the stream ended well".into())
}

#[test]
fn a_base_on_nbdkit_is_streamed_without_its_holes() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut model = base(&rig)?;
    let (log, base) = (rig.text("requests"), rig.text("base.img"));
    let (log_file, file) = (format!("logfile={log}"), format!("file={base}"));
    let server = nbdkit(&rig, &["--readonly", "--filter=log", "file", &file, &log_file])?;
    let leaf = leaf(&rig, &server.uri(""), "raw")?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let io = [model.read(2 * MIB, 65_536), model.write(2 * MIB + 5, 9000, 7), model.read(2 * MIB + 5, 9000)];
    qemu_io("raw", &uri, &io)?;
    rig.holds("raw", &uri, &model)?;
    let before = std::fs::read_to_string(&log)?.len();
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    let requests = std::fs::read_to_string(&log)?;
    let reads = requests[before..].lines().filter(|line| line.contains(" Read ")).filter_map(read_len);
    let read: u64 = reads.sum();
    check((3 * MIB..4 * MIB).contains(&read), format!("the stream reads {read} bytes: the data alone"))?;
    drop(server);
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("qcow2", &leaf, &model)?;
    qemu_img::check("qcow2", &rig.path("leaf.qcow2"), false)
}

/// The length in a line of nbdkit's log filter.
fn read_len(line: &str) -> Option<u64> {
    let count = line.split("count=0x").nth(1)?.split_whitespace().next()?;
    u64::from_str_radix(count, 16).ok()
}

#[test]
fn a_disk_lies_on_nbdkit() -> Result<(), Failure> {
    for arguments in [
        &["memory", "32M"][..],
        &["--filter=nozero", "memory", "32M"],
        &["--filter=delay", "memory", "32M", "rdelay=5ms", "wdelay=5ms"],
        &[
            "--filter=blocksize-policy",
            "memory",
            "32M",
            "blocksize-minimum=4096",
            "blocksize-error-policy=error",
        ],
        &["--filter=noextents", "--filter=fua", "memory", "32M", "fuamode=emulate"],
        // Without structured replies and GO.
        &["--no-sr", "memory", "32M"],
    ] {
        let rig = Rig::new()?;
        let mut model = Model::new(SIZE);
        let server = nbdkit(&rig, arguments)?;
        let mut vm = with_drive(&rig, &format!("id=r0,file={},format=raw", server.uri("")))?;
        let uri = rig.export(&mut vm, "r0", true)?;
        let mut commands = Vec::new();
        for (at, len) in [(0, 512), (12_345, 70_001), (5 * MIB, 3 * MIB), (SIZE - 1, 1)] {
            commands.push(model.write(at, len, 1 + (at % 200) as u8));
            commands.push(model.read(at, len));
        }
        model.write(6 * MIB + 7, MIB, 0);
        commands.push(format!("write -z -u {} {MIB}", 6 * MIB + 7));
        commands.push("flush".into());
        qemu_io("raw", &uri, &commands)?;
        rig.holds("raw", &uri, &model).map_err(|e| format!("{arguments:?}: {e}"))?;
        vm.quit()?;
        rig.holds("raw", &server.uri(""), &model)?;
    }
    Ok(())
}

#[test]
fn images_lie_on_qemu_nbd() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let mut model = base(&rig)?;
    // A qcow2 image exported as bytes: our program parses its format. The server serves one client at a
    // time.
    let inner = rig.text("inner.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &rig.text("base.img"), &inner])?;
    let server = Server::qemu_nbd(&rig.path("server"), "raw", &inner)?;
    let said = fails("nbdinfo", &["--size", &server.uri("other")])?;
    check(!said.is_empty(), "qemu-nbd exports one name only")?;
    let info =
        run(&millrace()?.display().to_string(), &["image", "info", "-f", "qcow2", &server.uri("disk")])?;
    check(info.contains(&SIZE.to_string()), info)?;
    let leaf = leaf(&rig, &server.uri("disk"), "qcow2")?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    qemu_io("raw", &uri, &[model.write(10 * MIB, 100_000, 9)])?;
    rig.holds("raw", &uri, &model)?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    drop(server);
    vm.quit()?;
    rig.holds("qcow2", &leaf, &model)?;

    // The leaf itself, on a raw export that is large enough.
    let space = rig.text("space.img");
    run("qemu-img", &["create", "-f", "raw", &space, "64M"])?;
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &leaf, &space])?;
    let server = nbdkit(&rig, &["file", &format!("file={space}")])?;
    let drive = format!("id=r1,file={},format=qcow2", server.uri(""));
    let mut vm = with_drive(&rig, &drive)?;
    let uri = rig.export(&mut vm, "r1", true)?;
    qemu_io("raw", &uri, &[model.write(20 * MIB, 5 * MIB, 3), model.write(MIB, MIB, 4), "flush".into()])?;
    rig.holds("raw", &uri, &model)?;
    vm.quit()?;
    rig.holds("qcow2", &server.uri(""), &model)
}

#[test]
fn a_servers_errors_are_the_requests_alone() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = base(&rig)?;
    let trigger = rig.path("fail");
    let (base, when) = (rig.text("base.img"), format!("error-file={}", trigger.display()));
    let failing = ["--filter=error", "file", &base, "error=EIO", "error-rate=100%", &when];
    let server = nbdkit(&rig, &failing)?;
    leaf(&rig, &server.uri(""), "raw")?;
    let mut vm = rig.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    let read = model.read(MIB, 4096);
    std::fs::write(&trigger, "")?;
    let said = fails("qemu-io", &["-f", "raw", "-c", &read, &uri])?;
    check(said.contains("Input/output error"), said)?;
    let error = stream_fails(&mut vm)?;
    check(error.contains(&server.uri("")), error)?;
    std::fs::remove_file(&trigger)?;
    rig.holds("raw", &uri, &model)?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    vm.quit()
}

#[test]
fn a_second_program_takes_the_firsts_disk_over() -> Result<(), Failure> {
    let (one, two) = (Rig::new()?, Rig::new()?);
    let mut model = base(&one)?;
    let disks = [("base", "base.img", "raw")];
    let mut first = one.start(&disks)?;
    let export = one.export(&mut first, "base", false)? + "&reconnect-delay=1";
    let leaf = leaf(&two, &export, "raw")?;
    let mut second = two.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = two.export(&mut second, "virtio0", true)?;
    qemu_io("raw", &uri, &[model.write(8 * MIB, 100_000, 5), model.read(2 * MIB, 4096)])?;

    // The first program dies: requests that need it fail, and no others.
    first.kill()?;
    let said = fails("qemu-io", &["-f", "raw", "-c", &model.read(3 * MIB, 4096), &uri])?;
    check(said.contains("Input/output error"), said)?;
    qemu_io("raw", &uri, &[model.read(8 * MIB, 100_000), model.write(9 * MIB, 65_536, 6)])?;
    let error = stream_fails(&mut second)?;
    check(error.contains("no connection"), error)?;

    // The first program is back: everything works again, without any command.
    let mut first = one.start(&disks)?;
    one.export(&mut first, "base", false)?;
    wait_for("the base to be read again", STEP, || {
        Ok(qemu_io("raw", &uri, &[model.read(3 * MIB, 4096)]).is_ok())
    })?;
    second.stream("virtio0")?;
    second.stream_completed(STEP)?;
    let blocks = second.qmp.execute_json("query-block", json!(null))?;
    check(blocks[0]["inserted"].get("backing_file").is_none(), blocks)?;
    first.quit()?;
    std::fs::remove_file(one.path("base.img"))?;
    two.holds("raw", &uri, &model)?;
    second.quit()?;
    two.holds("qcow2", &leaf, &model)?;
    qemu_img::check("qcow2", &two.path("leaf.qcow2"), false)
}

#[test]
fn a_stream_waits_for_a_base_that_is_gone() -> Result<(), Failure> {
    let (one, two) = (Rig::new()?, Rig::new()?);
    let mut model = base(&one)?;
    let disks = [("base", "base.img", "raw")];
    let mut first = one.start(&disks)?;
    let export = one.export(&mut first, "base", false)? + "&reconnect-delay=0";
    leaf(&two, &export, "raw")?;
    let mut second = two.start(&[("virtio0", "leaf.qcow2", "qcow2")])?;
    let uri = two.export(&mut second, "virtio0", true)?;
    first.kill()?;
    let arguments = json!({"device": "virtio0", "job-id": "copy", "on-error": "stop"});
    second.qmp.execute_json("block-stream", arguments)?;
    let error = second.qmp.wait::<BlockJobError>(Instant::now() + STEP)?;
    assert_eq!((error.device.as_str(), error.action), ("copy", BlockErrorAction::Stop));
    let jobs = second.qmp.execute_json("query-block-jobs", json!(null))?;
    check(jobs[0]["paused"] == true && jobs[0]["io-status"] == "failed", &jobs)?;
    // The guest's writes do not need the base.
    qemu_io("raw", &uri, &[model.write(9 * MIB, 65_536, 6), model.read(9 * MIB, 65_536)])?;

    let mut first = one.start(&disks)?;
    one.export(&mut first, "base", false)?;
    wait_for("the base to be read again", STEP, || {
        Ok(qemu_io("raw", &uri, &[model.read(3 * MIB, 4096)]).is_ok())
    })?;
    second.qmp.execute_json("block-job-resume", json!({"device": "copy"}))?;
    let done = second.qmp.wait::<BlockJobCompleted>(Instant::now() + STEP)?;
    check(done.error.is_none() && done.offset == done.len, format!("{done:?}"))?;
    first.quit()?;
    two.holds("raw", &uri, &model)?;
    second.quit()?;
    qemu_img::check("qcow2", &two.path("leaf.qcow2"), false)
}

#[test]
fn a_running_disk_moves_to_a_leaf_over_its_own_export() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let model = base(&rig)?;
    let server = nbdkit(&rig, &["file", &rig.text("base.img")])?;
    leaf(&rig, &server.uri(""), "raw")?;
    let mut vm = with_drive(&rig, &format!("id=virtio0,file={},format=raw", server.uri("")))?;
    let uri = rig.export(&mut vm, "virtio0", true)?;
    vm.change("virtio0", &rig.path("leaf.qcow2"), Some("qcow2"), false)?;
    rig.holds("raw", &uri, &model)?;
    vm.stream("virtio0")?;
    vm.stream_completed(STEP)?;
    drop(server);
    rig.holds("raw", &uri, &model)?;
    // Other protocols are still refused.
    let program = millrace()?.display().to_string();
    for (protocol, rest) in [("http", "//host/x"), ("nbds", "//host/x"), ("nbd", "host:1"), ("json", "{}")] {
        let name = &format!("{protocol}:{rest}");
        let arguments = ["image", "create", "-f", "qcow2", "-b", name, "-F", "raw", &rig.text("x"), "1M"];
        let said = fails(&program, &arguments)?;
        check(said.contains(&format!("the protocol '{protocol}' is not supported")), said)?;
    }
    vm.quit()
}
