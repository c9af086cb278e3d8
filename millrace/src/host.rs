//! `millrace host`: shows what this host offers, and what that means for guests and images.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use block::host::{self, Offers};

use super::Failure;
use vmm::hypervisor;

/// Prints one line: the feature, its state, and the consequence.
fn line(what: &str, is: impl Display, follows: &str) {
    println!("{what:9} {is}: {follows}");
}

fn offer(what: &str, offer: &std::io::Result<()>, with: &str, without: &str) {
    match offer {
        Ok(()) => line(what, "yes", with),
        Err(e) => line(what, format_args!("no ({e})"), without),
    }
}

/// Examines KVM, the kernel, and the file system of `folder`.
pub(super) fn run(folder: &Path) -> Result<ExitCode, Failure> {
    let offers = host::look(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    machine();
    let Offers { io_uring, direct, reflink, punch } = offers;
    offer("io_uring", &io_uring, "disks use it", "disks use worker threads, which cost more processor time");
    println!("\nimages in {}", folder.display());
    offer("reflink", &reflink, "streams share clusters, which is faster", "streams copy all data");
    offer("O_DIRECT", &direct, "cache=none works", "only cache=writeback works");
    offer("holes", &punch, "space that a guest discards is freed", "images never shrink");
    Ok(ExitCode::SUCCESS)
}

fn machine() {
    let kvm = kvm_probe::kvm();
    if !kvm.is_usable() {
        return line("KVM", kvm, "no guest runs here; --machine none runs disks, jobs and the monitor");
    }
    match hypervisor::open() {
        Ok(host) => {
            let most = host.get_max_vcpus().min(vmm::layout::MAX_CPUS as usize);
            line("KVM", kvm, &format!("guests run, with up to {most} vCPUs"));
        }
        Err(e) => line("KVM", e, "no guest runs here; --machine none runs disks, jobs and the monitor"),
    }
}
