//! What a person sees on a terminal: line editing, completion, history, and bars.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;
use tests::{Failure, STEP, check};

use crate::{MIB, Stage, ask, text};

const TAB: &str = "\t";
const ENTER: &str = "\r";
const UP: &str = "\x1b[A";
const END_OF_INPUT: &str = "\x04";

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// What was shown and not yet looked at.
    shown: String,
}

impl Terminal {
    fn run(command: &mut Command) -> Result<Self, Failure> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            rustix::fs::open(ptsname(&master, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        tcsetwinsize(&slave, Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 })?;
        let other = || -> Result<OwnedFd, Failure> { Ok(slave.try_clone()?) };
        command.env("TERM", "xterm").stdin(other()?).stdout(other()?).stderr(other()?);
        let child = command.process_group(0).spawn()?;
        let keys = File::from(master);
        let mut output = keys.try_clone()?;
        let (shows, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Fails when nobody holds the other end any more.
            while let Ok(n) = output.read(&mut bytes) {
                if n == 0 || shows.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Terminal { child, keys, screen, shown: String::new() })
    }

    fn press(&mut self, keys: &[&str]) -> Result<(), Failure> {
        Ok(self.keys.write_all(keys.concat().as_bytes())?)
    }

    /// Waits until the screen has shown this, and takes that away with all before it.
    fn shows(&mut self, text: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + STEP;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left);
            let more = more.map_err(|e| format!("no '{text}' ({e}) in: {:?}", self.shown))?;
            self.shown += &String::from_utf8_lossy(&more);
        }
    }

    fn ended(mut self) -> Result<(), Failure> {
        let status = self.child.wait()?;
        check(status.success(), format!("{status}: {:?}", self.shown))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, in a test that passes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_text_monitor_completes_and_remembers() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut command = Command::new(&stage.millrace);
    command.args(["run", "--machine", "none", "--monitor", "stdio", "--drive", &stage.disk("virtio0", MIB)?]);
    let mut terminal = Terminal::run(&mut command)?;
    terminal.shows("(millrace) ")?;
    // Completed, and answered as if it had been typed.
    terminal.press(&["sto", TAB, ENTER])?;
    terminal.shows("\n")?;
    terminal.shows("(millrace) ")?;
    terminal.press(&["info stat", "us", ENTER])?;
    terminal.shows("VM status: paused")?;
    terminal.shows("(millrace) ")?;
    terminal.press(&["cont", ENTER])?;
    terminal.shows("\n")?;
    terminal.shows("(millrace) ")?;
    // The line before the last one.
    terminal.press(&[UP, UP, ENTER])?;
    terminal.shows("VM status: running")?;
    terminal.press(&["quit", ENTER])?;
    terminal.ended()
}

#[test]
fn the_shell_completes_names_and_shows_events_between_lines() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", MIB)?], &[])?;
    let mut terminal = Terminal::run(Command::new(&stage.millrace).args(["qmp", &text(&stage.path("qmp"))]))?;
    terminal.shows("(QMP) ")?;
    terminal.press(&["query-stat", TAB, ENTER])?;
    terminal.shows("\"running\"")?;
    // The name of a command, then that of its argument.
    terminal.press(&["block_resi", TAB, "dev", TAB])?;
    terminal.shows("block_resize device=")?;
    // What happens meanwhile is shown, and the line that is being typed is not lost.
    ask(&mut vm, "stop", json!({}));
    terminal.shows(" STOP")?;
    terminal.press(&["virtio0 size=2M", ENTER])?;
    terminal.shows("{}")?;
    assert_eq!(ask(&mut vm, "query-block", json!(null))[0]["inserted"]["image"]["virtual-size"], 2 * MIB);
    terminal.press(&[END_OF_INPUT])?;
    terminal.ended()?;
    vm.quit()
}

#[test]
fn watch_draws_bars_until_the_program_ends() -> Result<(), Failure> {
    let stage = Stage::new()?;
    let mut vm = stage.run(&[stage.disk("virtio0", 4 * MIB)?], &[])?;
    let target = text(&stage.path("copy.qcow2"));
    let arguments = json!({"device": "virtio0", "target": target, "format": "qcow2", "speed": 65536});
    ask(&mut vm, "x-live-copy", arguments);
    let mut terminal =
        Terminal::run(Command::new(&stage.millrace).args(["watch", &text(&stage.path("qmp"))]))?;
    terminal.shows("virtio0")?;
    terminal.shows("/4.00 MiB")?;
    terminal.shows("stream running")?;
    ask(&mut vm, "block-job-set-speed", json!({"device": "virtio0", "speed": 0}));
    terminal.shows("ended")?;
    vm.quit()?;
    terminal.ended()
}
