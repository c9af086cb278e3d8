//! `--web` and `--picture`: the page of the demo's machine, and a picture of it in the middle of the copy.
//!
//! If the demo runs inside the emulated host, port and token of the page are chosen outside, where the
//! browser is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use emulated_host::Invocation;
use harness::browser::Browser;
use harness::{BOOT, Failure, programs, wait_for};
use tempfile::TempDir;

/// Gives the demo inside the emulated host the page's port and the file of its token.
const PAGE: &str = "MILLRACE_DEMO_PAGE";
/// True when the page shows a copy that is half done, and the requests around the switch.
const HALFWAY: &str = "(() => {
    const cells = millrace.map.cells, done = cells.filter((byte) => (byte & 7) >= 2 && (byte & 7) != 4).length;
    return millrace.flight.length > 0 && done > cells.length / 3 && document.querySelector('.job');
})()";

/// The page's address and token.
pub struct Page {
    port: u16,
    token: PathBuf,
    program: PathBuf,
    /// Where the token is, unless another process has made it.
    _folder: Option<TempDir>,
}

impl Page {
    /// Builds the page's server, and chooses a port and a token; or returns what a process outside has
    /// chosen.
    pub fn prepare() -> Result<Self, Failure> {
        let program = programs::web()?;
        if let Some((port, token)) = std::env::var(PAGE).ok().as_deref().and_then(|text| text.split_once(':'))
        {
            return Ok(Page { port: port.parse()?, token: token.into(), program, _folder: None });
        }
        let folder = tempfile::tempdir()?;
        let token = folder.path().join("token");
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&token)?
            .write_all(text.as_bytes())?;
        Ok(Page { port: emulated_host::free_port()?, token, program, _folder: Some(folder) })
    }

    /// Lets the page of a demo inside the emulated host be reached from outside.
    pub fn pass_on(&self, command: &mut Invocation) {
        command.ports.push(self.port);
        command.env.push((PAGE.into(), format!("{}:{}", self.port, self.token.display()).into()));
        command.files.extend([self.program.clone(), self.token.clone()]);
    }

    /// Returns the arguments of `millrace run`.
    pub fn arguments(&self) -> Vec<String> {
        let page = format!("127.0.0.1:{},control=copy,token-file={}", self.port, self.token.display());
        vec!["--web".to_owned(), page]
    }

    /// Returns the address to open.
    pub fn url(&self) -> Result<String, Failure> {
        let token = std::fs::read_to_string(&self.token)?;
        Ok(format!("http://127.0.0.1:{}/#t={}", self.port, token.trim()))
    }

    /// Takes a picture when the copy is half done, on a thread, which prints a line about it. The thread
    /// returns true if there is a picture.
    pub fn picture(&self, file: &Path) -> Result<JoinHandle<bool>, Failure> {
        let (url, file) = (self.url()?, file.to_owned());
        let browser = Browser::start(1280)?.ok_or("--picture: install chromium and chromium-driver")?;
        let to = file.clone();
        let take = move || -> Result<(), Failure> {
            // Whoever comes before the server is hung up on, and tries again.
            wait_for("the page", 4 * BOOT, || {
                Ok(browser.open(&url).is_ok() && browser.run("return Boolean(globalThis.millrace)")? == true)
            })?;
            wait_for("the middle of the copy", 4 * BOOT, || {
                Ok(browser.run(&format!("return Boolean({HALFWAY})")).is_ok_and(|is| is == true))
            })?;
            browser.fit(1280)?;
            browser.screenshot(&to)
        };
        Ok(std::thread::spawn(move || match take() {
            Ok(()) => {
                println!("  a picture of the page is in {}", file.display());
                true
            }
            Err(e) => {
                eprintln!("demo: --picture: {e}");
                false
            }
        }))
    }
}
