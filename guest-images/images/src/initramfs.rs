//! The initramfs that a guest or the emulated host boots: modules, tools, and the agent as `/init`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::modules::Module;
use crate::{Error, Result, agent_binary, cache, libraries, modules, packages};

/// The environment variable that overrides [`guest`]. The emulated host sets it, so that nothing is
/// built inside it.
pub const PATH_VARIABLE: &str = "MILLRACE_GUEST_INITRD";

/// The modules of a guest whose devices are found through ACPI or PCI.
const GUEST_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sr_mod",
    "isofs",
    "button",
    "evdev",
    "virtio_rng",
    "virtio_net",
    "virtio_console",
    "virtio_input",
];
/// The programs of a guest, and their packages. The shell is for the login on a screen.
const GUEST_TOOLS: &[(&str, &str)] = &[("mke2fs", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("sh", "dash")];
/// The modules that are needed to reach a root file system. The guest's own udev loads the rest.
const ROOT_MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4"];
const EMULATED_HOST_MODULES: &[&str] =
    &["kvm-amd", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtiofs", "overlay", "tun"];

/// The initramfs of a guest: its agent serves `guest_agent::wire` on the second serial port. The
/// variable [`PATH_VARIABLE`] can name another one to use instead.
pub fn guest(kernel: &Kernel) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return Ok(path.into());
    }
    guest_of(kernel)
}

/// Like [`guest`], but always for this kernel: ignores the variable.
pub fn guest_of(kernel: &Kernel) -> Result<PathBuf> {
    build("guest", kernel, GUEST_MODULES, GUEST_TOOLS)
}

/// The initramfs of a guest that continues with the root file system of one of its disks.
pub fn root(kernel: &Kernel) -> Result<PathBuf> {
    build("root", kernel, ROOT_MODULES, &[])
}

/// The initramfs of the emulated host: its agent runs one command.
pub fn emulated_host(kernel: &Kernel) -> Result<PathBuf> {
    build("emulated-host", kernel, EMULATED_HOST_MODULES, &[])
}

/// The initramfs, from the cache or built now. `role` is the role of the agent in it.
fn build(role: &str, kernel: &Kernel, module_names: &[&str], tools: &[(&str, &str)]) -> Result<PathBuf> {
    let agent = agent_binary::find()?;
    let tools = tools.iter().map(|(tool, package)| find_tool(tool, package)).collect::<Result<Vec<_>>>()?;
    let mut files = BTreeSet::new();
    for tool in &tools {
        files.insert(tool.clone());
        files.extend(libraries::needed_by(tool, None)?);
    }
    // If the host updates a tool or library, its size or time changes.
    let stamps = files.iter().map(|path| stamp(path)).collect::<Result<Vec<_>>>()?;
    let inputs = [role, &kernel.version, &agent.to_string_lossy(), &module_names.join(" ")];
    let inputs = inputs.into_iter().chain(stamps.iter().map(String::as_str));
    let name = format!("{role}-{}.cpio", cache::hash(inputs.map(str::as_bytes)));
    cache::entry(&name, |path| {
        let modules = modules::in_order(&kernel.modules, module_names)?;
        let archive = archive(role, &read(&agent)?, &modules, &files)?;
        fs::write(path, archive).map_err(Error::file("write", path))
    })
}

fn archive(role: &str, agent: &[u8], modules: &[Module], files: &BTreeSet<PathBuf>) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["dev", "proc", "sys", "run", "tmp", "mnt"] {
        archive.directory(directory);
    }
    // Needed before /dev is mounted: a Rust program that starts without standard streams opens /dev/null
    // or aborts.
    archive.device("dev/console", 0o600, (5, 1));
    archive.device("dev/null", 0o666, (1, 3));
    archive.file("init", 0o755, agent);
    archive.file("etc/role", 0o644, role.as_bytes());
    let list: Vec<_> = modules.iter().map(|module| format!("/modules/{}.ko\n", module.name)).collect();
    archive.file("etc/modules", 0o644, list.concat().as_bytes());
    for module in modules {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.object);
    }
    for path in files {
        // Stored at the path under which the program looks for it, whatever links lead there on the
        // host.
        archive.file(&path.to_string_lossy(), 0o755, &read(path)?);
    }
    Ok(archive.finish())
}

fn find_tool(tool: &str, package: &str) -> Result<PathBuf> {
    packages::find_program(tool)
        .ok_or_else(|| Error::Missing(format!("{tool} is not on this host: install the package {package}")))
}

fn stamp(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(Error::file("read", path))?;
    let time = metadata.modified().map_err(Error::file("read", path))?;
    Ok(format!("{} {} {:o} {time:?}", path.display(), metadata.len(), metadata.permissions().mode()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::file("read", path))
}
