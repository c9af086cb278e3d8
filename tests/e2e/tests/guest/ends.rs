//! The report of a guest's end: the kernel's last messages, a line on standard error, and the exit
//! status.

use harness::images::{Images, drive};
use harness::programs::{Programs, scratch};
use harness::{CMDLINE, Failure, Options, STEP, Vm, check};

use crate::MIB;

/// Boots a guest whose kernel is not quiet and has `more` on its command line, and ends it by `act`.
/// Checks the kernel's messages `console`, the program's line `line`, and its exit status, which is 1.
fn ends(
    more: &str,
    act: impl FnOnce(&mut Vm) -> Result<(), Failure>,
    console: &[&str],
    line: &str,
) -> Result<(), Failure> {
    let (programs, folder) = (Programs::ready()?, scratch()?);
    let images = Images::new(&programs.millrace, folder.path());
    let disk = drive("virtio0", &images.raw("disk.img", MIB, &[])?, "raw");
    let cmdline = format!("{} {more}", CMDLINE.trim_end_matches(" quiet"));
    let mut vm = Vm::start(&programs, folder.path(), &Options { cmdline, ..Options::new(&[disk]) })?;
    act(&mut vm)?;
    let status = vm.wait(STEP)?;
    check(status.code() == Some(1), format!("the exit status is 1: {status}"))?;
    for text in [&["Linux version", "Kernel command line:"], console].concat() {
        check(vm.console().contains(text), format!("the console shows '{text}': {}", vm.console()))?;
    }
    let last = vm.log().lines().last().unwrap_or_default().to_owned();
    check(last == format!("millrace: {line}"), format!("one line tells why: {last}"))
}

/// A panic that reboots at once, because of our kernel command line.
pub fn panic() -> Result<(), Failure> {
    let console =
        ["sysrq: Trigger a crash", "Kernel panic - not syncing: sysrq triggered crash", "Call Trace:"];
    ends("", |vm| Ok(vm.agent()?.panic()?), &console, "the guest's kernel panicked")
}

/// A kernel that finds no init panics before any program runs.
pub fn panic_without_init() -> Result<(), Failure> {
    let (programs, folder) = (Programs::ready()?, scratch()?);
    let mut command = std::process::Command::new(&programs.millrace);
    let console = folder.path().join("console");
    command.arg("run").arg("--kernel").arg(&programs.kernel).args(["--cmdline", CMDLINE, "--serial"]);
    let output = command.arg(format!("file:{}", console.display())).output()?;
    check(output.status.code() == Some(1), format!("the exit status is 1: {}", output.status))?;
    let said = String::from_utf8_lossy(&output.stderr);
    check(said == "millrace: the guest's kernel panicked\n", format!("one line tells why: {said}"))?;
    let console = std::fs::read_to_string(console)?;
    check(console.contains("Unable to mount root fs"), format!("the console shows why: {console}"))
}

/// A kernel that resets the machine by a triple fault. On this machine that is an error, and reported as
/// one.
pub fn triple_fault() -> Result<(), Failure> {
    let reboot = |vm: &mut Vm| Ok(vm.agent()?.call("reboot", Default::default(), STEP).map(drop)?);
    ends("reboot=triple", reboot, &["reboot: machine restart"], "the guest ended in a triple fault")
}
