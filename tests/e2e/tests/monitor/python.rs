//! `qemu.qmp`, QEMU's own client in Python, and its `qmp-shell`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use harness::{Failure, STEP, check};

use crate::{MIB, Stage};

/// A Python environment with `qemu.qmp`, made once in the folder `target`.
fn environment() -> Result<&'static Path, Failure> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| make().map_err(|e| e.to_string()));
    Ok(made.as_ref().map_err(Clone::clone)?)
}

fn make() -> Result<PathBuf, Failure> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python"));
    if path.join("bin/qmp-shell").exists() {
        return Ok(path.to_owned());
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(path))
        .map_err(|e| format!("{e}: install the package python3-venv"))?;
    run(Command::new(path.join("bin/pip")).args(["install", "--quiet", "qemu.qmp"]))?;
    Ok(path.to_owned())
}

/// Runs a program that must succeed. Returns its output.
fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    check(output.status.success(), format!("{command:?} succeeds: {said}{errors}"))?;
    Ok(said)
}

#[test]
fn qemu_qmp_drives_every_command() -> Result<(), Failure> {
    let python = environment()?.join("bin/python");
    let stage = Stage::new()?;
    stage.images.raw("1.iso", MIB, &[])?;
    stage.images.raw("target.img", MIB, &[])?;
    let drives = [stage.disk("virtio0", MIB)?, stage.disk("virtio1", MIB)?];
    let vm = stage.run(&drives, &["--cdrom", "id=cd0"])?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/monitor/drive.py");
    let said = run(Command::new(python).arg(script).arg(stage.path("qmp")).arg(stage.folder.path()))?;
    println!("{said}");
    vm.ended()
}

#[test]
fn qmp_shell_works() -> Result<(), Failure> {
    let shell = environment()?.join("bin/qmp-shell");
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let mut child = Command::new(shell)
        .arg(stage.path("qmp"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = "query-status\nblock_stream device=virtio0\nblock_stream device=none\nquit\n";
    child.stdin.take().ok_or("no input")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    for part in ["\"status\": \"running\"", "\"offset\": 1048576", "DeviceNotFound"] {
        check(
            said.contains(part),
            format!("qmp-shell shows {part}: {said}{}", String::from_utf8_lossy(&output.stderr)),
        )?;
    }
    check(vm.wait(STEP)?.success(), "the shell's 'quit' ends the program well")
}
