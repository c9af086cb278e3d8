//! A Debian system on a disk, used on a terminal and on its screen as a user does.

use std::process::Command;
use std::time::Duration;

use emulated_host::Invocation;
use guest_images::debian::Debian;
use guest_images::{boot, kernel};
use harness::images::Images;
use harness::programs::{Programs, scratch};
use harness::terminal::Terminal;
use harness::{Failure, check};

use crate::MIB;
use crate::typist::{self, Typist};

/// A system takes a few seconds to start on hardware, and many times that under emulation.
pub const START: Duration = Duration::from_secs(300);

fn system() -> Debian {
    Debian { suite: "bookworm".to_owned(), size: 1024 * MIB }
}

/// Prepares the system, its kernel and its initramfs while there is a network, and passes them to a
/// command in the emulated host. Returns the user outside, who logs in on the screen.
pub fn equip(command: &mut Invocation) -> Result<Typist, Failure> {
    let kernel = kernel::find()?;
    command.files.push(boot::publish(&kernel)?);
    command.files.push(system().cached(&kernel)?);
    command.timeout += START;
    let typist = Typist::start()?;
    command.ports.push(typist.port);
    command.env.push((typist::PORT_VARIABLE.into(), typist.port.to_string().into()));
    Ok(typist)
}

/// `millrace run` with only a disk and a screen: it boots to a login on both. A user logs in on the screen,
/// and one on the terminal, who powers off. Then the terminal has its old settings again.
pub fn login_and_power_off() -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let kernel = kernel::find()?;
    let base = system().cached(&kernel)?;
    let folder = scratch()?;
    let images = Images::new(&programs.millrace, folder.path());
    let leaf = images.leaf("leaf.qcow2", (&base.display().to_string(), "raw"))?;
    let mut command = Command::new(&programs.millrace);
    command.args(["run", "--sandbox", "strict", "--drive"]);
    command.arg(format!("id=virtio0,file={},format=qcow2", leaf.display()));
    let typist = if emulated_host::is_inside() { None } else { Some(Typist::start()?) };
    let port = typist::port().ok_or("no port for the screen")?;
    command.args(["--vnc", &format!("127.0.0.1:{}", port.checked_sub(5900).ok_or("a port below VNC's")?)]);
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows(&format!("booting {}", kernel.vmlinuz.display()))?;
    terminal.shows_within(START, "Linux version")?;
    terminal.shows_within(START, "millrace login: ")?;
    check(!terminal.is_as_before()?, "the terminal is raw while the guest runs")?;
    // What the user at the screen types prints this here.
    terminal.draws_within(START, typist::MARK)?;
    if let Some(typist) = typist {
        typist.ended()?;
    }
    terminal.press(&["root\r"])?;
    terminal.shows_within(START, "root@millrace:~# ")?;
    // The output differs from the echo of the command.
    terminal.press(&["echo user-$(id -un) disk-$(findmnt -no SOURCE /)\r"])?;
    terminal.shows("user-root disk-/dev/vda")?;
    terminal.press(&["poweroff\r"])?;
    terminal.ended_within(START)?;
    check(terminal.is_as_before()?, "the terminal is what it was")?;
    // The other way to end it, which works at any time.
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows_within(START, "Linux version")?;
    terminal.press(&["\x01", "x"])?;
    terminal.ended()?;
    check(terminal.is_as_before()?, "the terminal is what it was after Ctrl-A x")
}
