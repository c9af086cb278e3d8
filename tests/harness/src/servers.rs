//! Other NBD servers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Failure, STEP, check, wait_for};

/// A server. It is killed when this value is dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts nbdkit on the socket `socket`.
    pub fn nbdkit(socket: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        // nbdkit does not replace the socket of one that was killed.
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(socket).args(arguments);
        Self::start(socket, &mut command)
    }

    /// Starts qemu-nbd on the socket `socket`, with one export: `disk`.
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
            check(server.child.try_wait()?.is_none(), "the server runs; its output shows the reason")?;
            Ok(server.socket.exists())
        })?;
        Ok(server)
    }

    /// The URI of an export.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Kills the server, without an orderly end.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.kill();
    }
}
