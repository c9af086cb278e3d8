//! Real guests on our machine: a stock Debian kernel, its disk on `block`, driven over QMP.
//!
//! Where this host's KVM cannot run one, the whole program starts again in the lab.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use guest_images::agent::{Load, Region};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::programs::{Programs, enter_lab, scratch};
use tests::{Failure, Options, Vm, check, qemu_img, wait_for};

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = enter_lab(|command| command.timeout = Duration::from_secs(500))
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // Each has a machine under emulation to itself: two at once would only be slower.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn() -> Result<(), Failure>| {
        Trial::test(name, move || test().map_err(|error| Failed::from(error.to_string())))
    };
    vec![trial("live_copy_under_random_writes", live_copy_under_random_writes)]
}

/// A raw base image and a leaf over it, made by us.
struct Images {
    base: PathBuf,
    leaf: PathBuf,
}

impl Images {
    fn create(programs: &Programs, folder: &Path, size: u64) -> Result<Self, Failure> {
        let images = Images { base: folder.join("base.img"), leaf: folder.join("leaf.qcow2") };
        std::fs::File::create(&images.base)?.set_len(size)?;
        images.create_leaf(programs)?;
        Ok(images)
    }

    fn create_leaf(&self, programs: &Programs) -> Result<(), Failure> {
        let status = std::process::Command::new(&programs.millrace)
            .args(["image", "create", "-f", "qcow2", "-b", "base.img", "-F", "raw"])
            .arg(&self.leaf)
            .status()?;
        check(status.success(), "millrace image create")
    }

    fn drive(&self) -> String {
        format!("id=virtio0,file={},format=raw", self.base.display())
    }
}

fn live_copy_under_random_writes() -> Result<(), Failure> {
    let programs = Programs::ready()?;
    let folder = scratch()?;
    let images = Images::create(&programs, folder.path(), 64 * MIB)?;
    let mut vm = Vm::start(&programs, folder.path(), &Options::new(&[images.drive()]))?;
    let region = Region::new("/dev/vda", 0, 32 * MIB, 1);
    vm.agent()?.fill(&region, 1)?;
    let load = Load { depth: 8, fsync_every: 50, read_percent: 30, ..Load::new("/dev/vda") };
    let job = vm.agent()?.random_write(&load)?;
    vm.change("virtio0", &images.leaf, Some("qcow2"), false)?;
    vm.stream("virtio0")?;
    vm.stream_completed(Duration::from_secs(60))?;
    let before = vm.agent()?.stat(job)?.total.count;
    wait_for("the load to go on", Duration::from_secs(30), || {
        Ok(vm.agent()?.stat(job)?.total.count > before + 50)
    })?;
    std::fs::remove_file(&images.base)?;
    let stat = vm.agent()?.stop(job)?;
    check(stat.errors == 0, format!("{stat:?}"))?;
    vm.agent()?.verify("/dev/vda")?;
    check(vm.agent()?.errors()?.is_empty(), "no kernel errors")?;
    vm.agent()?.poweroff()?;
    vm.ended()?;
    qemu_img::check("qcow2", &images.leaf, false)
}
