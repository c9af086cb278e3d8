//! What a machine stands on before it has a device: memory with a kernel in it, and a VM around that. Both are made
//! at once, each on a worker, so that a start takes as long as the longer one, and disks are opened meanwhile.

use std::sync::{Arc, Mutex};

use executor::{JoinHandle, spawn, unblock};
use kvm_ioctls::Kvm;
use vm_memory::GuestMemoryMmap;

use crate::boot::{Entry, Kernel};
use crate::error::Error;
use crate::hypervisor::{self, Vm};
use crate::layout::{ACPI, MAX_CPUS};
use crate::machine::Config;
use crate::memory;
use crate::notice::lock;

/// What every start of a machine is made from.
pub(crate) struct Foundation {
    kvm: Kvm,
    kernel: Mutex<Kernel>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) cpus: u32,
}

/// One start, in the making.
pub(crate) struct Rising {
    vm: JoinHandle<Result<Vm, Error>>,
    entry: JoinHandle<Result<Entry, Error>>,
}

impl Foundation {
    /// Opens and checks everything that `config` names.
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>, Error> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(Error::Cpus(config.cpus));
        }
        let kvm = hypervisor::open()?;
        let kernel = Kernel::open(&config.kernel, config.initrd.as_deref(), &config.cmdline)?;
        let memory = memory::map(config.memory)?;
        Ok(Arc::new(Foundation { kvm, kernel: Mutex::new(kernel), memory, cpus: config.cpus }))
    }

    /// Begins to load into zeroed memory, and to make a VM. Called in a task of the main loop.
    pub(crate) fn rise(self: &Arc<Self>) -> Rising {
        let (around, within) = (self.clone(), self.clone());
        Rising {
            vm: spawn(unblock(move || Vm::new(&around.kvm, &around.memory, around.cpus))),
            entry: spawn(unblock(move || within.load())),
        }
    }

    fn load(&self) -> Result<Entry, Error> {
        let entry = lock(&self.kernel).load(&self.memory, ACPI)?;
        entry
            .write_tables(&self.memory)
            .map_err(|e| Error::System { what: "low memory", source: std::io::Error::other(e) })?;
        Ok(entry)
    }
}

impl Rising {
    /// The VM, in whose memory the kernel lies, and how it is entered.
    pub(crate) async fn risen(self) -> Result<(Vm, Entry), Error> {
        const UNCANCELLED: &str = "nobody cancels these tasks";
        let vm = self.vm.await.expect(UNCANCELLED)?;
        Ok((vm, self.entry.await.expect(UNCANCELLED)?))
    }
}
