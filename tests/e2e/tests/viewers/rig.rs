//! The viewers: how each one is run, and what it showed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use des::Des;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use harness::screen::{ScreenServer, Synthetic};
use harness::terminal::Terminal;
use harness::{Failure, check, vncdo, wait_for};
use link::Credentials;
use rfb::{Config, Password};
use tempfile::TempDir;

pub const WIDTH: u16 = 1024;
pub const HEIGHT: u16 = 768;
/// Long enough for any viewer on a busy host.
const PATIENCE: Duration = Duration::from_secs(120);

/// A viewer by other authors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Viewer {
    /// Python (Twisted), from PyPI.
    Vncdotool,
    /// gtk-vnc, of Debian's package gvncviewer.
    Gvnccapture,
    /// TigerVNC's viewer on an X server in memory.
    Tigervnc,
    /// A small program on libvncclient (`viewer.c`), with the encodings that it asks for.
    Libvncclient(&'static str),
    /// A client of RFB 3.3 that writes JPEG.
    Vncsnapshot,
}

/// All viewers. libvncclient is the one that is asked for particular encodings.
pub const VIEWERS: [Viewer; 6] = [
    Viewer::Vncdotool,
    Viewer::Gvnccapture,
    Viewer::Tigervnc,
    Viewer::Libvncclient("raw"),
    Viewer::Libvncclient("zrle"),
    Viewer::Vncsnapshot,
];

impl Viewer {
    /// The programs that it needs, and the Debian packages that have them.
    fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Viewer::Vncdotool => &[],
            Viewer::Gvnccapture => &[("/usr/bin/gvnccapture", "gvncviewer")],
            Viewer::Tigervnc => &[("/usr/bin/xtigervncviewer", "tigervnc-viewer"), ("/usr/bin/Xvfb", "xvfb")],
            Viewer::Libvncclient(_) => &[("/usr/include/rfb/rfbclient.h", "libvncserver-dev")],
            Viewer::Vncsnapshot => &[("/usr/bin/vncsnapshot", "vncsnapshot")],
        }
    }

    /// Returns true if its programs are here; a line says so if they are not.
    pub fn is_here(self) -> bool {
        let missing: Vec<&str> = self
            .needs()
            .iter()
            .filter(|(file, _)| !Path::new(file).exists())
            .map(|(_, package)| *package)
            .collect();
        if !missing.is_empty() {
            println!("not seen: {self:?}, because these packages are missing: {}", missing.join(" "));
        }
        missing.is_empty()
    }
}

/// Runs a program that must succeed. Returns its output.
fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = said(&output);
    check(output.status.success(), format!("{command:?} succeeds: {said}"))?;
    Ok(said)
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// A server with a screen, and a folder for what viewers write.
pub struct Rig {
    pub screen: Synthetic,
    pub password: Password,
    pub server: ScreenServer,
    pub folder: TempDir,
}

impl Rig {
    /// A server that has the pattern on its screen and wants a password, which is not set.
    pub fn new(credentials: Option<Credentials>) -> Result<Self, Failure> {
        let screen = Synthetic::new(WIDTH, HEIGHT);
        screen.draw_pattern();
        let password = Password::new();
        let config = Config { name: "pattern".into(), password: Some(password.clone()), credentials };
        let server = ScreenServer::start(&screen, config)?;
        Ok(Rig { screen, password, server, folder: tempfile::tempdir()? })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number of the display: the port less 5900.
    fn display(&self) -> u32 {
        u32::from(self.server.address.port()) - 5900
    }

    /// Runs a viewer until it has shown the screen and ended. Returns the colours that it showed.
    ///
    /// # Errors
    /// If the viewer fails; the error has what it printed.
    pub fn shown_by(&self, viewer: Viewer, password: &str) -> Result<Vec<u32>, Failure> {
        let port = self.server.address.port();
        let (png, jpeg, ppm) = (self.path("shown.png"), self.path("shown.jpg"), self.path("shown.ppm"));
        for file in [&png, &jpeg, &ppm] {
            let _ = fs::remove_file(file);
        }
        match viewer {
            Viewer::Vncdotool => {
                let mut command = Command::new(vncdo::environment()?.join("bin/vncdo"));
                command.args(["-t", "60", "-s", &format!("127.0.0.1::{port}"), "-p", password, "capture"]);
                self.ends(command.arg(&png))?;
            }
            Viewer::Gvnccapture => self.gvnccapture(password, &png)?,
            Viewer::Libvncclient(encodings) => {
                let program = self.path("viewer");
                if !program.exists() {
                    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/viewers/viewer.c");
                    run(Command::new("cc").arg("-o").arg(&program).args([source, "-lvncclient"]))?;
                }
                let mut command = Command::new(program);
                command.env("ENCODINGS", encodings);
                // Numbers that no display has are ports to it.
                self.ends(command.arg(format!("127.0.0.1:{port}")).arg(password).arg(&ppm))?;
            }
            Viewer::Vncsnapshot => {
                fs::write(self.path("passwd"), obscured(password))?;
                let mut command = Command::new("vncsnapshot");
                command.args(["-quality", "100", "-passwd"]).arg(self.path("passwd"));
                self.ends(command.arg(format!("127.0.0.1:{}", self.display())).arg(&jpeg))?;
            }
            Viewer::Tigervnc => return self.shown_by_tigervnc(password, &[]),
        }
        if !ppm.exists() {
            let from = if png.exists() { &png } else { &jpeg };
            let convert =
                "import sys; from PIL import Image; Image.open(sys.argv[1]).convert('RGB').save(sys.argv[2])";
            run(Command::new(vncdo::environment()?.join("bin/python"))
                .args(["-c", convert])
                .arg(from)
                .arg(&ppm))?;
        }
        colours(&fs::read(ppm)?)
    }

    /// Runs gvnccapture, which asks for the password on its terminal.
    fn gvnccapture(&self, password: &str, file: &Path) -> Result<(), Failure> {
        let mut command = Command::new("gvnccapture");
        command.arg(format!("localhost:{}", self.display())).arg(file).env("HOME", self.folder.path());
        let mut terminal = Terminal::run(&mut command)?;
        terminal.shows("Password:")?;
        let end = Instant::now() + PATIENCE;
        // It drops what was typed before it had set its terminal up, and does not say when that is.
        while terminal.end()?.is_none() && Instant::now() < end {
            let _ = terminal.press(&[password, "\r"]);
            std::thread::sleep(Duration::from_millis(200));
        }
        terminal.ended()
    }

    /// Runs a command that must succeed, in time.
    fn ends(&self, command: &mut Command) -> Result<(), Failure> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        if wait_for("its end", PATIENCE, || Ok(child.try_wait()?.is_some())).is_err() {
            child.kill()?;
            let said = said(&child.wait_with_output()?);
            return Err(format!("{command:?} does not end: {said}").into());
        }
        let output = child.wait_with_output()?;
        check(output.status.success(), format!("{command:?}: {}", said(&output)))
    }

