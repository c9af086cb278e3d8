//! Checks of an image with `qemu-img`.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::Failure;

/// Returns true if `qemu-img` is installed.
pub fn is_installed() -> bool {
    Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// QEMU's version, as `qemu-img` reports it.
pub fn version() -> Result<String, Failure> {
    let output = run(&["--version"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or_default().trim_start_matches("qemu-img version ").to_owned())
}

fn run(arguments: &[&str]) -> Result<Output, Failure> {
    let output = Command::new("qemu-img").args(arguments).output();
    Ok(output.map_err(|e| format!("qemu-img: {e}; install the package qemu-utils"))?)
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| format!("{}: not UTF-8", path.display()).into())
}

/// `qemu-img check`. Fails if the image has corruptions, or has leaks although `leaks_allowed` is false.
pub fn check(format: &str, image: &Path, leaks_allowed: bool) -> Result<(), Failure> {
    checked(run(&["check", "-f", format, text(image)?])?, image, leaks_allowed)
}

/// Like [`check`], for an image that is in use but not written at the moment. Leaks are allowed.
pub fn check_in_use(format: &str, image: &Path) -> Result<(), Failure> {
    checked(run(&["check", "-U", "-f", format, text(image)?])?, image, true)
}

fn checked(output: Output, image: &Path, leaks_allowed: bool) -> Result<(), Failure> {
    match output.status.code() {
        Some(0) => Ok(()),
        // 3: only leaked clusters.
        Some(3) if leaks_allowed => Ok(()),
        _ => Err(format!("qemu-img check {}: {}", image.display(), said(&output)).into()),
    }
}

/// `qemu-img compare`. Fails unless both disks have the same content.
pub fn compare(a: (&str, &Path), b: (&str, &Path)) -> Result<(), Failure> {
    let output = run(&["compare", "-U", "-f", a.0, "-F", b.0, text(a.1)?, text(b.1)?])?;
    if output.status.success() { Ok(()) } else { Err(said(&output).into()) }
}

/// `qemu-img convert`, from one format and file to another.
pub fn convert(from: (&str, &Path), to: (&str, &Path)) -> Result<(), Failure> {
    let output = run(&["convert", "-U", "-f", from.0, "-O", to.0, text(from.1)?, text(to.1)?])?;
    if output.status.success() { Ok(()) } else { Err(said(&output).into()) }
}

/// `qemu-img info`.
pub fn info(format: &str, image: &Path) -> Result<Value, Failure> {
    let output = run(&["info", "-U", "-f", format, "--output=json", text(image)?])?;
    if !output.status.success() {
        return Err(said(&output).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn said(output: &Output) -> String {
    let mut said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    said.push_str(String::from_utf8_lossy(&output.stderr).trim());
    said
}
