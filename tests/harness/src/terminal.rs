//! A terminal with a program on it, as a person has it.

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
    /// What was shown and not yet looked at.
    shown: String,
    /// The screen as a terminal draws it.
    drawn: vt100::Parser,
    /// Its settings before the program.
    before: String,
}

impl Terminal {
    /// Starts a program on it, 200 columns wide.
    pub fn run(command: &mut Command) -> Result<Self, Failure> {
        Self::run_on(command, 200)
    }

    /// The same on one that is `columns` wide.
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

    /// Types.
    pub fn press(&mut self, keys: &[&str]) -> Result<(), Failure> {
        Ok(self.keys.write_all(keys.concat().as_bytes())?)
    }

    /// Waits until the screen has shown this, and takes that away with all before it.
    pub fn shows(&mut self, text: &str) -> Result<(), Failure> {
        self.shows_within(STEP, text)
    }

    /// The same, for what takes another time.
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

    /// Waits until the screen, its rows put together, has this on it, whatever was shown before.
    pub fn draws(&mut self, text: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + STEP;
        loop {
            let columns = self.drawn.screen().size().1;
            // A row that goes on in the next one is full.
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

    /// Whether the terminal's settings are those from before the program.
    pub fn is_as_before(&self) -> Result<bool, Failure> {
        Ok(settings(&self.keys)? == self.before)
    }

    /// Sends the program a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or("no process")?, signal)?)
    }

    /// The program's process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the program has ended, if it has.
    pub fn end(&mut self) -> Result<Option<ExitStatus>, Failure> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for a good end of the program.
    pub fn ended(&mut self) -> Result<(), Failure> {
        self.ended_within(STEP)
    }

    /// The same, for what takes another time.
    pub fn ended_within(&mut self, time: Duration) -> Result<(), Failure> {
        let mut end = None;
        crate::wait_for("the program to end", time, || {
            end = self.child.try_wait()?;
            Ok(end.is_some())
        })?;
        check(end.is_some_and(|status| status.success()), format!("{end:?}: {:?}", self.shown))
    }
}

/// A terminal's settings as text that differs where they do. Both of its sides tell the same.
fn settings(side: impl AsFd) -> Result<String, Failure> {
    Ok(format!("{:?}", tcgetattr(side)?))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, in a test that passes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
