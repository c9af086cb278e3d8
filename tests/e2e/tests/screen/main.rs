//! The screen of a guest of a few instructions, which draws a known pattern: as pictures of the monitor, and
//! as programs of other people show it. Without `/dev/kvm` the tests say that they are skipped, and pass.

mod clients;
mod monitor;
mod start;
mod stays;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest_images::micro;
use harness::picture::Picture;
use harness::{Failure, STEP, check, programs, wait_for};
use qmp::{Address, Client};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The size of the screen in pixels.
const SIZE: (u32, u32) = (640, 480);

/// Returns false, and says so, on a host without KVM.
fn has_kvm() -> bool {
    let open = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(e) = &open {
        eprintln!("skipped: /dev/kvm: {e}");
    }
    open.is_ok()
}

/// Pictures of the guest's pattern.
trait Pattern {
    /// Fails at the first pixel that is not as the guest has drawn it, with these lines made white.
    fn shows_the_pattern(&self, white: &[u8]) -> Result<(), Failure>;
}

impl Pattern for Picture {
    fn shows_the_pattern(&self, white: &[u8]) -> Result<(), Failure> {
        check(self.size == SIZE, format!("a picture of {:?}", self.size))?;
        for (at, pixel) in self.pixels.iter().enumerate() {
            let (x, y) = (at as u32 % SIZE.0, at as u32 / SIZE.0);
            let is_white = white.iter().any(|line| u32::from(*line) == y);
            let expected = if is_white { 0xff_ffff } else { micro::pixel(x, y) & 0xff_ffff };
            check(*pixel == expected, format!("({x}, {y}) is {pixel:06x}, not {expected:06x}"))?;
        }
        Ok(())
    }
}

/// The program with a guest that has drawn its pattern.
struct Machine {
    child: Child,
    folder: TempDir,
    qmp: Client,
    console: UnixStream,
    /// Names and data of events that nobody has waited for yet.
    events: Vec<(String, Value)>,
}

/// A command that runs the program with a guest that draws, in `folder`.
fn command(folder: &Path) -> Result<Command, Failure> {
    std::fs::write(folder.join("kernel"), micro::kernel(&micro::DRAW))?;
    let mut command = Command::new(programs::millrace()?);
    command.current_dir(folder).stdin(Stdio::null());
    command.args(["run", "--sandbox", "strict", "--kernel", "kernel", "--memory", "64M"]);
    Ok(command)
}

impl Machine {
    /// Starts it with these arguments, among them `--vnc`, and waits until the guest has drawn.
    fn start(more: &[&str]) -> Result<Self, Failure> {
        let folder = programs::scratch()?;
        let mut command = command(folder.path())?;
        command.args(["--qmp", "unix:qmp", "--serial", "unix:console"]).args(more);
        if !more.contains(&"--display") {
            command.args(["--display", "640x480"]);
        }
        let child = command.spawn()?;
        // Owned from here on, so that it ends with a failure.
        let mut child = Ended(Some(child));
        let socket = |name: &str| folder.path().join(name);
        let mut qmp = Client::connect(&Address::Unix(socket("qmp")), STEP)?;
        qmp.set_timeout(STEP);
        let console = UnixStream::connect(socket("console"))?;
        console.set_read_timeout(Some(STEP))?;
        let child = child.0.take().ok_or("no child")?;
        let mut machine = Machine { child, folder, qmp, console, events: Vec::new() };
        machine.prompt()?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the guest has drawn its pattern.
    fn prompt(&mut self) -> Result<(), Failure> {
        self.expect(b'>')
    }

    fn expect(&mut self, byte: u8) -> Result<(), Failure> {
        let mut got = [0];
        self.console.read_exact(&mut got)?;
        check(got == [byte], format!("the guest says {:?}", char::from(got[0])))
    }

    /// Makes a line white.
    fn whiten(&mut self, line: u8) -> Result<(), Failure> {
        self.console.write_all(&[line])?;
        self.expect(line)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.qmp
            .execute_json(command, arguments.clone())
            .map_err(|e| format!("{command} {arguments}: {e}").into())
    }

    /// Runs a command that must fail. Returns its text.
    #[track_caller]
    fn refused(&mut self, command: &str, arguments: Value) -> String {
        match self.qmp.execute_json(command, arguments.clone()) {
            Ok(answer) => panic!("{command} {arguments} returned {answer}"),
            Err(e) => e.command_error().unwrap_or_else(|| panic!("{command}: {e}")).desc.clone(),
        }
    }

    /// Runs a line of the text monitor.
    fn hmp(&mut self, line: &str) -> Result<String, Failure> {
        let said = self.ask("human-monitor-command", json!({"command-line": line}))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// Takes a picture by `screendump`.
    fn dump(&mut self, format: &str) -> Result<Picture, Failure> {
        let path = self.path(&format!("dump.{format}"));
        self.ask("screendump", json!({"filename": path, "format": format}))?;
        Picture::read(&path)
    }

    /// Waits for an event, and returns its data. Events that came before others stay for later calls.
    fn event(&mut self, name: &str) -> Result<Value, Failure> {
        let mut found = None;
        wait_for(name, STEP, || {
            // Events come with the reply to any command.
            self.ask("query-status", Value::Null)?;
            self.events.extend(self.qmp.events().into_iter().map(|event| (event.event, event.data)));
            let at = self.events.iter().position(|(event, _)| event == name);
            found = at.map(|at| self.events.remove(at).1);
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| "no event".into())
    }

    fn end(mut self) -> Result<(), Failure> {
        self.ask("quit", Value::Null)?;
        check(self.child.wait()?.success(), "the program ends well")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a process when dropped.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
