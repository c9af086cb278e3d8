//! A file system under load: writes, flushes, renames and deletes files, and checks every byte of them.
//!
//! A file's name, `SEED-NUMBER-LENGTH`, determines its content, so any agent can check it. A file is
//! renamed to that name after its content is flushed; until then it is called `new`.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use guest_agent::pattern::mix;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::init;
use crate::jobs::{Job, Kind, lock};

const NEW: &str = "new";

/// A device's file system, and the files that must be in it.
pub struct FileSystem {
    device: String,
    mount_point: PathBuf,
    /// Files that were given their names and not deleted since; `None` if another boot wrote them.
    expected: Mutex<Option<BTreeSet<String>>>,
}

impl FileSystem {
    pub fn new(device: &str) -> Self {
        let name = device.trim_start_matches('/').replace('/', "-");
        FileSystem {
            device: device.to_owned(),
            mount_point: Path::new("/mnt").join(name),
            expected: Mutex::new(None),
        }
    }

    /// Makes an empty file system and mounts it.
    pub fn make(&self) -> Result<(), String> {
        self.unmount()?;
        // Discarding first would test discards instead of writes.
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", &self.device])?;
        *lock(&self.expected) = Some(BTreeSet::new());
        self.mount()
    }

    /// Writes files of up to `size` bytes until stopped, and keeps the last `keep` of them.
    pub fn load(&self, job: &Job, seed: u64, keep: usize, size: u64) -> Result<(), String> {
        let mut kept = VecDeque::new();
        let mut number = 0;
        while !job.should_stop() {
            number += 1;
            let length = mix(seed ^ mix(number)) % size.max(1) + 1;
            let name = format!("{seed}-{number}-{length}");
            let started = Instant::now();
            self.write(&name).map_err(|error| format!("{name}: {error}"))?;
            lock(&self.expected).get_or_insert_default().insert(name.clone());
            job.record(Kind::Write, length, started);
            kept.push_back(name);
            if kept.len() > keep
                && let Some(oldest) = kept.pop_front()
            {
                lock(&self.expected).get_or_insert_default().remove(&oldest);
                fs::remove_file(self.mount_point.join(&oldest))
                    .map_err(|error| format!("{oldest}: {error}"))?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str) -> io::Result<()> {
        let new = self.mount_point.join(NEW);
        let mut file = File::create(&new)?;
        file.write_all(&content(name).ok_or(io::ErrorKind::InvalidInput)?)?;
        file.sync_all()?;
        fs::rename(new, self.mount_point.join(name))
    }

    /// Unmounts the file system, checks it, mounts it again and reads every file. Returns the number of
    /// files.
    pub fn verify(&self) -> Result<usize, String> {
        if lock(&self.expected).is_none() {
            // After a crash, mounting replays the journal; only then is there something to check.
            self.mount()?;
        }
        self.unmount()?;
        run("e2fsck", &["-fn", &self.device])?;
        self.mount()?;
        let mut missing = lock(&self.expected).clone();
        let mut count = 0;
        let list = fs::read_dir(&self.mount_point).map_err(|error| error.to_string())?;
        for entry in list {
            let name = entry.map_err(|error| error.to_string())?.file_name().to_string_lossy().into_owned();
            if name == NEW || name == "lost+found" {
                continue;
            }
            self.check(&name)?;
            count += 1;
            if let Some(missing) = &mut missing
                && !missing.remove(&name)
            {
                return Err(format!("{name} should not be there"));
            }
        }
        match missing.unwrap_or_default().first() {
            Some(name) => Err(format!("{name} is lost")),
            None => Ok(count),
        }
    }

    fn check(&self, name: &str) -> Result<(), String> {
        let expected = content(name).ok_or_else(|| format!("{name} is not a file of this test"))?;
        let mut found = Vec::new();
        let read = File::open(self.mount_point.join(name)).and_then(|mut file| file.read_to_end(&mut found));
        read.map_err(|error| format!("{name}: {error}"))?;
        let wrong = expected.iter().zip(&found).position(|(expected, found)| expected != found);
        match wrong {
            Some(position) => Err(format!("{name} is wrong from byte {position}")),
            None if expected.len() != found.len() => Err(format!("{name} has {} bytes", found.len())),
            None => Ok(()),
        }
    }

    fn mount(&self) -> Result<(), String> {
        init::mount(&self.device, &self.mount_point, "ext4", MountFlags::empty(), c"")
    }

    /// Unmounts the file system if it is mounted.
    pub fn unmount(&self) -> Result<(), String> {
        use rustix::io::Errno;
        match rustix::mount::unmount(&self.mount_point, UnmountFlags::empty()) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(error) => Err(format!("unmount {}: {error}", self.device)),
        }
    }
}

/// The content of the file `name`; `None` if the name does not have the form `SEED-NUMBER-LENGTH`.
fn content(name: &str) -> Option<Vec<u8>> {
    let mut numbers = name.split('-').map(str::parse::<u64>);
    let (seed, number, length) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    let length = usize::try_from(length).ok().filter(|&length| length <= 64 << 20)?;
    let mut state = mix(seed ^ mix(number));
    let words = std::iter::repeat_with(|| {
        state = mix(state);
        state.to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    Some(bytes)
}

/// Runs a tool. If it fails, the error holds everything that it printed.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let command = Command::new(program).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    let output = command.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    Err(format!("{program}: {}: {text}", output.status))
}
