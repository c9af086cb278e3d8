//! The simulator's storage: files in memory whose delays, failures and power cuts come from a seed, and which
//! are what file systems and devices are: with sectors, of fixed size, without holes.
//!
//! It runs under [`executor::Executor::simulated`], so a whole schedule is replayable from its number. What
//! lies between bytes and blocks is the same code as for files and exports (`storage/bytes.rs`); a
//! [`SimFile`] is what the kernel is to them, and refuses what a kernel would.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;

use crate::chain::Opener;
use crate::in_use::Use;
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

mod file;
mod medium;

pub use file::SimFile;
use medium::Power;

/// What a simulated file does wrong, each drawn anew for every operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail, of 1000.
    pub read: u32,
    /// Writes that fail, of 1000; a failed write may have written any of its sectors.
    pub write: u32,
    /// Syncs that fail, of 1000.
    pub sync: u32,
    /// The length beyond which nothing can be written (`NoSpace`).
    pub limit: Option<u64>,
    /// The bytes that cannot be read: start and end.
    pub bad: Option<(u64, u64)>,
    /// The longest time that an operation takes, in microseconds. 0: none waits.
    pub delay: u64,
}

/// How ranges come from one simulated file to another without a way through the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Shared, copied or refused, as it comes.
    #[default]
    Mixed,
    /// The file system shares blocks, and takes any range of whole blocks.
    Always,
    /// It does not.
    Never,
}

/// What kind of thing a simulated file is. It holds for openings from then on.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// What offsets, lengths and memory must be multiples of, as under O_DIRECT: a power of two. 1: nothing.
    pub alignment: u64,
    /// A block device: it keeps its length and takes no byte behind it.
    pub fixed: bool,
    /// Takes space ahead of its use (fallocate).
    pub allocates: bool,
    /// Punches holes.
    pub punches: bool,
    /// Makes a range read as zeros and keeps its space.
    pub zeroes: bool,
    /// How it copies from others.
    pub sharing: Sharing,
    /// Operations of others come between what an operation does and its end.
    pub late: bool,
}

impl Default for Nature {
    fn default() -> Self {
        Nature {
            alignment: 1,
            fixed: false,
            allocates: true,
            punches: true,
            zeroes: true,
            sharing: Sharing::Mixed,
            late: false,
        }
    }
}

/// Simulated files by name: the folder that images are opened from in a simulation.
#[derive(Default)]
pub struct SimDir {
    files: RefCell<BTreeMap<String, Rc<SimFile>>>,
    nature: Cell<Nature>,
    power: Rc<Power>,
}

impl SimDir {
    /// An empty folder.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// An empty folder, whose files are of this nature.
    pub fn of(nature: Nature) -> Rc<Self> {
        Rc::new(SimDir { nature: Cell::new(nature), ..SimDir::default() })
    }

    /// Adds a file, in the place of one of the same name.
    pub fn add(&self, name: &str, content: Vec<u8>) -> Rc<SimFile> {
        let file = SimFile::powered(name, content, self.nature.get(), self.power.clone());
        self.files.borrow_mut().insert(name.to_owned(), file.clone());
        file
    }

    /// Opens a file.
    pub fn get(&self, name: &str) -> Result<Rc<SimFile>> {
        let found = self.files.borrow().get(name).map(|file| file.open());
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: no such simulated file")))
    }

    /// Cuts the power at the `n`-th change of any file from now: from there on every operation fails.
    pub fn cut_after(&self, n: u64) {
        self.power.cut_after(n);
    }

    /// All files as a power cut leaves them, in a new folder.
    pub fn after_power_cut(&self) -> Rc<Self> {
        let next = SimDir::of(self.nature.get());
        for (name, file) in &*self.files.borrow() {
            next.add(name, file.after_power_cut()).set_nature(file.nature());
        }
        next
    }
}

#[async_trait(?Send)]
impl Opener for SimDir {
    async fn open(&self, name: &str, _writable: bool) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        Ok(self.get(name)?)
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        if let Ok(old) = self.get(name) {
            Use::refuse_any(&*old)?;
        }
        match self.get(name) {
            // A device is not made, and keeps what is on it.
            Ok(device) if device.nature().fixed => Ok(device),
            _ => Ok(self.add(name, Vec::new()).open()),
        }
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
