//! Other people's servers: of NBD exports, and QEMU's storage daemon.

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

/// QEMU's storage daemon, with a monitor. It is killed when this value is dropped.
pub struct StorageDaemon(Child);

impl StorageDaemon {
    /// Starts a daemon with its monitor at `socket`, and connects to that with `connect`. Each of `nodes` is
    /// a value of `--blockdev`.
    ///
    /// Once in thousands of starts, version 10.0 sends its greeting and then never replies to a command: such
    /// a daemon is killed, and started again, twice at most.
    pub fn start<T>(
        socket: &Path,
        nodes: &[String],
        connect: impl Fn(&Path) -> Result<T, Failure>,
    ) -> Result<(Self, T), Failure> {
        let mut failure: Failure = "no attempt".into();
        for _ in 0..3 {
            let daemon = Self::launch(socket, nodes)?;
            match connect(socket) {
                Ok(monitor) => return Ok((daemon, monitor)),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    fn launch(socket: &Path, nodes: &[String]) -> Result<Self, Failure> {
        let started = socket.with_extension("pid");
        for file in [socket, &started] {
            if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--pidfile").arg(&started);
        command.args(["--chardev", &format!("socket,path={},server=on,wait=off,id=c", socket.display())]);
        for node in nodes {
            command.args(["--blockdev", node]);
        }
        let child =
            command.args(["--monitor", "chardev=c"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("qemu-storage-daemon: {e}: install the package qemu-utils"))?;
        let mut daemon = StorageDaemon(child);
        // It writes this file when all that its command line names is there, and before it serves clients.
        wait_for("qemu-storage-daemon", STEP, || {
            check(daemon.0.try_wait()?.is_none(), "the daemon runs; its output shows the reason")?;
            Ok(started.exists())
        })?;
        Ok(daemon)
    }

    /// Waits for its end, which a client has requested.
    pub fn wait(mut self) -> Result<(), Failure> {
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
