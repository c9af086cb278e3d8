//! vncdotool, a VNC client of other people on the command line, from PyPI.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::picture::Picture;
use crate::{Failure, check};

/// The folder of a Python environment with vncdotool, and with Pillow, which reads every format of pictures.
/// It is made once, in the folder `target`.
///
/// # Errors
/// If Python cannot make one (the error names a package), or PyPI cannot be reached.
pub fn environment() -> Result<&'static Path, Failure> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| make().map_err(|e| e.to_string()));
    Ok(made.as_ref().map_err(Clone::clone)?)
}

fn make() -> Result<PathBuf, Failure> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python-vnc"));
    if !path.join("bin/vncdo").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(path))
            .map_err(|e| format!("{e}: install the package python3-venv"))?;
        run(Command::new(path.join("bin/pip")).args(["install", "--quiet", "vncdotool==1.4.2"]))?;
    }
    Ok(path.to_owned())
}

/// Runs a program that must succeed.
fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    check(output.status.success(), format!("{command:?} succeeds: {errors}"))
}

/// Runs vncdotool's commands, such as `type` and `capture`, at a port of the loopback network.
///
/// # Errors
/// If there is no vncdotool. Its own failures are in the output.
pub fn run_at(port: u16, arguments: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new(environment()?.join("bin/vncdo"));
    Ok(command.args(["-t", "60", "-s", &format!("127.0.0.1::{port}")]).args(arguments).output()?)
}

/// Runs vncdotool's commands, which must succeed.
///
/// # Errors
/// If there is no vncdotool, or with what it printed.
pub fn succeeds_at(port: u16, arguments: &[&str]) -> Result<(), Failure> {
    let output = run_at(port, arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    check(output.status.success(), format!("vncdo {arguments:?}: {said}"))
}

/// Takes a picture of the screen at a port, in a file that is replaced.
///
/// # Errors
/// As [`succeeds_at`].
pub fn capture(port: u16, file: &Path) -> Result<Picture, Failure> {
    let _ = std::fs::remove_file(file);
    succeeds_at(port, &["capture", &file.display().to_string()])?;
    Picture::read(file)
}
