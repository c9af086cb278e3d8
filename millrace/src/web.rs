//! `millrace web` and `--web`: the page's server, a program of its own beside this one.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use qmp::Address;

use super::Failure;
use super::log;
use super::options::Run;
use super::user::NewUser;

/// The name of the server's program.
const PROGRAM: &str = "millrace-web";

/// Returns the path of the server's program.
fn program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    let program = own.with_file_name(PROGRAM);
    if program.exists() {
        return Ok(program);
    }
    let release = if own.ends_with("release/millrace") { " --release" } else { "" };
    Err(format!("there is no {}: 'cargo build{release} --package web' makes it", program.display()))
}

/// Runs `millrace web`: becomes the server.
pub(super) fn run(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let program = program()?;
    let failed = Command::new(&program).args(arguments).exec();
    Err(format!("{}: {failed}", program.display()))
}

/// The server of `--web`. It ends when this process does, however that ends.
pub(super) struct Page {
    _child: Child,
    /// The server ends when this is closed.
    _alive: Option<ChildStdin>,
}

/// Starts the server of `--web`, and logs the page's address.
pub(super) fn start(options: &Run) -> Result<Option<Page>, Failure> {
    let Some(web) = &options.web else { return Ok(None) };
    let socket = options.qmp.iter().find_map(|address| match address {
        Address::Unix(path) => Some(path),
        Address::Tcp(_) => None,
    });
    let socket = socket.ok_or("--web: the page is a client of the monitor: give --qmp unix:PATH too")?;
    let failed = |why: &dyn std::fmt::Display| format!("--web: {why}");
    let mut command = Command::new(program().map_err(|e| failed(&e))?);
    command.args(&web.arguments).args(["--attached", "--"]).arg(socket);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(user) = options.user.as_deref().map(NewUser::find).transpose()? {
        user.run_as(&mut command);
    }
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    let alive = child.stdin.take();
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(|e| failed(&e))?;
    }
    let line = line.trim();
    if let Some(why) = line.strip_prefix("error: ") {
        return Err(failed(&why));
    }
    if line.is_empty() {
        return Err(failed(&"the page's server has not started"));
    }
    log::say(&format!("millrace: the page is at {line}"));
    Ok(Some(Page { _child: child, _alive: alive }))
}
