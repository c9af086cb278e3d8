//! The verdict on the copy: by the guest, by QEMU's tools, and by the files themselves.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use guest_agent::client::Job;
use harness::programs::Programs;
use harness::{Failure, Vm, qemu_img};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The checks and their results.
#[derive(Default)]
pub struct Verdict {
    lines: Vec<(String, Option<bool>, String)>,
}

impl Verdict {
    /// Adds the result of a check; an error counts as a failed check.
    pub fn add(&mut self, what: &str, result: Result<bool, Failure>) {
        let (good, why) = match result {
            Ok(good) => (good, String::new()),
            Err(e) => (false, e.to_string()),
        };
        self.lines.push((what.to_owned(), Some(good), why));
    }

    /// Adds a check that could not be made.
    pub fn skip(&mut self, what: &str, why: &str) {
        self.lines.push((what.to_owned(), None, why.to_owned()));
    }

    /// Prints all results. Returns true if no check failed.
    pub fn print(&self) -> bool {
        for (what, good, why) in &self.lines {
            let mark = match good {
                Some(true) => "ok",
                Some(false) => "WRONG",
                None => "not checked",
            };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            println!("  {mark:<12}{what}{why}");
        }
        self.lines.iter().all(|(_, good, _)| *good != Some(false))
    }
}

/// Adds the guest's own checks.
pub fn guest(vm: &mut Vm, job: Job, verdict: &mut Verdict) -> Result<(), Failure> {
    let stat = vm.agent()?.stop(job)?;
    verdict.add(&format!("{} guest requests, none failed", stat.total.count), Ok(stat.errors == 0));
    let verified = vm.agent()?.verify("/dev/vda");
    let blocks = verified.as_ref().map_or(0, |report| report.blocks);
    verdict.add(
        &format!("{blocks} blocks, none lost, stale, torn or misplaced"),
        verified.map(|_| true).map_err(Into::into),
    );
    let errors = vm.agent()?.errors()?;
    verdict.add("no I/O error in the guest's kernel log", Ok(errors.is_empty()));
    Ok(())
}

/// Adds the checks of the new image by our tools and by QEMU's.
pub fn image(
    programs: &Programs,
    leaf: &Path,
    guest_hash: &str,
    verdict: &mut Verdict,
) -> Result<(), Failure> {
    verdict.add("the new image has no backing file", no_backing(programs, leaf));
    if !qemu_img::is_installed() {
        verdict.skip("qemu-img's checks of the new image", "install the package qemu-utils");
        return Ok(());
    }
    verdict.add(
        "qemu-img check finds no error and no leak",
        qemu_img::check("qcow2", leaf, false).map(|()| true),
    );
    let raw = leaf.with_extension("raw");
    let converted = qemu_img::convert(("qcow2", leaf), ("raw", &raw)).and_then(|()| hash(&raw));
    verdict.add("qemu-img reads the same bytes as the guest", converted.map(|hash| hash == guest_hash));
    verdict.add("qemu-img compare agrees", qemu_img::compare(("qcow2", leaf), ("raw", &raw)).map(|()| true));
    Ok(())
}

fn no_backing(programs: &Programs, leaf: &Path) -> Result<bool, Failure> {
    let output = Command::new(&programs.millrace)
        .args(["image", "info", "--json", "-f", "qcow2"])
        .arg(leaf)
        .output()?;
    let info: Value = serde_json::from_slice(&output.stdout)?;
    Ok(info["virtual-size"].is_u64() && info.get("backing-filename").is_none())
}

/// The SHA-256 of a file, in hex.
pub fn hash(path: &Path) -> Result<String, Failure> {
    let mut file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The space that a file takes on its disk, in bytes.
pub fn allocated(path: &Path) -> Result<u64, Failure> {
    Ok(path.metadata()?.blocks() * 512)
}
