//! The crate's one error. Each prints as one line that says what failed and, if possible, what to do
//! about it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The errors of the host's side. The guest's own errors are `guest_agent::client::AgentError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or made.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// The operation, such as 'read'.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program's name.
        program: String,
        /// The reason why it could not be started.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {text}")]
    Program {
        /// The program's name.
        program: String,
        /// The exit status.
        status: std::process::ExitStatus,
        /// The last line that the program wrote to its standard error.
        text: String,
    },
    /// A required file, program or package is missing.
    #[error("{0}")]
    Missing(String),
    /// A file of the host does not have the expected form.
    #[error("{}: {text}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// A description of the fault.
        text: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// The result of this crate's functions.
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

/// Runs `command` until it ends. Returns its standard output, or an error that quotes the last line of
/// its standard error.
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

/// A program's name, for messages.
pub fn program_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}
