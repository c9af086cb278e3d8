//! The parts of a machine that exist before its devices: memory with a kernel in it, and a VM around that.
//! Both are made at once, each on a thread of its own, so that a start takes as long as the slower of
//! them, and disks are opened meanwhile.

use std::sync::{Arc, Mutex};

use executor::{Gone, Reply, spawn_thread};
use kvm_ioctls::Kvm;
use vm_memory::GuestMemoryMmap;

use crate::boot::{Entry, Kernel};
use crate::error::Error;
use crate::hypervisor::{self, Vm};
use crate::layout::{ACPI, MAX_CPUS};
use crate::machine::Config;
use crate::memory;
use crate::screen::Screen;
use executor::lock;

/// The parts that all starts of a machine share.
pub(crate) struct BootParts {
    kvm: Kvm,
    kernel: Mutex<Kernel>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) screen: Option<Arc<Screen>>,
    pub(crate) cpus: u32,
    is_stock: bool,
}

/// A start whose VM and kernel are being prepared on their threads.
pub(crate) struct PendingBoot {
    vm: Reply<Result<Vm, Error>>,
    entry: Reply<Result<Entry, Error>>,
}

impl BootParts {
    /// Opens and checks everything that `config` names, and maps guest memory.
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>, Error> {
        if !(1..=MAX_CPUS).contains(&config.cpus) {
            return Err(Error::Cpus(config.cpus));
        }
        let kvm = hypervisor::open()?;
        let kernel = Kernel::open(&config.kernel, config.initrd.as_deref(), &config.cmdline)?;
        let is_stock = kernel.is_stock();
        let memory = memory::map(config.memory)?;
        let screen = config.screen.map(Screen::new).transpose()?.map(Arc::new);
        let (kernel, cpus) = (Mutex::new(kernel), config.cpus);
        Ok(Arc::new(BootParts { kvm, kernel, memory, screen, cpus, is_stock }))
    }

    /// Returns true if the kernel may be a Linux kernel.
    pub(crate) fn is_stock_kernel(&self) -> bool {
        self.is_stock
    }

    /// Begins to load the kernel into memory, which must be zero, and to create a VM.
    pub(crate) fn begin_boot(self: &Arc<Self>) -> Result<PendingBoot, Error> {
        let (within, around) = (self.clone(), self.clone());
        let thread = Error::system("a thread");
        let entry = spawn_thread("loader", move || within.load()).map_err(&thread)?;
        let make = move || Vm::new(&around.kvm, &around.memory, around.screen.as_deref(), around.cpus);
        Ok(PendingBoot { vm: spawn_thread("maker", make).map_err(&thread)?, entry })
    }

    fn load(&self) -> Result<Entry, Error> {
        let entry =
            lock(&self.kernel).load(&self.memory, self.screen.as_ref().map(|screen| screen.size()), ACPI)?;
        entry
            .write_tables(&self.memory)
            .map_err(|e| Error::System { what: "low memory", source: std::io::Error::other(e) })?;
        Ok(entry)
    }
}

impl PendingBoot {
    /// Waits until both are ready. Returns the VM, with the kernel in its memory, and the kernel's entry
    /// point.
    pub(crate) async fn wait(self) -> Result<(Vm, Entry), Error> {
        let panicked = |Gone| Error::system("a machine's start")(std::io::Error::other("a thread panicked"));
        // Both must have ended before an error is returned, since the next reset clears the memory.
        let (vm, entry) = (self.vm.await, self.entry.await);
        Ok((vm.map_err(panicked)??, entry.map_err(panicked)??))
    }
}
