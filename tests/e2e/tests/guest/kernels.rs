//! Kernels other than the one that all other trials boot: from another release, with another
//! compression, or uncompressed.

use std::ffi::OsString;
use std::path::PathBuf;

use emulated_host::Invocation;
use guest_agent::client::Region;
use guest_images::compression::Compression;
use guest_images::kernel::Kernel;
use guest_images::{initramfs, kernel, vmlinux};
use harness::images::{Images, drive};
use harness::programs::{Programs, scratch};
use harness::{Failure, Options, STEP, Vm, check};

use crate::MIB;

/// A kernel of Debian.
struct Tried {
    suite: &'static str,
    metapackage: &'static str,
    /// The compression; `None` boots the ELF kernel inside it.
    compression: Option<Compression>,
    /// The number of vCPUs.
    cpus: u32,
}

const CLOUD: &str = "linux-image-cloud-amd64";
const GENERIC: &str = "linux-image-amd64";

const BOOKWORM_XZ: Tried =
    Tried { suite: "bookworm", metapackage: GENERIC, compression: Some(Compression::Xz), cpus: 2 };
/// With the largest number of vCPUs of a machine.
const BOOKWORM_ELF: Tried = Tried { suite: "bookworm", metapackage: CLOUD, compression: None, cpus: 16 };
const TRIXIE_ZSTD: Tried =
    Tried { suite: "trixie", metapackage: CLOUD, compression: Some(Compression::Zstd), cpus: 2 };
const TRIXIE_ELF: Tried = Tried { suite: "trixie", metapackage: CLOUD, compression: None, cpus: 2 };

/// The newest kernel. It may be unavailable for a while, whenever its packages do not fit together.
const SID: Tried = Tried { suite: "sid", metapackage: CLOUD, compression: Some(Compression::Zstd), cpus: 2 };

pub fn bookworm_xz() -> Result<(), Failure> {
    BOOKWORM_XZ.boots()
}

pub fn bookworm_elf() -> Result<(), Failure> {
    BOOKWORM_ELF.boots()
}

pub fn trixie_zstd() -> Result<(), Failure> {
    TRIXIE_ZSTD.boots()
}

pub fn trixie_elf() -> Result<(), Failure> {
    TRIXIE_ELF.boots()
}

pub fn sid() -> Result<(), Failure> {
    if std::env::var_os(MISSING).is_some() {
        eprintln!("NOT TRIED: the packages of Debian sid's kernel cannot be fetched");
        return Ok(());
    }
    match SID.files() {
        Err(error) if !emulated_host::is_inside() && is_missing(&error) => {
            eprintln!("NOT TRIED: {error}");
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => SID.boots(),
    }
}

/// Set in the environment of a program in the emulated host if sid's kernel could not be fetched.
const MISSING: &str = "MILLRACE_TRIED_SID_IS_MISSING";

fn is_missing(error: &Failure) -> bool {
    matches!(error.downcast_ref(), Some(guest_images::Error::Missing(_)))
}

/// Fetches all kernels while there is a network, and passes them to a command in the emulated host.
pub fn equip(command: &mut Invocation) -> Result<(), Failure> {
    for tried in [BOOKWORM_XZ, BOOKWORM_ELF, TRIXIE_ZSTD, TRIXIE_ELF] {
        let files = tried.fetch()?;
        command.env.push((tried.variable(), std::env::join_paths(&files)?));
        command.files.extend(files);
    }
    // If it is unavailable, its trial reports that.
    match SID.fetch() {
        Ok(files) => {
            command.env.push((SID.variable(), std::env::join_paths(&files)?));
            command.files.extend(files);
        }
        Err(error) if is_missing(&error) => {
            eprintln!("{error}");
            command.env.push((MISSING.into(), "1".into()));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Tried {
    /// The variable in the environment of a program in the emulated host that holds the paths of this
    /// kernel's files.
    fn variable(&self) -> OsString {
        format!("MILLRACE_TRIED_{}_{}_{:?}", self.suite, self.metapackage, self.compression).into()
    }

    /// The files of the kernel and of its initramfs.
    fn fetch(&self) -> Result<[PathBuf; 2], Failure> {
        let kernel: Kernel = kernel::of_suite(self.suite, self.metapackage)?;
        let initrd = initramfs::guest_of(&kernel)?;
        let Some(compression) = self.compression else {
            return Ok([vmlinux::find(&kernel)?, initrd]);
        };
        let bzimage = std::fs::read(&kernel.vmlinuz)?;
        let found = vmlinux::payload(&bzimage).map(|(compression, _)| compression);
        check(found == Some(compression), format!("{} is {compression}: {found:?}", kernel.version))?;
        Ok([kernel.vmlinuz, initrd])
    }

    fn files(&self) -> Result<[PathBuf; 2], Failure> {
        if !emulated_host::is_inside() {
            return self.fetch();
        }
        let paths = std::env::var_os(self.variable()).unwrap_or_default();
        let paths: Vec<_> = std::env::split_paths(&paths).collect();
        Ok(paths.try_into().map_err(|_| "the host passed no files of this kernel")?)
    }

    /// Boots to the agent, writes to the disk and reads it back, and powers off.
    fn boots(&self) -> Result<(), Failure> {
        let [kernel, initrd] = self.files()?;
        let programs = Programs { kernel, initrd, ..Programs::ready()? };
        let folder = scratch()?;
        let images = Images::new(&programs.millrace, folder.path());
        let disk = drive("virtio0", &images.raw("disk.img", 8 * MIB, &[])?, "raw");
        let options = Options { cpus: self.cpus, ..Options::new(&[disk]) };
        let mut vm = Vm::start(&programs, folder.path(), &options)?;
        let agent = vm.agent()?;
        agent.fill(&Region::new("/dev/vda", 0, 2 * MIB, 1), 1)?;
        agent.verify("/dev/vda")?;
        let up = format!("Brought up 1 node, {} CPUs", self.cpus);
        let messages = agent.dmesg(1000)?;
        check(messages.iter().any(|message| message.contains(&up)), format!("'{up}' in {messages:?}"))?;
        // The number of PVH, and the number of a loader that has none of its own.
        let loader = if self.compression.is_none() { 0xb0 } else { 0xff };
        let told = agent.boot_loader()?;
        check(told == loader, format!("the kernel was entered as loader {loader:#x}: {told:#x}"))?;
        let errors = agent.errors()?;
        check(errors.is_empty(), format!("the kernel sees no error: {errors:?}"))?;
        agent.poweroff()?;
        let status = vm.wait(STEP)?;
        check(status.success(), format!("millrace ends with status 0: {status}"))
    }
}
