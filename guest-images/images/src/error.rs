//! The crate's one error: each prints as one line that says what failed and, where there is one, the way out.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the host side can fail with. The guest's own failures are `guest_agent::client::AgentError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or made.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done, as in 'read'.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program's name.
        program: String,
        /// Why it could not be started.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {text}")]
    Program {
        /// The program's name.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last line that it wrote to its standard error.
        text: String,
    },
    /// Something that must be there is not.
    #[error("{0}")]
    Missing(String),
    /// A file of the host's is not what it must be.
    #[error("{}: {text}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// A system call on the way failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: a failed operation on a file.
    pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { what, path, source }
    }

    /// For `map_err`: a failed system call.
    pub fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }
}

/// Runs `command` to its end; its standard output, or an error that quotes its standard error's last line.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = program_name(command.get_program());
    let Output { status, stdout, stderr } =
        command.output().map_err(|source| Error::Start { program: program.clone(), source })?;
    if status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&stderr);
    let text = stderr.trim_end().lines().last().unwrap_or("no message").to_owned();
    Err(Error::Program { program, status, text })
}

/// A program's name for messages.
pub fn program_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}
