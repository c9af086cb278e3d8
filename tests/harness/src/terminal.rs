//! A terminal with a program on it, as a user has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::{Failure, STEP, check};

const ROWS: u16 = 40;

/// A program on a terminal of its own.
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// Output that no test has consumed yet.
    shown: String,
    /// The screen, drawn as a terminal does.
    drawn: vt100::Parser,
    /// The terminal's settings before the program started.
    before: String,
}

impl Terminal {
    /// Starts a program on a terminal of 200 columns.
    pub fn run(command: &mut Command) -> Result<Self, Failure> {
        Self::run_on(command, 200)
    }

    /// Starts a program on a terminal of `columns` columns.
    pub fn run_on(command: &mut Command, columns: u16) -> Result<Self, Failure> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            rustix::fs::open(ptsname(&master, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        tcsetwinsize(&slave, Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let before = settings(&master)?;
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
        let drawn = vt100::Parser::new(ROWS, columns, 0);
        Ok(Terminal { child, keys, screen, shown: String::new(), drawn, before })
    }

    /// Types these keys.
    pub fn press(&mut self, keys: &[&str]) -> Result<(), Failure> {
        Ok(self.keys.write_all(keys.concat().as_bytes())?)
    }

    /// Waits until the program has printed `text`. Consumes the output up to and including it.
    pub fn shows(&mut self, text: &str) -> Result<(), Failure> {
        self.shows_within(STEP, text)
    }

    /// Like [`Terminal::shows`], with another time-out.
    pub fn shows_within(&mut self, time: Duration, text: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left);
            let more = more.map_err(|e| format!("no '{text}' ({e}) in: {:?}", self.shown))?;
            self.take(&more);
        }
    }

    fn take(&mut self, output: &[u8]) {
        self.shown += &String::from_utf8_lossy(output);
        self.drawn.process(output);
    }

    /// Waits until `text` is on the screen, whatever was printed before. Rows are joined.
    pub fn draws(&mut self, text: &str) -> Result<(), Failure> {
        self.draws_within(STEP, text)
    }

    /// Like [`Terminal::draws`], with another time-out.
    pub fn draws_within(&mut self, time: Duration, text: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        loop {
            let columns = self.drawn.screen().size().1;
            // A row that continues in the next one is full.
            let rows: Vec<_> = self.drawn.screen().rows(0, columns).collect();
            if rows.concat().contains(text) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left);
            let more = more.map_err(|e| format!("no '{text}' ({e}) on the screen:\n{}", rows.join("\n")))?;
            self.take(&more);
        }
    }

    /// Returns what is on the screen, as far as output was awaited.
    pub fn drawn(&self) -> String {
        self.drawn.screen().contents()
    }

    /// Returns true if the terminal's settings are those from before the program.
    pub fn is_as_before(&self) -> Result<bool, Failure> {
        Ok(settings(&self.keys)? == self.before)
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or("no process")?, signal)?)
    }

    /// The program's process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program's exit status, or `None` if it still runs.
    pub fn end(&mut self) -> Result<Option<ExitStatus>, Failure> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the program ends; fails if it does not succeed.
    pub fn ended(&mut self) -> Result<(), Failure> {
        self.ended_within(STEP)
    }

    /// Like [`Terminal::ended`], with another time-out.
    pub fn ended_within(&mut self, time: Duration) -> Result<(), Failure> {
        let mut end = None;
        crate::wait_for("the program to end", time, || {
            end = self.child.try_wait()?;
            Ok(end.is_some())
        })?;
        check(end.is_some_and(|status| status.success()), format!("{end:?}: {:?}", self.shown))
    }
}

/// A terminal's settings as text, for comparisons. Both of its sides have the same settings.
fn settings(side: impl AsFd) -> Result<String, Failure> {
    Ok(format!("{:?}", tcgetattr(side)?))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A program that a passing test started has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
