//! A user outside of the emulated host, who logs in on the guest's screen: a VNC client by other people
//! types, and one of ours sees the pixels change.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use harness::picture::Picture;
use harness::viewer::Viewer;
use harness::{Failure, check, vncdo, wait_for};

use crate::debian::START;

/// Names the port of the guest's screen, inside the emulated host.
pub const PORT_VARIABLE: &str = "MILLRACE_TEST_PORT";

/// The same on a host that runs guests itself.
static PORT: OnceLock<u16> = OnceLock::new();

/// What the typed line prints on the serial port; it differs from the line.
pub const MARK: &str = "typed-by-root-on-tty1";
const LINE: &str = "echo typed-by-$(id -un)-on-$(basename $(tty)) >/dev/ttyS0";

/// The last rows of text when the guest waits for a name, and for a command: `millrace login:` and
/// `root@millrace:~#`.
const NAME: &str = "xxxxxxxx xxxxxx";
const COMMAND: &str = "xxxxxxxxxxxxxxxx";

/// The port of the guest's screen in this process.
pub fn port() -> Option<u16> {
    let outside = std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse().ok());
    outside.or(PORT.get().copied())
}

/// The user, at work.
pub struct Typist {
    /// The port of the screen.
    pub port: u16,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Typist {
    /// Waits for a screen, and logs in there.
    pub fn start() -> Result<Self, Failure> {
        vncdo::environment()?;
        let port = *PORT.get_or_init(|| emulated_host::free_port().unwrap_or_default());
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || {
            loop {
                let done =
                    viewer(port, &over).and_then(|viewer| log_in(port, viewer)).map_err(|e| e.to_string());
                // An emulated machine that is lost is started once more.
                if done.is_ok() || over.load(Ordering::Relaxed) {
                    return done;
                }
            }
        });
        Ok(Typist { port, is_over, thread })
    }

    /// Returns what became of it. Must be called when its machine has ended, or has shown [`MARK`].
    pub fn ended(self) -> Result<(), Failure> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "it panicked")?.map_err(Into::into)
    }
}

/// A viewer of the screen at a port. While the machine starts, connections are cut or not answered.
fn viewer(port: u16, over: &AtomicBool) -> Result<Viewer, Failure> {
    let mut found = None;
    wait_for("a screen", START, || {
        check(!over.load(Ordering::Relaxed), "the machine shows a screen before it ends")?;
        found = Viewer::tcp(port, Duration::from_secs(2)).ok();
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| "no screen".into())
}

fn log_in(port: u16, mut viewer: Viewer) -> Result<(), Failure> {
    // The cursor blinks behind the text.
    let ends_in = |picture: &Picture, end: &str| {
        let rows = picture.text();
        let last = rows.last().map_or("", String::as_str);
        last.strip_prefix(end).is_some_and(|rest| rest.is_empty() || rest == " x")
    };
    viewer.until("a login", START, |viewer| Ok(ends_in(&viewer.picture, NAME)))?;
    let before = viewer.picture.clone();
    let row = before.text().len() as u32 - 1;
    let behind = NAME.len() as u32 + 1;
    vncdo::succeeds_at(port, &["type", "root"])?;
    let is_typed =
        |picture: &Picture| picture.text().last().is_some_and(|row| row.starts_with("xxxxxxxx xxxxxx xxxx"));
    viewer.until("the echo of a name", START, |viewer| Ok(is_typed(&viewer.picture)))?;
    let echoed = viewer.picture.clone();
    keep(port, "name.png")?;
    check(
        before.characters(row, behind..behind + 4) != echoed.characters(row, behind..behind + 4),
        "the name is where the guest asked for it",
    )?;
    let prompt = |picture: &Picture| {
        [picture.characters(row, 0..behind), picture.part(0..picture.size.0, 0..16 * row)]
    };
    check(prompt(&before) == prompt(&echoed), "nothing else has changed")?;
    vncdo::succeeds_at(port, &["key", "enter"])?;
    viewer.until("a prompt", START, |viewer| Ok(ends_in(&viewer.picture, COMMAND)))?;
    // A line with Shift, symbols and capitals. What it prints is for the trial, which then ends the machine.
    vncdo::succeeds_at(port, &["type", LINE])?;
    let typed = COMMAND.len() + 1 + LINE.len();
    viewer.until("the echo of a line", START, |viewer| {
        Ok(viewer.picture.text().last().is_some_and(|row| row.len() >= typed))
    })?;
    keep(port, "line.png")?;
    vncdo::succeeds_at(port, &["key", "enter"])
}

/// Keeps a picture of the screen, if somebody wants to look at it.
fn keep(port: u16, name: &str) -> Result<(), Failure> {
    match std::env::var_os("MILLRACE_PICTURES") {
        Some(folder) => vncdo::capture(port, &PathBuf::from(folder).join(name)).map(drop),
        None => Ok(()),
    }
}
