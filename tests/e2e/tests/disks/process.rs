//! A program that a test starts and ends by itself, at any instant of its start.

use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};

use harness::{Failure, STEP, wait_for};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Stage, millrace};

/// A running program. It is killed when this value is dropped.
pub struct Program {
    pub child: Child,
}

impl Program {
    /// Starts the program in the stage's folder. Its standard error goes to the file `said`.
    pub fn start(stage: &Stage, arguments: &[&str]) -> Result<Self, Failure> {
        let said = File::create(stage.path("said"))?;
        Self::start_with(stage, arguments, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said)
        })
    }

    pub fn start_with(
        stage: &Stage,
        arguments: &[&str],
        adjust: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(millrace()?);
        command.args(["run", "--sandbox", "strict"]).args(arguments).current_dir(stage.folder.path());
        Ok(Program { child: adjust(&mut command).spawn()? })
    }

    /// Reads a file in /proc about the program's main thread.
    pub fn proc(&self, name: &str) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))?)
    }

    /// Waits until the program blocks SIGTERM, so that the signal no longer kills it.
    pub fn is_up(&self) -> Result<(), Failure> {
        wait_for("the program to hold signals back", STEP, || {
            let status = self.proc("status")?;
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).ok_or("no SigBlk")?;
            Ok(u64::from_str_radix(blocked.trim(), 16)? & 1 << (Signal::TERM.as_raw() - 1) != 0)
        })
    }

    /// Waits until the program's main thread is in this system call, where it stays.
    pub fn hangs_in(&self, call: &str) -> Result<(), Failure> {
        wait_for("the program to hang", STEP, || Ok(self.proc("syscall")?.starts_with(call)))
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or("no process")?, signal)?)
    }

    pub fn end(&mut self) -> Result<ExitStatus, Failure> {
        let mut end = None;
        wait_for("the program to end", STEP, || {
            end = self.child.try_wait()?;
            Ok(end.is_some())
        })?;
        end.ok_or_else(|| "no end".into())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // In a test that passes, the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
