//! The guest's screen: its frame buffer, and a login on the console that the kernel draws there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use guest_agent::pattern;

const FRAME_BUFFER: &str = "/dev/fb0";
const CLASS: &str = "/sys/class/graphics/fb0";
const CONSOLE: &str = "/dev/tty1";
/// Escape sequences of Linux's console (console_codes(4)): the cursor is hidden; it is shown, in the corner
/// of an empty screen.
const HIDE_CURSOR: &[u8] = b"\x1b[?25l";
const CLEAR: &[u8] = b"\x1b[?25h\x1b[H\x1b[2J";
/// The argument with which this program is a login.
const LOGIN: &str = "login";
const PROMPT: &str = "login: ";
const SHELL: &str = "sh";
/// The time from the end of a login to the next one, so that one that fails at once does not spin.
const AGAIN: Duration = Duration::from_millis(200);

/// Draws the pattern of `seed` ([`pattern::pixel`]) on the whole screen. Returns its width and height.
///
/// The console is left without a cursor, which the kernel would draw over the pattern.
pub fn draw(seed: u32) -> Result<(u32, u32), String> {
    let failed = |error: io::Error| format!("{FRAME_BUFFER}: {error}");
    let text = |name: &str| fs::read_to_string(Path::new(CLASS).join(name)).map_err(failed);
    let number = |text: &str| text.trim().parse::<u32>().map_err(|error| format!("{CLASS}: {error}"));
    let size = text("virtual_size")?;
    let (width, height) = size.split_once(',').ok_or("a screen without a size")?;
    let (width, height, stride) = (number(width)?, number(height)?, number(&text("stride")?)?);
    if number(&text("bits_per_pixel")?)? != 32 {
        return Err("the screen does not have 32 bits a pixel".to_owned());
    }
    let console = File::options().write(true).open(CONSOLE).and_then(|mut file| file.write_all(HIDE_CURSOR));
    console.map_err(|error| format!("{CONSOLE}: {error}"))?;
    let frame = File::options().write(true).open(FRAME_BUFFER).map_err(failed)?;
    for y in 0..height {
        let line: Vec<u8> = (0..width).flat_map(|x| pattern::pixel(seed, x, y).to_le_bytes()).collect();
        frame.write_all_at(&line, u64::from(y) * u64::from(stride)).map_err(failed)?;
    }
    Ok((width, height))
}

/// Offers a login on the screen, if there is one, for as long as this process lives. Returns when the first
/// one is shown, so that nothing is drawn over what is drawn later.
pub fn offer_login() {
    if !Path::new(FRAME_BUFFER).exists() {
        return;
    }
    let shown = start_login();
    thread::spawn(move || {
        let mut login = shown;
        loop {
            // It waits as a process of its own, because a session with a terminal needs one.
            if let Err(error) = login.and_then(|mut login| login.wait()) {
                eprintln!("guest-agent: no login on the screen: {error}");
                return;
            }
            thread::sleep(AGAIN);
            login = start_login();
        }
    });
}

/// Starts a login, and waits until it has asked for a name.
fn start_login() -> io::Result<Child> {
    let mut login = Command::new("/proc/self/exe").arg(LOGIN).stdout(Stdio::piped()).spawn()?;
    // The login says nothing here. It closes this end when it makes the console its output, or ends.
    if let Some(mut output) = login.stdout.take() {
        io::copy(&mut output, &mut io::sink())?;
    }
    Ok(login)
}

/// Returns true if this process, which is not process 1, was started to be a login.
pub fn is_login() -> bool {
    std::env::args_os().nth(1).as_deref() == Some(OsStr::new(LOGIN))
}

/// Asks for a name on the console and runs a shell there. Everybody gets in: it is a guest for tests.
pub fn log_in() -> io::Result<()> {
    rustix::process::setsid()?;
    let console = File::options().read(true).write(true).open(CONSOLE)?;
    rustix::process::ioctl_tiocsctty(&console)?;
    let kernel = rustix::system::uname();
    let mut to = &console;
    to.write_all(CLEAR)?;
    write!(to, "Millrace's guest for tests, Linux {}\n\n{PROMPT}", kernel.release().to_string_lossy())?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    let mut lines = BufReader::new(&console);
    let mut name = String::new();
    // A line may be empty; without any the terminal was closed, or somebody pressed Ctrl-D.
    while lines.read_line(&mut name)? > 0 && name.trim().is_empty() {
        name.clear();
        to.write_all(PROMPT.as_bytes())?;
    }
    if name.trim().is_empty() {
        return Ok(());
    }
    writeln!(to, "\nWelcome, {}. This shell has its own commands, and those in /sbin.", name.trim())?;
    let mut shell = Command::new(SHELL);
    shell.arg("-i").envs([("PS1", "# "), ("PATH", "/sbin:/usr/sbin:/bin:/usr/bin"), ("TERM", "linux")]);
    shell.current_dir("/").status().map(drop)
}
