//! The confinement of the program as the kernel reports it, and the files that its command line allows
//! it to open.

use std::fs;
use std::net::TcpListener;

use harness::programs::Programs;
use harness::{Failure, Options, STEP, Vm, check};
use serde_json::{Value, json};

use crate::{MIB, Stage, disk, millrace};

fn start(stage: &Stage, drives: &[String], more: &[&str]) -> Result<Vm, Failure> {
    let more = more.iter().map(|&more| more.to_owned()).collect();
    let options = Options { guest: false, more, ..Options::new(drives) };
    Vm::start(&Programs::without_guest(millrace()?), stage.folder.path(), &options)
}

#[test]
fn every_thread_of_the_program_has_a_filter_and_gains_no_rights() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let base = stage.images.raw("base.img", MIB, &[])?;
    let mut vm = stage.run(&disk(&base, "raw"))?;
    // Starts workers of the main loop and of the disk too.
    let copy = json!({"device": "virtio0", "target": stage.path("leaf.qcow2"), "format": "qcow2"});
    vm.qmp.execute_json("x-live-copy", copy)?;
    let mut names = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", vm.id()))? {
        // A thread that has just ended can no longer be examined.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let of = |key: &str| status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()));
        let name = of("Name:").ok_or("a thread without a name")?.to_owned();
        check(of("Seccomp:") == Some("2"), format!("{name} has a filter: {status}"))?;
        check(of("NoNewPrivs:") == Some("1"), format!("{name} cannot gain privileges: {status}"))?;
        names.push(name);
    }
    for name in ["millrace", "opener", "virtio0"] {
        check(names.iter().any(|found| found == name), format!("{name} is one of {names:?}"))?;
    }
    vm.stream_completed(STEP)?;
    vm.quit()
}

fn unix(path: &str) -> Value {
    json!({"addr": {"type": "unix", "data": {"path": path}}})
}

/// Returns the error of a command, which must fail.
fn refused(vm: &mut Vm, command: &str, arguments: Value) -> Result<String, Failure> {
    let done = vm.qmp.execute_json(command, arguments.clone());
    Ok(done.err().ok_or(format!("{command} {arguments} succeeded"))?.to_string())
}

/// The arguments of `change`, for the first disk and an image of 1 MiB.
fn change(target: &str, format: &str) -> Value {
    json!({"device": "virtio0", "target": target, "format": format, "notify": false})
}

#[test]
fn with_folders_an_export_is_opened_only_if_the_command_line_names_it() -> Result<(), Failure> {
    let (there, here, runs) = (Stage::new()?, Stage::new()?, Stage::new()?);
    let served = there.images.raw("served.img", MIB, &[(0, MIB)])?;
    let base = here.images.raw("base.img", MIB, &[])?;
    let path = |stage: &Stage, name: &str| stage.path(name).display().to_string();
    let folder = path(&here, ".");

    // A server, first on a Unix socket.
    let mut server = there.run(&disk(&served, "raw"))?;
    let socket = path(&there, "nbd");
    server.qmp.execute_json("nbd-server-start", unix(&socket))?;
    server.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    let uri = format!("nbd+unix:///virtio0?socket={socket}");
    // The header of an image names the export.
    let leaf = path(&here, "leaf.qcow2");
    let size = MIB.to_string();
    let create = ["image", "create", "-f", "qcow2", "-b", &uri, "-F", "raw", &leaf, &size];
    let created = std::process::Command::new(millrace()?).args(create).output()?;
    check(created.status.success(), format!("{created:?}"))?;

    let mut vm = start(&runs, &disk(&base, "raw"), &["--allow-dir", &folder])?;
    for change in [change(&uri, "raw"), change(&leaf, "qcow2")] {
        let error = refused(&mut vm, "change", change)?;
        check(error.contains("--allow-uri") && error.contains(&uri), error)?;
    }
    // The server's own socket must be in an allowed folder too.
    let error = refused(&mut vm, "nbd-server-start", unix(&path(&runs, "outside")))?;
    check(error.contains("ermission"), error)?;
    vm.qmp.execute_json("nbd-server-start", unix(&path(&here, "inside")))?;
    vm.qmp.execute_json("nbd-server-stop", Value::Null)?;
    check(!here.path("inside").exists(), "the socket goes with its server")?;
    vm.quit()?;

    // The export is named on the command line, as an option or as a drive, with any parameters.
    let mut vm = start(&runs, &disk(&base, "raw"), &["--allow-dir", &folder, "--allow-uri", &uri])?;
    vm.qmp.execute_json("change", change(&format!("{uri}&reconnect-delay=1"), "raw"))?;
    vm.qmp.execute_json("change", change(&leaf, "qcow2"))?;
    let other = format!("nbd+unix:///other?socket={socket}");
    let error = refused(&mut vm, "change", change(&other, "raw"))?;
    check(error.contains("--allow-uri"), error)?;
    vm.quit()?;
    let drive = format!("id=virtio0,file={uri},format=raw");
    let mut vm = start(&runs, &[drive], &["--allow-dir", &folder])?;
    vm.qmp.execute_json("change", change(&leaf, "qcow2"))?;
    vm.quit()?;

    // By a host name, which the C library looks up in files of its own.
    server.qmp.execute_json("nbd-server-stop", Value::Null)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let tcp = json!({"addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": port.to_string()}}});
    server.qmp.execute_json("nbd-server-start", tcp)?;
    server.qmp.execute_json("nbd-server-add", json!({"device": "virtio0", "writable": true}))?;
    let uri = format!("nbd://localhost:{port}/virtio0");
    let mut vm = start(&runs, &disk(&base, "raw"), &["--allow-dir", &folder, "--allow-uri", &uri])?;
    vm.qmp.execute_json("change", change(&uri, "raw"))?;
    vm.quit()?;
    server.quit()
}
