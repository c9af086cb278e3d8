//! The static program that is `/init` in all initramfs of this workspace.
//!
//! The file `/etc/role` selects its role. In a guest it serves the line protocol of `guest_agent::wire`
//! on the second serial port, and offers a login on its screen if it has one. In the emulated host it runs
//! one command. In front of a disk it mounts the root file system and starts the init there. It is process
//! 1, whose end is a kernel panic: it reports failures and continues, and ends only in a guest that has no
//! root file system.

mod button;
mod device;
mod disc;
mod emulated_host;
mod entropy;
mod files;
mod init;
mod input;
mod jobs;
mod load;
mod net;
mod ports;
mod rate;
mod regions;
mod root;
mod screen;
mod serve;
mod system;

use std::fs;
use std::io;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The agent's own serial line; kernel messages go to the first serial port.
const LINE: &str = "/dev/ttyS1";

fn main() {
    if !rustix::process::getpid().is_init() {
        if !screen::is_login() {
            eprintln!("guest-agent is the init of a guest and must run as process 1");
        } else if let Err(error) = screen::log_in() {
            eprintln!("guest-agent: no login on the screen: {error}");
        }
        return;
    }
    // The kernel passes unknown parts of its command line on to init. To measure when init starts, a
    // test puts the text there that init prints first.
    if let Ok(greeting) = std::env::var("MILLRACE_GREETING") {
        println!("{greeting}");
    }
    if let Err(error) = init::prepare() {
        eprintln!("guest-agent: {error}");
    }
    match fs::read_to_string("/etc/role").as_deref().map(str::trim) {
        Ok("emulated-host") => emulated_host::run(),
        Ok("root") => eprintln!("guest-agent: {}", root::run()),
        _ => guest(),
    }
}

fn guest() -> ! {
    let agent = serve::Agent::new();
    let owner = agent.clone();
    if let Err(error) = button::listen(move || owner.power_off()) {
        eprintln!("guest-agent: no power button: {error}");
    }
    screen::offer_login();
    loop {
        let served = open_line(LINE).and_then(|line| agent.serve(line.try_clone()?, line));
        // The port is unplugged or absent. It may come back, and there is no notification of that.
        eprintln!(
            "guest-agent: {LINE}: {}",
            served.map_or_else(|error| error.to_string(), |()| "closed".to_owned())
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Sends everything that arrives on a terminal back to it, for as long as it exists.
fn echo(path: &str) -> Result<(), String> {
    let told = |error: io::Error| format!("{path}: {error}");
    let line = open_line(path).map_err(told)?;
    let (mut from, mut to) = (line.try_clone().map_err(told)?, line);
    let thread = std::thread::Builder::new().spawn(move || io::copy(&mut from, &mut to));
    thread.map(drop).map_err(told)
}

/// Opens a serial port for raw bytes: no echo, no line editing, no translation, no modem control.
fn open_line(path: &str) -> io::Result<fs::File> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Without O_NONBLOCK, open would wait for a carrier unless CLOCAL is set; virtual ports need not
    // have one.
    let line = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let mut settings = tcgetattr(&line)?;
    settings.make_raw();
    settings.control_modes |= rustix::termios::ControlModes::CLOCAL | rustix::termios::ControlModes::CREAD;
    settings.set_speed(115_200)?;
    tcsetattr(&line, OptionalActions::Now, &settings)?;
    let status = rustix::fs::fcntl_getfl(&line)?;
    rustix::fs::fcntl_setfl(&line, status - OFlags::NONBLOCK)?;
    Ok(line.into())
}
