//! Debian packages, downloaded and unpacked into the cache, never installed.
//!
//! Unpacking needs no root, changes nothing on the host, and cannot remove installed packages.
//! Installing could: the main suite's `qemu-system-x86` would remove a `qemu-utils` from backports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::output;
use crate::{Error, Result};

/// The keys that sign Debian's package lists, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt: the host's own, or one for another suite of its distribution that has lists and caches of its
/// own.
pub struct Apt {
    options: Vec<String>,
    /// True if [`Apt::update`] may update the lists; only root may update the host's.
    may_update: bool,
}

impl Apt {
    /// The host's apt.
    pub fn host() -> Self {
        // Otherwise apt, run as root, would download as a user who cannot write here, and warn about it.
        let options = vec!["APT::Sandbox::User=root".to_owned()];
        Apt { options, may_update: rustix::process::geteuid().is_root() }
    }

    /// An apt for `suite` (a code name, such as `trixie`) from the mirror that the host uses. Its lists
    /// and caches are in `folder`.
    pub fn of_suite(suite: &str, folder: &Path) -> Result<Self> {
        let mirror = mirror()?.ok_or_else(|| {
            Error::Missing(format!("no packages of {suite}: this host's apt has no Debian mirror"))
        })?;
        let text = |path: &str| folder.join(path).display().to_string();
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(directory)).map_err(Error::file("create", folder))?;
        }
        let write = |name: &str, content: &str| {
            fs::write(folder.join(name), content).map_err(Error::file("write", &folder.join(name)))
        };
        write("sources.list", &format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        // No package counts as installed.
        write("status", "")?;
        let mut apt = Apt::host();
        apt.may_update = true;
        apt.options.extend([
            format!("Dir::Etc::SourceList={}", text("sources.list")),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={}", text("lists")),
            format!("Dir::State::status={}", text("status")),
            format!("Dir::Cache={}", text("cache")),
        ]);
        Ok(apt)
    }

    /// The names of the packages that `package` directly depends on (`Depends:`), without alternatives.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let listing = self.ask(|| self.command("apt-cache", &["depends", package]))?;
        let listing = String::from_utf8_lossy(&listing);
        let names = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Returns true if apt has a package of this name.
    pub fn knows(&self, package: &str) -> bool {
        output(&mut self.command("apt-cache", &["show", "--no-all-versions", package])).is_ok()
    }

    /// `packages`, and the dependencies that are not installed on this host, in the order in which apt
    /// would install them.
    pub fn with_missing_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        // Only simulated: '-s' needs no root and changes nothing.
        let simulate = ["install", "-s", "--no-install-recommends"];
        let arguments = [&simulate[..], packages].concat();
        let plan = self.ask(|| self.command("apt-get", &arguments))?;
        let plan = String::from_utf8_lossy(&plan);
        let new = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        Ok(new.map(str::to_owned).collect())
    }

    /// Downloads `packages` and unpacks them all into the new directory `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        eprintln!("guest-images: fetching {}", summary(packages));
        let download = tempfile::tempdir().map_err(Error::system("make a temporary directory"))?;
        self.ask(|| {
            let mut command = self.command("apt-get", &["download", "-q"]);
            command.args(packages).current_dir(&download);
            command
        })?;
        fs::create_dir_all(root).map_err(Error::file("create", root))?;
        for file in files(download.path())? {
            output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(root))?;
        }
        Ok(())
    }

    /// Runs a command and returns its output. If it fails, it is run again with fresh package lists: a
    /// new container has none, so that apt knows no package, and lists older than the archive name files
    /// that no longer exist.
    fn ask(&self, command: impl Fn() -> Command) -> Result<Vec<u8>> {
        output(&mut command())
            .or_else(|error| if self.update() { output(&mut command()) } else { Err(error) })
    }

    /// Updates the package lists, if that is allowed. Returns true if they may have changed.
    fn update(&self) -> bool {
        self.may_update && output(&mut self.command("apt-get", &["update", "-q"])).is_ok()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// The address from which the host's apt gets Debian's packages; `None` if it has none.
pub fn mirror() -> Result<Option<String>> {
    let ask = ["indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let apt = Apt::host();
    let listing = apt.ask(|| apt.command("apt-get", &ask))?;
    let listing = String::from_utf8_lossy(&listing);
    // Security updates are another repository, with another label.
    Ok(listing.lines().find_map(|line| line.strip_prefix("Debian Debian ")).map(str::to_owned))
}

/// The files in one directory, sorted.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let list =
        || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut files = list().map_err(Error::file("list", directory))?;
    files.sort();
    Ok(files)
}

/// The path of `program`: in `PATH`, or in the system directories that a user's `PATH` leaves out.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

fn summary(packages: &[String]) -> String {
    match packages {
        [one] => format!("package {one}"),
        [.., last] => format!("{last} and {} packages that it needs", packages.len() - 1),
        [] => "nothing".to_owned(),
    }
}
