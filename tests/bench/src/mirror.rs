//! Mirrors, which both programs are asked for in the same words.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::Failure;
use serde_json::{Value, json};

use crate::{Daemon, Vmm};

/// The target of a mirror: an image that exists.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file, opened with O_DIRECT: its path and format.
    File(PathBuf, &'static str),
    /// The export without a name of an NBD server at this socket, as a raw image.
    Export(PathBuf),
}

impl Target {
    /// The arguments of `blockdev-add`.
    fn node(&self, name: &str, vmm: Vmm) -> Value {
        match self {
            Target::File(path, format) => {
                let mut file = json!({"driver": "file", "filename": path, "cache": {"direct": true}});
                if vmm == Vmm::Qemu {
                    file["aio"] = "io_uring".into();
                }
                json!({"node-name": name, "driver": format, "file": file, "cache": {"direct": true}})
            }
            Target::Export(path) => {
                let server = json!({"type": "unix", "path": path});
                let file = json!({"driver": "nbd", "server": server, "export": ""});
                json!({"node-name": name, "driver": "raw", "file": file})
            }
        }
    }
}

impl Daemon {
    /// Starts a mirror of the whole disk into `target`, which gets the node name `name`. If `blocking`, the
    /// guest's writes go to both sides, else only to the disk.
    pub fn start_mirror(&mut self, target: &Target, name: &str, blocking: bool) -> Result<(), Failure> {
        let node = target.node(name, self.vmm);
        self.qmp.execute_json("blockdev-add", node)?;
        let mode = if blocking { "write-blocking" } else { "background" };
        let mirror =
            json!({"job-id": "mirror", "device": "disk", "target": name, "sync": "full", "copy-mode": mode});
        self.qmp.execute_json("blockdev-mirror", mirror)?;
        Ok(())
    }

    /// Waits until the mirror is ready. Returns false if it is not within `time`.
    pub fn mirror_ready(&mut self, time: Duration) -> Result<bool, Failure> {
        let until = Instant::now() + time;
        match self.qmp.wait_event("BLOCK_JOB_READY", until) {
            Ok(_) => Ok(true),
            Err(_) if Instant::now() >= until => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves the disk to the target of a mirror that is ready. Returns when the job has ended.
    pub fn complete_mirror(&mut self) -> Result<(), Failure> {
        self.end_mirror("block-job-complete")
    }

    /// Ends a mirror that is ready, and leaves the target as a copy of the disk.
    pub fn leave_mirror(&mut self) -> Result<(), Failure> {
        self.end_mirror("block-job-cancel")
    }

    fn end_mirror(&mut self, command: &str) -> Result<(), Failure> {
        self.qmp.execute_json(command, json!({"device": "mirror"}))?;
        let event = self.qmp.wait_event("BLOCK_JOB_COMPLETED", Instant::now() + harness::STEP)?;
        match event.data.get("error") {
            None => Ok(()),
            Some(error) => Err(format!("the mirror failed: {error}").into()),
        }
    }
}

/// Makes a new, empty image without a backing file. `qemu-img` makes it, so that it is the same for both
/// programs.
pub fn blank(path: &Path, format: &str, size: u64, options: Option<&str>) -> Result<(), Failure> {
    let mut create = std::process::Command::new("qemu-img");
    create.args(["create", "-q", "-f", format]);
    create.args(options.into_iter().flat_map(|options| ["-o", options]));
    let output = create.arg(path).arg(size.to_string()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    }
}
