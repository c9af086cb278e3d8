//! The simulator's storage: files in memory whose delays, failures and power cuts come from a seed. They
//! can have the properties of real file systems and devices: sectors, a fixed size, no holes.
//!
//! It runs under [`executor::Executor::simulated`], so that a whole schedule can be replayed from its
//! seed. The code between bytes and blocks is the same as for files and exports (`storage/bytes.rs`); a
//! [`SimFile`] stands in the place of the kernel, and refuses what a kernel would refuse.
//!
//! A `SimFile` has bytes, and is for correctness: errors and power cuts. A [`SimDevice`] has stamps instead,
//! so that hundreds of GiB fit into memory, and takes as long as a device would; [`SimLink`] is a way to one
//! on another host. `sim/device.rs` explains what can go wrong with them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;

use crate::storage::in_use::Use;
use crate::storage::{Opener, Storage};
use crate::{Error, ErrorKind, Result};

mod device;
mod file;
mod hosts;
mod link;
mod medium;
pub mod stamps;

pub use device::{Counts, Lies, Service, SimDevice};
pub use file::SimFile;
pub use hosts::SimHosts;
pub use link::{Line, SimLink, Traffic};
use medium::Power;
pub use stamps::Stamp;

/// The faults of a simulated file, each drawn anew for every operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail, out of 1000.
    pub read: u32,
    /// Writes that fail, out of 1000; a failed write may have written some of its first sectors.
    pub write: u32,
    /// Syncs that fail, out of 1000.
    pub sync: u32,
    /// The length in bytes beyond which nothing can be written (`NoSpace`).
    pub limit: Option<u64>,
    /// The range of bytes that cannot be read: start and end.
    pub bad: Option<(u64, u64)>,
    /// The upper limit of an operation's delay, in microseconds; with 0, no operation waits.
    pub delay: u64,
    /// The bytes that can be written each second, as of a device that does one write after the other; 0 for
    /// no limit.
    pub rate: u64,
}

/// The way in which ranges are copied between simulated files, without passing through the caller's
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Shares, copies or refuses, at random.
    #[default]
    Mixed,
    /// The file system shares blocks, and takes any range of whole blocks.
    Always,
    /// The file system never shares blocks.
    Never,
}

/// The properties of a simulated file. They hold for openings from then on.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// The alignment of offsets, lengths and memory in bytes, as under O_DIRECT: a power of two, 1 for
    /// none.
    pub alignment: u64,
    /// True for a block device, which keeps its length and takes no byte past it.
    pub fixed: bool,
    /// True if it can allocate space ahead of its use (fallocate).
    pub allocates: bool,
    /// True if it can punch holes.
    pub punches: bool,
    /// True if it can make a range read as zeros and keep its space.
    pub zeroes: bool,
    /// The way in which it copies from others.
    pub sharing: Sharing,
    /// True if operations of others can come between an operation's effect and its end.
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

    /// An empty folder, whose files have these properties.
    pub fn of(nature: Nature) -> Rc<Self> {
        Rc::new(SimDir { nature: Cell::new(nature), ..SimDir::default() })
    }

    /// Adds a file. It replaces one of the same name.
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

    /// Cuts the power at the `n`-th change of any file from now on: every operation fails from then on.
    pub fn cut_after(&self, n: u64) {
        self.power.cut_after(n);
    }

    /// Returns a new folder with all files as a power cut would leave them.
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
        let file = self.get(name)?;
        file.check_there()?;
        Ok(file)
    }

    async fn create(&self, name: &str) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        if let Ok(old) = self.get(name) {
            Use::refuse_any(&*old)?;
        }
        match self.get(name) {
            // A device is not created anew, and keeps its content.
            Ok(device) if device.nature().fixed => Ok(device),
            _ => Ok(self.add(name, Vec::new()).open()),
        }
    }

    async fn open_record(&self, name: &str, new: bool) -> Result<Rc<dyn Storage>> {
        executor::yield_now().await;
        match (self.get(name), new) {
            (Ok(_), true) => Err(Error::new(ErrorKind::Invalid, format!("{name}: File exists"))),
            (_, true) => {
                let file = self.add(name, Vec::new());
                // As in a page cache.
                file.set_nature(Nature { alignment: 1, ..file.nature() });
                Ok(file.open())
            }
            (found, false) => Ok(found?),
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        executor::yield_now().await;
        self.get(name)?;
        self.files.borrow_mut().remove(name);
        Ok(())
    }
}

/// A bug that a test plants, to see that it is found.
#[cfg(test)]
pub(crate) mod planted {
    use std::cell::Cell;

    thread_local! {
        static FORGETS: Cell<u64> = const { Cell::new(0) };
    }

    /// The bug is there while it lives.
    pub(crate) struct Planted;

    impl Drop for Planted {
        fn drop(&mut self) {
            FORGETS.set(0);
        }
    }

    /// Has a mirror in the background forget the bit of a write, this often out of 1000.
    pub(crate) fn forget_bits(per_mille: u64) -> Planted {
        FORGETS.set(per_mille);
        Planted
    }

    /// Returns true if this write's bit is forgotten.
    pub(crate) fn forgets() -> bool {
        FORGETS.get() > 0 && executor::random() % 1000 < FORGETS.get()
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
