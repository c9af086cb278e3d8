//! NBD servers of other people.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Failure, STEP, check, wait_for};

/// A server, killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// nbdkit on a socket of that name.
    pub fn nbdkit(socket: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        // It does not take the place of one that was killed.
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(socket).args(arguments);
        Self::start(socket, &mut command)
    }

    /// qemu-nbd on a socket of that name, with one export: `disk`.
    pub fn qemu_nbd(socket: &Path, format: &str, file: &str) -> Result<Self, Failure> {
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--export-name=disk", "--format", format, "--socket"]);
        Self::start(socket, command.arg(socket).arg(file))
    }

    fn start(socket: &Path, command: &mut Command) -> Result<Self, Failure> {
        let name = format!("{command:?}");
        let child = command.stdin(Stdio::null()).spawn().map_err(|e| format!("{name}: {e}"))?;
        let mut server = Server { child, socket: socket.to_owned() };
        wait_for(&name, STEP, || {
            check(server.child.try_wait()?.is_none(), "it runs; its output says why not")?;
            Ok(server.socket.exists())
        })?;
        Ok(server)
    }

    /// Where clients find an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Ends it without a word.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is fine too.
        let _ = self.kill();
    }
}