    /// Runs TigerVNC's viewer on an X server whose screen is a file, until the two screens are equal or the
    /// viewer ends.
    pub fn shown_by_tigervnc(&self, password: &str, arguments: &[&str]) -> Result<Vec<u32>, Failure> {
        let x = XServer::start(self.folder.path())?;
        let mut command = Command::new("xtigervncviewer");
        command.args([
            "-FullScreen=1",
            "-FullScreenMode=Current",
            "-DotWhenNoCursor=0",
            "-ReconnectOnError=0",
        ]);
        command.args(["-MenuKey=", "-AlertOnFatalError=0"]).args(arguments);
        command.arg(format!("localhost::{}", self.server.address.port()));
        command.env("DISPLAY", &x.display).env("VNC_PASSWORD", password).env("HOME", self.folder.path());
        command.env("VNC_USERNAME", "nobody").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut viewer = Stopped(command.spawn()?);
        let mut shown = Vec::new();
        // An X server notifies nobody of what is drawn in its file.
        let waited = wait_for("TigerVNC's viewer", PATIENCE, || {
            check(viewer.0.try_wait()?.is_none(), "the viewer runs")?;
            shown = x.screen()?;
            Ok(shown == self.screen.state().pixels)
        });
        if let Err(failure) = waited {
            viewer.0.kill()?;
            let mut said = String::new();
            viewer.0.stderr.take().ok_or("no output")?.read_to_string(&mut said)?;
            return Err(format!("TigerVNC's viewer does not show the screen: {failure}: {said}").into());
        }
        Ok(shown)
    }
}

/// A program that is stopped at the end.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Xvfb, whose screen is a file.
struct XServer {
    display: String,
    file: PathBuf,
    _program: Stopped,
}

impl XServer {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let (mut read, write) = std::io::pipe()?;
        let mut command = Command::new("Xvfb");
        // It writes the number of the display that it chose.
        command.args(["-displayfd", "1", "-nolisten", "tcp", "-nocursor", "-screen", "0"]);
        command.arg(format!("{WIDTH}x{HEIGHT}x24")).arg("-fbdir").arg(folder);
        let program = Stopped(command.stdout(write).stderr(Stdio::null()).spawn()?);
        drop(command);
        let mut number = Vec::new();
        while number.last() != Some(&b'\n') {
            let mut byte = [0];
            read.read_exact(&mut byte).map_err(|e| format!("Xvfb: {e}"))?;
            number.extend(byte);
        }
        let display = format!(":{}", String::from_utf8(number)?.trim());
        Ok(XServer { display, file: folder.join("Xvfb_screen0"), _program: program })
    }

    /// Returns the pixels of its screen, out of a file in the format XWD (`X11/XWDFile.h`): a header of
    /// 32-bit words, of which the first is its length; colours of 12 bytes; lines.
    fn screen(&self) -> Result<Vec<u32>, Failure> {
        let bytes = fs::read(&self.file)?;
        let word = |n: usize| {
            bytes.get(4 * n..4 * n + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes)
        };
        let (Some(header), Some(stride), Some(colours)) = (word(0), word(12), word(19)) else {
            return Err("Xvfb wrote no screen".into());
        };
        let lines = bytes.get((header + 12 * colours) as usize..).ok_or("a short screen")?;
        let pixels = lines.chunks(stride as usize).take(HEIGHT.into()).flat_map(|line| line.chunks_exact(4));
        // Of 8 bits each, in the order of this machine.
        Ok(pixels.map(|pixel| u32::from_le_bytes([pixel[0], pixel[1], pixel[2], 0])).collect())
    }
}

/// Returns the colours of a binary PPM file.
fn colours(file: &[u8]) -> Result<Vec<u32>, Failure> {
    let head = format!("P6\n{WIDTH} {HEIGHT}\n255\n");
    let bytes = file.strip_prefix(head.as_bytes()).ok_or("a picture of another size or kind")?;
    Ok(bytes.chunks_exact(3).map(|colour| u32::from_be_bytes([0, colour[0], colour[1], colour[2]])).collect())
}

/// Returns a password as it stands in the files of VNC's programs: DES with a key that all of them have.
fn obscured(password: &str) -> Vec<u8> {
    let key = [23u8, 82, 107, 6, 35, 78, 88, 7].map(u8::reverse_bits);
    let mut block = Block::<Des>::default();
    for (to, from) in block.iter_mut().zip(password.bytes()) {
        *to = from;
    }
    Des::new(&key.into()).encrypt_block(&mut block);
    block.to_vec()
}
