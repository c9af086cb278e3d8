//! The page of running machines: who may use it, and what it shows in a real browser.

mod access;
mod foreign;
mod guest;
mod hostile;
mod keyboard;
mod page;
mod pictures;
mod several;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use harness::images::{Images, drive};
use harness::programs::{self, Programs};
use harness::{Failure, Options, STEP, Vm};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A folder with images, and a machine without a guest.
struct Stage {
    folder: TempDir,
    images: Images,
    millrace: PathBuf,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        let (folder, millrace) = (programs::scratch()?, programs::millrace()?);
        Ok(Stage { images: Images::new(&millrace, folder.path()), folder, millrace })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a machine whose disk `virtio0` is a qcow2 overlay over a raw image with data at every other
    /// MiB.
    fn machine(&self, size: u64) -> Result<Vm, Failure> {
        self.machine_with(size, &[])
    }

    /// The same, with further arguments.
    fn machine_with(&self, size: u64, more: &[&str]) -> Result<Vm, Failure> {
        let data: Vec<_> = (0..size / MIB).step_by(2).map(|n| (n * MIB, MIB)).collect();
        let base = self.images.raw("base.img", size, &data)?;
        let leaf = self.images.leaf("leaf", (&base.display().to_string(), "raw"))?;
        let (drives, more) = ([drive("virtio0", &leaf, "qcow2")], more.iter().map(|&one| one.to_owned()));
        let options = Options { guest: false, more: more.collect(), ..Options::new(&drives) };
        Vm::start(&Programs::without_guest(&self.millrace), self.folder.path(), &options)
    }
}

/// The page's server. It is killed when this value is dropped.
struct Web {
    child: Child,
    /// The page's address, with the token.
    url: String,
    port: u16,
}

impl Web {
    fn start(stage: &Stage, more: &[&str]) -> Result<Self, Failure> {
        Self::of(&[stage], more)
    }

    /// The page of the machines of several stages.
    fn of(stages: &[&Stage], more: &[&str]) -> Result<Self, Failure> {
        programs::web()?;
        let millrace = &stages.first().ok_or("no machine")?.millrace;
        let mut command = Command::new(millrace);
        command.arg("web").args(stages.iter().map(|stage| stage.path("qmp"))).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the server has no output")?;
        let mut web = Web { child, url: String::new(), port: 0 };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        line.trim().clone_into(&mut web.url);
        let port = web.url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split('/').next());
        web.port = port.ok_or_else(|| format!("an address: {line:?}"))?.parse()?;
        Ok(web)
    }

    fn token(&self) -> &str {
        self.url.split_once("#t=").map_or("", |(_, token)| token)
    }

    /// Sends a request with these headers and returns the status and the response's head.
    fn request(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String), Failure> {
        request(self.port, path, headers)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request to a port of this host, with these headers. Returns the status and the response's head.
fn request(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String), Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(STEP))?;
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n").as_bytes())?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, head))
}
